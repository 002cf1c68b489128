// uniform: evenly spaced tokens. On video a strong baseline: it is a lower frame rate.
#include <algorithm>

#include "policy/policies.h"
#include "policy/selector.h"

namespace purekv {
namespace {

class Uniform : public SinksAndRecentPolicy {
 public:
  using SinksAndRecentPolicy::SinksAndRecentPolicy;

  std::vector<Scores> Score(const LayerEntries&, const Observation&) const override { return {}; }

  // Of n unprotected entries, the m of rank floor((k + 0.5) n / m).
  KeptEntries Select(const LayerEntries& entries, const std::vector<Scores>&, const Quota& quota) const override {
    KeptEntries kept(entries.kv.size());
    for (size_t head = 0; head < kept.size(); ++head) {
      const auto rest = TakeProtected(entries.kv[head].length, Protects(entries.base), kept[head]);
      const auto n = static_cast<int64_t>(rest.size());
      const int64_t m = std::min(n, quota.counts[head] - static_cast<int64_t>(kept[head].size()));
      for (int64_t k = 0; k < m; ++k) kept[head].push_back(rest[static_cast<size_t>((2 * k + 1) * n / (2 * m))]);
      std::sort(kept[head].begin(), kept[head].end());
    }
    return kept;
  }
};

}  // namespace

PolicyInfo UniformPolicy() {
  PolicyInfo info;
  info.name = "uniform";
  info.summary = "keeps evenly spaced tokens";
  info.cost = {"a selection by rank", "nothing"};
  info.options = SinksAndRecentPolicy::Options();
  info.make = [](const OptionValues& values, const PolicyContext&) { return std::make_unique<const Uniform>(values); };
  return info;
}

}  // namespace purekv
