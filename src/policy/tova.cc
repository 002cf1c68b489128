// tova: Token Omission Via Attention (arXiv 2401.06104) keeps what the last query attends to, one choice for all heads
// of a layer, beside the first and the latest tokens: where a question ends the part, its words are lost without them.
// While decoding, each step evicts what its own query attends to least. The paper protects nothing (sinks=0 recent=0).
#include "policy/policies.h"
#include "policy/scores.h"

namespace purekv {
namespace {

class Tova : public SinksAndRecentPolicy {
 public:
  using SinksAndRecentPolicy::SinksAndRecentPolicy;

  Observer Observes(int64_t, int64_t) const override { return {.kind = Observer::Kind::kColumnSums, .window = 1}; }

  std::vector<Scores> Score(const LayerEntries& entries, const Observation& observed) const override {
    return {LayerMean(entries, *observed.sums)};
  }
};

}  // namespace

PolicyInfo TovaPolicy() {
  PolicyInfo info;
  info.name = "tova";
  info.summary = "keeps what the last query attends to, one choice for all heads of a layer";
  info.paper = "TOVA, arXiv 2401.06104";
  info.cost = {"probabilities of the last query: N d",
               "the probabilities of its row once more (n d); one entry of every head goes"};
  info.options = SinksAndRecentPolicy::Options();
  info.one_set = info.holds = true;
  info.make = [](const OptionValues& values, const PolicyContext&) { return std::make_unique<const Tova>(values); };
  return info;
}

}  // namespace purekv
