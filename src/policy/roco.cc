// roco: RoCo (arXiv 2402.06262, EasyKV's h2o_head_std_avg) keeps what is attended to most on average, and, whatever
// that says, what the attention on is least steady: the highest deviations among the queries that see a key. The group
// mean is of sums and of sums of squares (EasyKV averages over the group before it squares).
#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "policy/policies.h"
#include "policy/scores.h"
#include "policy/selector.h"

namespace purekv {
namespace {

class Roco : public SinksAndRecentPolicy {
 public:
  explicit Roco(const OptionValues& values) : SinksAndRecentPolicy(values), std_ratio_(values.Real("std_ratio")) {}

  Observer Observes(int64_t, int64_t) const override { return {.kind = Observer::Kind::kColumnSums, .squares = true}; }

  // Two planes: mean and deviation over the queries that see the key.
  std::vector<Scores> Score(const LayerEntries& entries, const Observation& observed) const override {
    Scores mean = GroupMean(entries, *observed.sums, 0);
    Scores deviation = GroupMean(entries, *observed.sums, 1);
    for (size_t head = 0; head < mean.size(); ++head) {
      for (size_t j = 0; j < mean[head].size(); ++j) {
        const auto seen = static_cast<double>(observed.sums->QueriesThatSee(entries.tokens[head][j]));
        PUREKV_CHECK(seen > 0, "token ", entries.tokens[head][j], " is seen by no query");
        mean[head][j] /= seen;
        deviation[head][j] = std::sqrt(std::max(0.0, deviation[head][j] / seen - mean[head][j] * mean[head][j]));
      }
    }
    return {std::move(mean), std::move(deviation)};
  }

  KeptEntries Select(const LayerEntries& entries, const std::vector<Scores>& planes,
                     const Quota& quota) const override {
    KeptEntries kept(entries.kv.size());
    for (size_t head = 0; head < kept.size(); ++head) {
      auto& out = kept[head];
      std::vector<int32_t> rest = TakeProtected(entries.kv[head].length, Protects(entries.base), out);
      const int64_t count = quota.counts[head];
      const int64_t free = count - static_cast<int64_t>(out.size());
      rest = TakeBest(planes[1][head], std::move(rest), std::min(FloorShare(std_ratio_, count), free), out);
      TakeBest(planes[0][head], std::move(rest), count - static_cast<int64_t>(out.size()), out);
      std::sort(out.begin(), out.end());
    }
    return kept;
  }

  // The lowest mean among the entries that neither span nor deviation protects.
  int32_t Evicts(const LayerEntries& entries, const std::vector<Scores>& planes, int64_t head,
                 int64_t count) const override {
    const auto at = static_cast<size_t>(head);
    std::vector<int32_t> kept;
    std::vector<int32_t> rest = TakeProtected(entries.length(head), Protects(entries.base), kept);
    const int64_t steady = static_cast<int64_t>(rest.size()) - FloorShare(std_ratio_, count);
    if (steady < 1) return Policy::Evicts(entries, planes, head, count);
    rest = TakeBest(planes[1][at], std::move(rest), FloorShare(std_ratio_, count), kept);
    const std::vector<double>& mean = planes[0][at];
    return *std::min_element(rest.begin(), rest.end(), [&](int32_t a, int32_t b) {
      const double x = mean[static_cast<size_t>(a)], y = mean[static_cast<size_t>(b)];
      return x != y ? x < y : a > b;
    });
  }

 private:
  double std_ratio_;
};

}  // namespace

PolicyInfo RocoPolicy() {
  PolicyInfo info;
  info.name = "roco";
  info.summary = "keeps the highest mean attention, and the keys that attention is least steady on";
  info.paper = "RoCo, arXiv 2402.06262";
  info.cost = {"probabilities of all queries and their squares: a second pass over Q K^T",
               "the probabilities of its row once more (n d); one entry of every head goes"};
  info.options = SinksAndRecentPolicy::Options();
  info.options.insert(info.options.begin(), RealOption("std_ratio", "0.3", 0, 1));
  info.holds = info.so_far = true;
  info.make = [](const OptionValues& values, const PolicyContext&) { return std::make_unique<const Roco>(values); };
  return info;
}

}  // namespace purekv
