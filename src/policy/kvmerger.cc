// kvmerger: KVMerger (arXiv 2407.08454) makes one entry of neighbouring ones whose keys are alike, by Gaussian weights
// around the most attended of them. In place of the authors' search for a threshold, exactly as many of the most alike
// pairs are joined as the budget asks for (single linkage along the sequence).
#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <utility>

#include "base/error.h"
#include "policy/policies.h"
#include "policy/scores.h"
#include "policy/selector.h"

namespace purekv {
namespace {

// Entries first .. last that become one, at `pivot`.
struct Run {
  int32_t first = 0, last = 0;
  int32_t pivot = 0;
  double attention = 0;
  bool spared = false;  // protected: never dropped
};

class KvMerger : public SinksAndRecentPolicy {
 public:
  KvMerger(const OptionValues& values, bool align)
      : SinksAndRecentPolicy(values), heavy_ratio_(values.Real("heavy_ratio")), align_(align) {
    if (!values.Is("epsilon", "auto")) epsilon_ = values.Real("epsilon");
    if (!values.Is("sigma", "auto")) sigma_ = values.Real("sigma");
  }

  Observer Observes(int64_t, int64_t) const override { return {.kind = Observer::Kind::kColumnSums}; }

  std::vector<Scores> Score(const LayerEntries& entries, const Observation& observed) const override {
    return {GroupMean(entries, *observed.sums, 0)};
  }

  KeptEntries Select(const LayerEntries& entries, const std::vector<Scores>& planes,
                     const Quota& quota) const override {
    KeptEntries kept(entries.kv.size());
    for (size_t head = 0; head < kept.size(); ++head) {
      const auto at = static_cast<int64_t>(head);
      for (const Run& run : Runs(entries, at, MergeKeys(entries, at, align_), planes[0][head], quota.counts[head])) {
        kept[head].push_back(run.pivot);
      }
      std::sort(kept[head].begin(), kept[head].end());
    }
    return kept;
  }

  std::vector<MergedEntry> Merges(const LayerEntries& entries, const std::vector<Scores>& planes, int64_t head,
                                  int64_t count) const override {
    const Matrix<float> keys = MergeKeys(entries, head, align_);
    std::vector<MergedEntry> merged;
    for (const Run& run : Runs(entries, head, keys, planes[0][static_cast<size_t>(head)], count)) {
      if (run.first == run.last) continue;
      MergedEntry& one = merged.emplace_back(MergedEntry{run.pivot, {}, {}});
      std::vector<double> squares;
      for (int32_t j = run.first; j <= run.last; ++j) {
        if (j == run.pivot) continue;
        one.sources.push_back(j);
        squares.push_back(SquaredDistance(keys, j, run.pivot));
      }
      const double mean = std::accumulate(squares.begin(), squares.end(), 0.0) / static_cast<double>(squares.size());
      const double square = sigma_ ? *sigma_ * *sigma_ : mean;
      for (const double distance : squares) one.weights.push_back(square > 0 ? std::exp(-distance / (2 * square)) : 1);
    }
    return merged;
  }

 private:
  static double SquaredDistance(const Matrix<float>& keys, int32_t a, int32_t b) {
    double sum = 0;
    for (int64_t d = 0; d < keys.cols(); ++d) {
      const double difference = static_cast<double>(keys.Row(a)[d]) - static_cast<double>(keys.Row(b)[d]);
      sum += difference * difference;
    }
    return sum;
  }
  static double Cosine(const Matrix<float>& keys, int32_t a, int32_t b) {
    double dot = 0, left = 0, right = 0;
    for (int64_t d = 0; d < keys.cols(); ++d) {
      const double x = static_cast<double>(keys.Row(a)[d]), y = static_cast<double>(keys.Row(b)[d]);
      dot += x * y;
      left += x * x;
      right += y * y;
    }
    return left > 0 && right > 0 ? dot / std::sqrt(left * right) : 0;
  }

