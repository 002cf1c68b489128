// snapkv: SnapKV (arXiv 2404.14469) keeps what the last queries attend to, smoothed over neighbours, and those queries'
// own tokens.
#include <algorithm>

#include "base/error.h"
#include "policy/policies.h"
#include "policy/scores.h"

namespace purekv {
namespace {

class SnapKv : public Policy {
 public:
  explicit SnapKv(const OptionValues& values)
      : window_(values.Integer("window")),
        kernel_(values.Integer("kernel")),
        pool_(values.Is("pool", "avg")   ? Pool::kAverage
              : values.Is("pool", "max") ? Pool::kMax
                                         : Pool::kNone) {}

  Observer Observes(int64_t, int64_t base) const override {
    return {.kind = Observer::Kind::kColumnSums, .window = std::max<int64_t>(1, Protects(base).recent)};
  }

  Protection Protects(int64_t base) const override { return CappedProtection(0, window_, base); }

  std::vector<Scores> Score(const LayerEntries& entries, const Observation& observed) const override {
    Scores scores = WindowMean(entries, *observed.sums);
    for (auto& head : scores) {
      const int64_t before = static_cast<int64_t>(head.size()) - Protects(entries.base).recent;
      PoolScores(pool_, kernel_, std::max<int64_t>(0, before), head);
    }
    return {scores};
  }

 private:
  int64_t window_, kernel_;
  Pool pool_;
};

}  // namespace

PolicyInfo SnapKvPolicy() {
  PolicyInfo info;
  info.name = "snapkv";
  info.summary = "keeps what the last queries attend to, smoothed over neighbours";
  info.paper = "SnapKV, arXiv 2404.14469";
  info.cost = {"probabilities of the last `window` queries: window N d", "nothing"};
  info.options = {IntegerOption("window", 32, 1, kMostTokens), OddOption("kernel", 5, 1, 1023),
                  WordOption("pool", {"avg", "max", "none"})};
  info.ada = info.mass = true;
  info.check = [](const std::map<std::string, std::string>& given, const OptionValues& values) {
    if (values.Is("pool", "none") && given.contains("kernel")) {
      FailUsage(Field{"kv.option.kernel"}, ": cannot take effect: pool=none does not pool");
    }
  };
  info.make = [](const OptionValues& values, const PolicyContext&) { return std::make_unique<const SnapKv>(values); };
  return info;
}

}  // namespace purekv
