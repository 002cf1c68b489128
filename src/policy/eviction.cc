#include "policy/eviction.h"

#include <numeric>
#include <utility>

#include "policy/scores.h"

namespace purekv {

Quota QuotaOf(const PolicySetup& setup, std::vector<int64_t> counts, int64_t base) {
  Quota quota;
  quota.counts = std::move(counts);
  if (setup.allocator == "ada") {
    quota.shared = true;
    quota.least = FloorShare(setup.alpha, base);
  }
  return quota;
}

bool FitsQuota(const LayerEntries& entries, const Quota& quota) {
  int64_t most = 0, lengths = 0;
  bool each = true;
  for (size_t head = 0; head < entries.kv.size(); ++head) {
    each = each && entries.kv[head].length <= quota.counts[head];
    lengths += entries.kv[head].length;
    most += quota.counts[head];
  }
  return quota.shared ? lengths <= most : each;
}

std::vector<Scores> ScoresOf(const PolicySetup& setup, const LayerEntries& entries, const Observation& observed) {
  std::vector<Scores> planes = setup.policy->Score(entries, observed);
  CheckScores(setup.info->name, entries, planes);
  return planes;
}

std::vector<int32_t> AllBut(int64_t length, int64_t entry) {
  std::vector<int32_t> kept(static_cast<size_t>(length));
  std::iota(kept.begin(), kept.end(), 0);
  kept.erase(kept.begin() + entry);
  return kept;
}

}  // namespace purekv
