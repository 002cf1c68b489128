#include "policy/policy.h"

#include "base/error.h"
#include "policy/selector.h"

namespace purekv {

Observer Policy::Observes(int64_t, int64_t) const {
  return {};
}

std::vector<Ranking> Policy::DropRankings(const LayerEntries&, const Observation&, const Scores& scores) const {
  return {{1, scores}};
}

KeptEntries Policy::Select(const LayerEntries& entries, const std::vector<Scores>& planes, const Quota& quota) const {
  PUREKV_CHECK(planes.size() == 1, planes.size(), " planes of scores");
  return SelectTop(planes[0], entries.tokens, ProtectsOf(entries), quota);
}

}  // namespace purekv
