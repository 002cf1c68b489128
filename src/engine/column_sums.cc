#include "engine/column_sums.h"

#include <vector>

#include "attention/observer.h"

namespace purekv {

void AddColumnSums(const AttendedRows& block, const RowRange& range, const Observer& observer,
                   std::span<const TokenRecord> layout, const DecoderConfig& config, std::span<double* const> sums,
                   AttentionWorkspace* workspace) {
  const MatrixView<const float> lse = block.lse.Rows(range.first, range.count);
  std::vector<std::vector<float>> planes;
  if (observer.weighted()) {
    TokenLayout rows;
    for (const int32_t token :
         block.tokens.subspan(static_cast<size_t>(range.first), static_cast<size_t>(range.count))) {
      rows.push_back(layout[static_cast<size_t>(token)]);
    }
    planes = QueryWeights(observer, rows, lse);
  }
  std::vector<const float*> weights;
  for (const auto& plane : planes) weights.push_back(plane.data());
  // Rows behind the range have keys in the cache already: the range's own keys are the last ones without them.
  std::vector<KvHeadView> kv(block.kv.begin(), block.kv.end());
  for (KvHeadView& head : kv) head.length -= block.q.rows - range.first - range.count;
  ColumnSumsArgs args;
  args.q = block.q.Rows(range.first, range.count);
  args.kv = kv;
  args.heads = config.heads;
  args.head_dim = config.head_dim;
  args.scale = block.scale;
  args.lse = lse.data;
  args.weights = weights;
  args.squares = observer.squares;
  args.sums = sums;
  args.workspace = workspace;
  ColumnSums(args);
}

void AddObserved(const AttendedRows& block, const RowRange& range, Observations& observations,
                 std::span<const TokenRecord> layout, const DecoderConfig& config, const KvCache& cache,
                 AttentionWorkspace* workspace) {
  const Observer observer = observations.Request(block.layer);
  const int64_t planes = observer.WithoutTail().planes();
  if (range.count > 0) {
    const auto queries = block.tokens.subspan(static_cast<size_t>(range.first), static_cast<size_t>(range.count));
    AttentionSums& sums = observations.AnnounceSums(block.layer, queries, cache);
    AddColumnSums(block, range, observer.WithoutTail(), layout, config, sums.Lists(0, planes), workspace);
  }
  const RowRange tail = observations.TailRows(block.layer, block.tokens);
  if (tail.count > 0) {
    AddColumnSums(block, tail, observer.OfTail(), layout, config, observations.SumsOf(block.layer).Lists(planes, 1),
                  workspace);
  }
}

}  // namespace purekv
