// keydiff: KeyDiff (arXiv 2504.15364) keeps the keys that point away from the mean direction of all keys. Needs no
// attention scores.
#include "policy/policies.h"
#include "policy/scores.h"

namespace purekv {
namespace {

class Keydiff : public SinksAndRecentPolicy {
 public:
  using SinksAndRecentPolicy::SinksAndRecentPolicy;

  std::vector<Scores> Score(const LayerEntries& entries, const Observation&) const override {
    return {KeyDifference(entries)};
  }
};

}  // namespace

PolicyInfo KeydiffPolicy() {
  PolicyInfo info;
  info.name = "keydiff";
  info.summary = "keeps the keys that differ most from the mean key";
  info.paper = "KeyDiff, arXiv 2504.15364";
  info.cost = {"two readings of the keys: N d", "nothing"};
  info.options = SinksAndRecentPolicy::Options();
  info.ada = true;
  info.make = [](const OptionValues& values, const PolicyContext&) { return std::make_unique<const Keydiff>(values); };
  return info;
}

}  // namespace purekv
