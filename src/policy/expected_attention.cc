// expected-attention: Expected Attention (arXiv 2510.00636) keeps what queries to come would attend to: queries as the
// part's were before rotation, a Gaussian, at the mean rotation of the next `horizon` positions, weighted by value
// norm. `epsilon` lets keys that nobody is expected to see compete by their values: with 0 the softmax is nearly
// one-hot in many layers, and the rest is ranked by the tail of a quadratic form.
#include "policy/expectation.h"
#include "policy/policies.h"
#include "policy/scores.h"

namespace purekv {
namespace {

class ExpectedAttention : public SinksAndRecentPolicy {
 public:
  explicit ExpectedAttention(const OptionValues& values)
      : SinksAndRecentPolicy(values),
        horizon_(values.Integer("horizon")),
        epsilon_(values.Real("epsilon")),
        covariance_(values.Is("covariance", "1")) {}

  Observer Observes(int64_t, int64_t base) const override {
    return {.queries_every = 1, .first_token = Protects(base).sinks};
  }

  std::vector<Scores> Score(const LayerEntries& entries, const Observation& observed) const override {
    const Scores expected =
        ExpectedProbabilities(entries, observed.queries,
                              {.horizon = horizon_, .covariance = covariance_, .first = Protects(entries.base).sinks});
    Scores scores = ValueNorms(entries);
    for (size_t head = 0; head < scores.size(); ++head) {
      for (size_t j = 0; j < scores[head].size(); ++j) scores[head][j] *= expected[head][j] + epsilon_;
    }
    return {scores};
  }

 private:
  int64_t horizon_;
  double epsilon_;
  bool covariance_;
};

}  // namespace

PolicyInfo ExpectedAttentionPolicy() {
  PolicyInfo info;
  info.name = "expected-attention";
  info.summary = "keeps what later queries are expected to attend to, by query statistics and value norm";
  info.paper = "Expected Attention, arXiv 2510.00636";
  info.cost = {"mean and covariance of the queries, then a quadratic form of every key: N d^2 each", "nothing"};
  info.options = SinksAndRecentPolicy::Options();
  info.options.insert(info.options.end(),
                      {IntegerOption("horizon", 512, 1, 100'000), RealOption("epsilon", "0.01", 0, 1'000'000),
                       WordOption("covariance", {"1", "0"})});
  info.ada = info.mass = true;
  info.make = [](const OptionValues& values, const PolicyContext&) {
    return std::make_unique<const ExpectedAttention>(values);
  };
  return info;
}

}  // namespace purekv
