// look-m: LOOK-M (arXiv 2406.18139) ranks as h2o does, but text before everything visual, and merges what it evicts
// into what is most like it. The authors keep all text beyond the budget; here the budget is exact.
#include <cmath>

#include "policy/policies.h"
#include "policy/scores.h"

namespace purekv {
namespace {

// Text's scores times a power of two that is above any visual one's: the order (text first, then by attention) in one
// number, every difference as it was. What is added first lets text without attention come before visual entries too,
// and vanishes beside any attention there is.
constexpr int kTextPower = 600;
constexpr int kNoAttentionPower = -500;

class LookM : public Policy {
 public:
  explicit LookM(const OptionValues& values)
      : text_first_(values.Is("text_prior", "1")),
        recent_ratio_(values.Real("recent_ratio")),
        sinks_(values.Integer("sinks")) {}

  Observer Observes(int64_t, int64_t) const override { return {.kind = Observer::Kind::kColumnSums}; }

  Protection Protects(int64_t base) const override {
    return CappedProtection(sinks_, FloorShare(recent_ratio_, base), base);
  }

  std::vector<Scores> Score(const LayerEntries& entries, const Observation& observed) const override {
    Scores scores = GroupMean(entries, *observed.sums, 0);
    ForText(entries, scores,
            [](double score) { return std::ldexp(score + std::ldexp(1.0, kNoAttentionPower), kTextPower); });
    return {std::move(scores)};
  }

  Scores Masses(const LayerEntries& entries, const std::vector<Scores>& planes) const override {
    Scores masses = planes[0];
    ForText(entries, masses, [](double score) { return std::ldexp(score, -kTextPower); });
    return masses;
  }

 private:
  template <class Change>
  void ForText(const LayerEntries& entries, Scores& scores, const Change& change) const {
    for (size_t head = 0; head < scores.size() && text_first_; ++head) {
      for (size_t j = 0; j < scores[head].size(); ++j) {
        const auto token = static_cast<size_t>(entries.tokens[head][j]);
        if (!IsVisual(entries.layout[token])) scores[head][j] = change(scores[head][j]);
      }
    }
  }

  bool text_first_;
  double recent_ratio_;
  int64_t sinks_;
};

}  // namespace

PolicyInfo LookMPolicy() {
  PolicyInfo info;
  info.name = "look-m";
  info.summary = "keeps text first, by the attention of all queries, and merges what goes into what is like it";
  info.paper = "LOOK-M, arXiv 2406.18139";
  info.cost = {"as h2o, and the merge", "nothing"};
  info.options = {WordOption("text_prior", {"1", "0"}), RealOption("recent_ratio", "0.5", 0, 1),
                  IntegerOption("sinks", 4, 0, kMostTokens)};
  info.ada = info.mass = true;
  info.merge = "pivotal";
  info.merge_likest = true;
  info.make = [](const OptionValues& values, const PolicyContext&) { return std::make_unique<const LookM>(values); };
  return info;
}

}  // namespace purekv
