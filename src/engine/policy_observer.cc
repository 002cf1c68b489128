#include "engine/policy_observer.h"

#include "engine/column_sums.h"

namespace purekv {

LayerWants PolicyObserver::Wants(int64_t layer) const {
  if (layer >= config_.layers) return {};
  const Observer observer = sequence_.compression().observations().Request(layer);
  return {.input = false,
          .queries = observer.queries_every > 0,
          .rotated = sequence_.compression().WantsRotated(layer),
          .attended = observer.kind == Observer::Kind::kColumnSums,
          .last = observer.few() ? observer.window : 0};
}

void PolicyObserver::Queries(int64_t layer, std::span<const int32_t> tokens, MatrixView<const float> q) {
  sequence_.compression().observations().AddQueries(layer, tokens, q);
}

void PolicyObserver::Rotated(int64_t layer, std::span<const int32_t> /*tokens*/, MatrixView<const float> q) {
  sequence_.compression().AddRotated(layer, q);
}

void PolicyObserver::Attended(const AttendedRows& rows) {
  Observations& observations = sequence_.compression().observations();
  const RowRange range = observations.SumRows(rows.layer, rows.tokens);
  AddObserved(rows, range, observations, sequence_.layout(), config_, sequence_.cache(), workspace_);
}

}  // namespace purekv
