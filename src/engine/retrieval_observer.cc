#include "engine/retrieval_observer.h"

#include <algorithm>
#include <vector>

#include "attention/observer.h"
#include "base/error.h"

namespace purekv {
namespace {

// The largest probability that the row's query heads give each entry of a KV head. [kv_heads][length]
std::vector<std::vector<float>> Maxima(const DecoderConfig& config, MatrixView<const float> q,
                                       std::span<const KvHeadView> kv, const float* lse, float scale,
                                       AttentionWorkspace* workspace) {
  std::vector<std::vector<double>> largest;
  std::vector<double*> lists;
  lists.reserve(kv.size());
  for (const KvHeadView& head : kv) largest.emplace_back(static_cast<size_t>(head.length), 0.0);
  for (auto& list : largest) lists.push_back(list.data());
  ColumnMaxima({.q = q,
                .kv = kv,
                .heads = config.heads,
                .head_dim = config.head_dim,
                .scale = scale,
                .causal = false,
                .lse = lse,
                .weights = {},
                .squares = false,
                .sums = lists,
                .workspace = workspace});
  std::vector<std::vector<float>> floats;
  floats.reserve(largest.size());
  for (const auto& list : largest) floats.emplace_back(list.begin(), list.end());
  return floats;
}

// What a step reads of a layer at once must fit into what may be in memory of a file.
void CheckResident(const Sequence& sequence) {
  const StoreOptions& store = sequence.compression().store();
  const Retrieval& retrieval = sequence.compression().retrieval();
  if (store.kind != StoreOptions::Kind::kFile || !retrieval.active()) return;
  const KvCache& cache = sequence.cache();
  const int64_t resident = store.resident.value_or(kResidentBytes);
  for (int64_t layer = 0; layer < cache.spec().layers(); ++layer) {
    if (!retrieval.LooksUp(layer)) continue;
    double bytes = 0;
    for (int64_t head = 0; head < cache.spec()[layer].kv_heads; ++head) {
      const auto length = static_cast<double>(cache.Length(layer, head));
      const auto most = static_cast<double>(retrieval.Most(layer, head));
      const double share = most < 0 ? 0 : std::min(1.0, most * retrieval.blocks_each() / std::max(1.0, length));
      bytes += BytesOf(cache.Head(layer, head)) * share;
    }
    if (bytes <= static_cast<double>(resident)) continue;
    FailUsage(Field{"kv.store.resident"}, " ", resident, ": a step reads ", static_cast<int64_t>(bytes),
              " bytes of layer ", layer, " at once, which must fit");
  }
}

}  // namespace

LayerWants RetrievalObserver::Wants(int64_t layer) const {
  if (layer >= config_.layers) return {};
  const Retrieval& retrieval = sequence_.compression().retrieval();
  const int64_t rows = retrieval.ProbabilityRows(layer);
  return {
      .input = false, .queries = retrieval.WantsQueries(layer), .rotated = false, .attended = rows > 0, .last = rows};
}

void RetrievalObserver::Queries(int64_t layer, std::span<const int32_t> tokens, MatrixView<const float> q) {
  sequence_.compression().retrieval().AddQueries(layer, tokens, q);
}

void RetrievalObserver::Attended(const AttendedRows& rows) {
  if (!ranges_.empty()) return AttendedToSome(rows);
  Retrieval& retrieval = sequence_.compression().retrieval();
  const int64_t last = retrieval.ProbabilityRows(rows.layer);
  for (int64_t row = 0; row < rows.q.rows; ++row) {
    const int32_t token = rows.tokens[static_cast<size_t>(row)];
    if (token < retrieval.end_token() - last) continue;
    if (retrieval.in_part()) {  // what becomes of its entries is not known yet
      retrieval.KeepRow(rows.layer, token, {rows.q.Row(row), static_cast<size_t>(rows.q.cols)},
                        {rows.lse.Row(row), static_cast<size_t>(rows.lse.cols)});
      continue;
    }
    std::vector<KvHeadView> seen(rows.kv.begin(), rows.kv.end());
    for (KvHeadView& head : seen) head.length -= rows.q.rows - 1 - row;
    retrieval.AddProbabilities(rows.layer,
                               Maxima(config_, rows.q.Rows(row, 1), seen, rows.lse.Row(row), rows.scale, workspace_));
  }
}

void RetrievalObserver::AttendedToSome(const AttendedRows& row) {
  Retrieval& retrieval = sequence_.compression().retrieval();
  const std::vector<KvHeadView> all = sequence_.cache().Heads(row.layer);
  if (retrieval.WantsAll(row.layer)) {
    // The output stays that of the entries that were chosen.
    retrieval.CountRefresh(all);
    Matrix<float> out(1, row.q.cols), lse(1, config_.heads);
    Attention({.q = row.q,
               .kv = all,
               .heads = config_.heads,
               .head_dim = config_.head_dim,
               .scale = row.scale,
               .causal = false,
               .window = 0,
               .out = {out.data(), Dtype::kF32, 1, row.q.cols, row.q.cols},
               .lse = lse.data(),
               .workspace = workspace_});
    retrieval.AddProbabilities(row.layer, Maxima(config_, row.q, all, lse.data(), row.scale, workspace_));
    return;
  }
  const auto of_chosen = Maxima(config_, row.q, row.kv, row.lse.Row(0), row.scale, workspace_);
  std::vector<std::vector<float>> of_all;
  for (size_t head = 0; head < all.size(); ++head) {
    auto& list = of_all.emplace_back(static_cast<size_t>(all[head].length), 0.0F);
    auto from = of_chosen[head].begin();
    for (const EntryRange& range : ranges_[head]) {
      std::copy_n(from, range.end - range.begin, list.begin() + range.begin);
      from += range.end - range.begin;
    }
  }
  retrieval.AddProbabilities(row.layer, of_all);
}

void EndPart(const DecoderConfig& config, Sequence& sequence, AttentionWorkspace* workspace) {
  Retrieval& retrieval = sequence.compression().retrieval();
  const KvCache& cache = sequence.cache();
  sequence.Store(cache.spec().layers() - 1);  // what waited for the second reading of the part
  retrieval.EndPart(cache, sequence.tokens());
  CheckResident(sequence);
  for (int64_t layer = 0; layer < cache.spec().layers(); ++layer) {
    if (retrieval.ProbabilityRows(layer) == 0) continue;
    const PartRows& rows = retrieval.KeptRows(layer);
    for (size_t row = 0; row < rows.tokens.size(); ++row) {
      std::vector<KvHeadView> seen = cache.Heads(layer);
      for (size_t head = 0; head < seen.size(); ++head) {
        const auto tokens = cache.EntryTokens(layer, static_cast<int64_t>(head));
        seen[head].length = std::upper_bound(tokens.begin(), tokens.end(), rows.tokens[row]) - tokens.begin();
      }
      const auto width = static_cast<int64_t>(rows.q[row].size());
      retrieval.AddProbabilities(layer, Maxima(config, {rows.q[row].data(), 1, width, width}, seen,
                                               rows.lse[row].data(), config.score_scale(), workspace));
    }
  }
  retrieval.ForgetRows();
}

}  // namespace purekv