  // What a head becomes, at most `count` runs, ascending.
  std::vector<Run> Runs(const LayerEntries& entries, int64_t head, const Matrix<float>& keys,
                        const std::vector<double>& attention, int64_t count) const {
    const auto length = static_cast<int32_t>(entries.length(head));
    std::vector<int32_t> spared;
    std::vector<int32_t> rest = TakeProtected(length, Protects(entries.base), spared);
    TakeBest(attention, std::move(rest),
             std::min(FloorShare(heavy_ratio_, count), count - static_cast<int64_t>(spared.size())), spared);
    std::vector<bool> alone(static_cast<size_t>(length), false);
    for (const int32_t entry : spared) alone[static_cast<size_t>(entry)] = true;
    const auto visual = [&](int32_t entry) {
      const auto token = entries.tokens[static_cast<size_t>(head)][static_cast<size_t>(entry)];
      return IsVisual(entries.layout[static_cast<size_t>(token)]);
    };
    // Pairs (j, j + 1).
    std::vector<double> alike(static_cast<size_t>(length), -2.0);
    std::vector<int32_t> pairs;
    for (int32_t j = 0; j + 1 < length; ++j) {
      if (alone[static_cast<size_t>(j)] || alone[static_cast<size_t>(j) + 1] || visual(j) != visual(j + 1)) continue;
      alike[static_cast<size_t>(j)] = Cosine(keys, j, j + 1);
      pairs.push_back(j);
    }
    std::vector<int32_t> joined;
    if (epsilon_) {
      std::erase_if(pairs, [&](int32_t j) { return alike[static_cast<size_t>(j)] < *epsilon_; });
      joined = pairs;
    } else {
      TakeBest(alike, pairs, length - count, joined);
    }
    std::vector<bool> goes_on(static_cast<size_t>(length), false);
    for (const int32_t j : joined) goes_on[static_cast<size_t>(j)] = true;
    std::vector<Run> runs;
    for (int32_t j = 0; j < length; ++j) {
      const auto at = static_cast<size_t>(j);
      if (j == 0 || !goes_on[at - 1]) runs.push_back({j, j, j, 0, alone[at]});
      Run& run = runs.back();
      run.last = j;
      run.attention += attention[at];
      if (attention[at] > attention[static_cast<size_t>(run.pivot)]) run.pivot = j;
    }
    return Fitting(std::move(runs), count);
  }

  // Without the runs of lowest attention, among equals the later one first, that are too many.
  static std::vector<Run> Fitting(std::vector<Run> runs, int64_t count) {
    const int64_t many = static_cast<int64_t>(runs.size()) - count;
    if (many <= 0) return runs;
    std::vector<size_t> order;
    for (size_t i = 0; i < runs.size(); ++i) {
      if (!runs[i].spared) order.push_back(i);
    }
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      return runs[a].attention != runs[b].attention ? runs[a].attention < runs[b].attention : a > b;
    });
    PUREKV_CHECK(static_cast<int64_t>(order.size()) >= many, order.size(), " of ", runs.size(), " runs for ", count);
    std::vector<bool> goes(runs.size(), false);
    for (int64_t i = 0; i < many; ++i) goes[order[static_cast<size_t>(i)]] = true;
    std::vector<Run> left;
    for (size_t i = 0; i < runs.size(); ++i) {
      if (!goes[i]) left.push_back(runs[i]);
    }
    return left;
  }

  double heavy_ratio_;
  bool align_;
  std::optional<double> epsilon_, sigma_;
};

}  // namespace

PolicyInfo KvMergerPolicy() {
  PolicyInfo info;
  info.name = "kvmerger";
  info.summary = "makes one entry of neighbours whose keys are alike";
  info.paper = "KVMerger, arXiv 2407.08454";
  info.cost = {"as h2o, and cosines of neighbouring keys: N d", "nothing",
               "4 an entry, for the tokens that it stands for (merge_bias=1: 8)"};
  PolicyOption heavy = RealOption("heavy_ratio", "0.2", 0, 1);
  heavy.high = 0.25;  // spans take up to three quarters of the budget
  heavy.range = "0 .. 0.25";
  info.options = {heavy, WordOrRealOption("epsilon", "auto", -1, 1), WordOrRealOption("sigma", "auto", 0, 1'000'000)};
  for (PolicyOption& option : SinksAndRecentPolicy::Options()) info.options.push_back(std::move(option));
  info.merges = true;
  info.check = [](const std::map<std::string, std::string>&, const OptionValues& values) {
    if (!values.Is("sigma", "auto") && values.Real("sigma") <= 0) {
      FailUsage(Field{"kv.option.sigma"}, " ", values.Word("sigma"), ": must be above 0");
    }
  };
  info.make = [](const OptionValues& values, const PolicyContext& context) {
    return std::make_unique<const KvMerger>(values, context.merge.align);
  };
  return info;
}

}  // namespace purekv
