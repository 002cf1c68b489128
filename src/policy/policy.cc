#include "policy/policy.h"

#include <algorithm>

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

std::vector<MergedEntry> Policy::Merges(const LayerEntries&, const std::vector<Scores>&, int64_t, int64_t) const {
  return {};
}

int32_t Policy::Evicts(const LayerEntries& entries, const std::vector<Scores>& planes, int64_t head, int64_t) const {
  return LowestEntry(planes[0][static_cast<size_t>(head)], Protects(entries.base));
}

int64_t CompressedBehind(const Policy& policy, const KvCacheSpec& spec, int64_t layer) {
  return std::max(spec.last_attending(layer), spec.last_attending(policy.SumsFrom(layer)));
}

Scores Policy::Masses(const LayerEntries&, const std::vector<Scores>& planes) const {
  return planes[0];
}

}  // namespace purekv
