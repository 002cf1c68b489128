// h2o: Heavy-Hitter Oracle (arXiv 2306.14048) keeps what all queries so far have attended to most, and the latest
// tokens. While decoding, each step adds its row and evicts the lowest.
#include "policy/policies.h"
#include "policy/scores.h"

namespace purekv {
namespace {

class H2o : public Policy {
 public:
  explicit H2o(const OptionValues& values) : recent_ratio_(values.Real("recent_ratio")) {}

  Observer Observes(int64_t, int64_t) const override { return {.kind = Observer::Kind::kColumnSums}; }

  Protection Protects(int64_t base) const override {
    return CappedProtection(0, FloorShare(recent_ratio_, base), base);
  }

  std::vector<Scores> Score(const LayerEntries& entries, const Observation& observed) const override {
    return {GroupMean(entries, *observed.sums, 0)};
  }

 private:
  double recent_ratio_;
};

}  // namespace

PolicyInfo H2oPolicy() {
  PolicyInfo info;
  info.name = "h2o";
  info.summary = "keeps the tokens with the most attention from all queries, and the latest";
  info.paper = "H2O, arXiv 2306.14048";
  info.cost = {"probabilities of all queries: a second pass over Q K^T",
               "the probabilities of its row once more (n d); one entry of every head goes"};
  info.options = {RealOption("recent_ratio", "0.5", 0, 1)};
  info.ada = info.mass = info.holds = true;
  info.make = [](const OptionValues& values, const PolicyContext&) { return std::make_unique<const H2o>(values); };
  return info;
}

}  // namespace purekv
