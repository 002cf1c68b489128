#include "engine/policy_observer.h"

#include <vector>

#include "engine/column_sums.h"

namespace purekv {

LayerWants PolicyObserver::Wants(int64_t layer) const {
  if (layer >= config_.layers) return {};
  const Observer::Kind kind = sequence_.compression().observations().Request(layer).kind;
  return {.input = false, .queries = kind == Observer::Kind::kQueries, .attended = kind == Observer::Kind::kColumnSums};
}

void PolicyObserver::Queries(int64_t layer, std::span<const int32_t> tokens, MatrixView<const float> q) {
  sequence_.compression().observations().AddQueries(layer, tokens, q);
}

void PolicyObserver::Attended(const AttendedRows& rows) {
  const RowRange range = sequence_.compression().observations().SumRows(rows.layer, rows.tokens);
  if (range.count == 0) return;
  const auto queries = rows.tokens.subspan(static_cast<size_t>(range.first), static_cast<size_t>(range.count));
  const Observer observer = sequence_.compression().observations().Request(rows.layer);
  AttentionSums& into = sequence_.compression().observations().AnnounceSums(rows.layer, queries, sequence_.cache());
  std::vector<double*> sums;
  for (int64_t plane = 0; plane < observer.planes(); ++plane) {
    for (int64_t head = 0; head < config_.kv_heads; ++head) sums.push_back(into.Plane(plane, head).data());
  }
  AddColumnSums(rows, range, observer, sequence_.layout(), config_, sums, workspace_);
}

}  // namespace purekv
