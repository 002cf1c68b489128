#include "engine/policy_observer.h"

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
  Observations& observations = sequence_.compression().observations();
  const RowRange range = observations.SumRows(rows.layer, rows.tokens);
  if (range.count == 0) return;
  const auto queries = rows.tokens.subspan(static_cast<size_t>(range.first), static_cast<size_t>(range.count));
  AddColumnSums(rows, range, observations.Request(rows.layer), sequence_.layout(), config_,
                observations.AnnounceSums(rows.layer, queries, sequence_.cache()).Lists(), workspace_);
}

}  // namespace purekv
