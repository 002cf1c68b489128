// random: the baseline that knows nothing.
#include "policy/policies.h"

namespace purekv {
namespace {

// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every bit of x reaches every bit of the result.
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

class Random : public SinksAndRecentPolicy {
 public:
  explicit Random(const OptionValues& values)
      : SinksAndRecentPolicy(values), seed_(static_cast<uint64_t>(values.Integer("seed"))) {}

  // Mix(Mix(Mix(Mix(seed) + layer) + head) + token), its top 53 bits: the same on every machine.
  std::vector<Scores> Score(const LayerEntries& entries, const Observation&) const override {
    Scores scores(entries.kv.size());
    for (size_t head = 0; head < scores.size(); ++head) {
      const uint64_t stream = Mix(Mix(Mix(seed_) + static_cast<uint64_t>(entries.layer)) + head);
      for (const int32_t token : entries.tokens[head]) {
        scores[head].push_back(static_cast<double>(Mix(stream + static_cast<uint64_t>(token)) >> 11));
      }
    }
    return {scores};
  }

 private:
  uint64_t seed_;
};

}  // namespace

PolicyInfo RandomPolicy() {
  PolicyInfo info;
  info.name = "random";
  info.summary = "keeps a random choice, the same for the same seed";
  info.cost = {"a number per entry and a selection", "nothing"};
  info.options = SinksAndRecentPolicy::Options();
  info.chooses = true;
  info.options.insert(info.options.begin(), IntegerOption("seed", 0, 0, 4'294'967'295));
  info.make = [](const OptionValues& values, const PolicyContext&) { return std::make_unique<const Random>(values); };
  return info;
}

}  // namespace purekv
