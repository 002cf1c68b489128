// csp: Cross-Self Pruning (arXiv 2412.04652) ranks keys twice, by attention from queries of their own modality (text or
// visual) and from the other, gives each ranking a quota, and combines the two choices. Rows are weighted by the
// n-softmax as in the authors' code, which, unlike this, keeps duplicates and one list per query head.
#include <algorithm>
#include <iterator>

#include "policy/policies.h"
#include "policy/scores.h"
#include "policy/selector.h"

namespace purekv {
namespace {

// Longer windows cost more than they see, and are more than an evaluation looks at again behind a shared prefill.
constexpr int64_t kMostOfHalf = 4096;

enum class Combine { kUnion, kConcat, kIntersect };

// The entries of `from` (ascending) with a positive score, and the others.
std::vector<int32_t> Positive(const std::vector<double>& scores, const std::vector<int32_t>& from) {
  std::vector<int32_t> positive;
  std::copy_if(from.begin(), from.end(), std::back_inserter(positive),
               [&](int32_t entry) { return scores[static_cast<size_t>(entry)] > 0; });
  return positive;
}

// The best `count` of the entries of `from` with a positive score, ascending.
std::vector<int32_t> BestPositive(const std::vector<double>& scores, const std::vector<int32_t>& from, int64_t count) {
  std::vector<int32_t> best;
  TakeBest(scores, Positive(scores, from), count, best);
  std::sort(best.begin(), best.end());
  return best;
}

// a without b; both ascending.
std::vector<int32_t> Without(const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
  std::vector<int32_t> rest;
  std::set_difference(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(rest));
  return rest;
}

class Csp : public Policy {
 public:
  explicit Csp(const OptionValues& values)
      : window_(values.Is("window", "half") ? 0 : values.Integer("window")),
        cross_ratio_(values.Real("cross_ratio")),
        recent_ratio_(values.Real("recent_ratio")),
        n_(values.Real("n")),
        combine_(values.Is("combine", "union")    ? Combine::kUnion
                 : values.Is("combine", "concat") ? Combine::kConcat
                                                  : Combine::kIntersect) {}

  Observer Observes(int64_t, int64_t base) const override {
    const int64_t window = window_ > 0 ? window_ : std::clamp<int64_t>(base / 2, 1, kMostOfHalf);
    return {.kind = Observer::Kind::kColumnSums, .window = window, .by_query = true, .n = n_};
  }

  Protection Protects(int64_t base) const override {
    return CappedProtection(0, FloorShare(recent_ratio_, base), base);
  }

  // Two planes: self and cross.
  std::vector<Scores> Score(const LayerEntries& entries, const Observation& observed) const override {
    Scores self = GroupMean(entries, *observed.sums, 0);   // text queries
    Scores cross = GroupMean(entries, *observed.sums, 1);  // visual queries
    for (size_t head = 0; head < self.size(); ++head) {
      for (size_t j = 0; j < self[head].size(); ++j) {
        const auto token = static_cast<size_t>(entries.tokens[head][j]);
        if (IsVisual(entries.layout[token])) std::swap(self[head][j], cross[head][j]);
      }
    }
    return {self, cross};
  }

  KeptEntries Select(const LayerEntries& entries, const std::vector<Scores>& planes,
                     const Quota& quota) const override {
    KeptEntries kept(entries.kv.size());
    for (size_t head = 0; head < kept.size(); ++head) {
      auto& out = kept[head];
      const auto rest = TakeProtected(entries.kv[head].length, Protects(entries.base), out);
      const auto chosen =
          Choose(planes[0][head], planes[1][head], rest, quota.counts[head] - static_cast<int64_t>(out.size()));
      out.insert(out.end(), chosen.begin(), chosen.end());
      std::sort(out.begin(), out.end());
    }
    return kept;
  }

 private:
  std::vector<int32_t> Choose(const std::vector<double>& self, const std::vector<double>& cross,
                              const std::vector<int32_t>& rest, int64_t k) const {
    const int64_t k_cross = FloorShare(cross_ratio_, k);
    const int64_t k_self = k - k_cross;
    std::vector<int32_t> chosen;
    if (combine_ == Combine::kIntersect) {
      const auto a = BestPositive(self, rest, k);
      const auto b = BestPositive(cross, rest, k);
      std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(chosen));
    } else {
      const auto a = BestPositive(self, rest, k_self);
      // Union fills the second quota with what the first has not taken; concat drops what is in both.
      const auto b = BestPositive(cross, combine_ == Combine::kUnion ? Without(rest, a) : rest, k_cross);
      std::set_union(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(chosen));
    }
    if (combine_ == Combine::kConcat) return chosen;
    std::vector<double> both(self.size());
    std::transform(self.begin(), self.end(), cross.begin(), both.begin(), std::plus<>());
    const int64_t free = k - static_cast<int64_t>(chosen.size());
    TakeBest(both, Without(rest, chosen), free, chosen);
    return chosen;
  }

  int64_t window_;  // 0: half the budget
  double cross_ratio_, recent_ratio_, n_;
  Combine combine_;
};

}  // namespace

PolicyInfo CspPolicy() {
  PolicyOption window = IntegerOption("window", 64, 1, kMostTokens);
  window.range = "half or " + window.range;
  window.words = {"half"};
  PolicyInfo info;
  info.name = "csp";
  info.summary =
      "keeps what queries of the own and of the other modality attend to, each with its quota, and the latest";
  info.paper = "Cross-Self Pruning, arXiv 2412.04652";
  info.cost = {"probabilities of the last `window` queries, as two sums: window N d", "nothing"};
  info.options = {window, RealOption("cross_ratio", "0.5", 0, 1), RealOption("recent_ratio", "0.5", 0, 1),
                  RealOption("n", "1", 0, 1'000'000), WordOption("combine", {"union", "concat", "intersect"})};
  info.make = [](const OptionValues& values, const PolicyContext&) { return std::make_unique<const Csp>(values); };
  return info;
}

}  // namespace purekv
