// tova: Token Omission Via Attention (arXiv 2401.06104) keeps what the last query attends to, one choice for all heads
// of a layer, beside the first and the latest tokens: where a question ends the part, its words are lost without them.
// While decoding, each step evicts what its own query attends to least. The paper protects nothing (sinks=0 recent=0).
#include "base/error.h"
#include "policy/policies.h"

namespace purekv {
namespace {

class Tova : public SinksAndRecentPolicy {
 public:
  using SinksAndRecentPolicy::SinksAndRecentPolicy;

  Observer Observes(int64_t, int64_t) const override { return {.kind = Observer::Kind::kColumnSums, .window = 1}; }

  // The mean over all heads of the layer, which hold the same tokens: one list of scores serves them all.
  std::vector<Scores> Score(const LayerEntries& entries, const Observation& observed) const override {
    std::vector<double> mean(static_cast<size_t>(entries.length(0)), 0.0);
    for (int64_t g = 0; g < entries.kv_heads(); ++g) {
      const auto plane = observed.sums->Plane(0, g);
      PUREKV_CHECK(plane.size() == mean.size(), plane.size(), " entries beside ", mean.size());
      for (size_t j = 0; j < mean.size(); ++j) mean[j] += plane[j] / static_cast<double>(entries.heads);
    }
    return {Scores(entries.kv.size(), mean)};
  }
};

}  // namespace

PolicyInfo TovaPolicy() {
  PolicyInfo info;
  info.name = "tova";
  info.summary = "keeps what the last query attends to, one choice for all heads of a layer";
  info.paper = "TOVA, arXiv 2401.06104";
  info.options = SinksAndRecentPolicy::Options();
  info.holds = true;
  info.make = [](const OptionValues& values, const PolicyContext&) { return std::make_unique<const Tova>(values); };
  return info;
}

}  // namespace purekv
