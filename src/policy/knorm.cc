// knorm: keys of small norm draw attention (arXiv 2406.11430), so those stay. Needs no attention scores.
#include "policy/policies.h"
#include "policy/scores.h"

namespace purekv {
namespace {

class Knorm : public SinksAndRecentPolicy {
 public:
  using SinksAndRecentPolicy::SinksAndRecentPolicy;

  std::vector<Scores> Score(const LayerEntries& entries, const Observation&) const override {
    Scores scores = KeyNorms(entries);
    for (auto& head : scores) {
      for (double& score : head) score = -score;
    }
    return {scores};
  }
};

}  // namespace

PolicyInfo KnormPolicy() {
  PolicyInfo info;
  info.name = "knorm";
  info.summary = "keeps the keys of smallest norm";
  info.paper = "L2-norm strategy, arXiv 2406.11430";
  info.cost = {"norms of keys: N d", "nothing"};
  info.options = SinksAndRecentPolicy::Options();
  info.ada = true;
  info.make = [](const OptionValues& values, const PolicyContext&) { return std::make_unique<const Knorm>(values); };
  return info;
}

}  // namespace purekv
