// vnorm: values of large norm stay, the value-norm score of InfiniPot-V (arXiv 2506.15745) alone. Needs no attention
// scores.
#include "policy/policies.h"
#include "policy/scores.h"

namespace purekv {
namespace {

class Vnorm : public SinksAndRecentPolicy {
 public:
  using SinksAndRecentPolicy::SinksAndRecentPolicy;

  std::vector<Scores> Score(const LayerEntries& entries, const Observation&) const override {
    return {ValueNorms(entries)};
  }
};

}  // namespace

PolicyInfo VnormPolicy() {
  PolicyInfo info;
  info.name = "vnorm";
  info.summary = "keeps the values of largest norm";
  info.paper = "value norm of InfiniPot-V, arXiv 2506.15745";
  info.cost = {"norms of values: N d", "nothing"};
  info.options = SinksAndRecentPolicy::Options();
  info.ada = info.mass = true;
  info.make = [](const OptionValues& values, const PolicyContext&) { return std::make_unique<const Vnorm>(values); };
  return info;
}

}  // namespace purekv
