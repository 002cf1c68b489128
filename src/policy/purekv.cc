// purekv: cross-layer importance (PureKV, arXiv 2510.25600): one low layer, the source, observes the attention that
// each key gets; that layer and all above it keep the entries with the highest observed attention times their own value
// norm. Only the source pays for the observation. What the paper leaves open is an option here.
#include <algorithm>

#include "base/error.h"
#include "policy/policies.h"
#include "policy/scores.h"

namespace purekv {
namespace {

constexpr int64_t kLowLayersWindow = 32;  // layers below the first source: the last queries of their own attention

int64_t AutoSource(const KvCacheSpec& spec) {
  int64_t layer = std::min<int64_t>(2, spec.layers() - 1);
  while (layer + 1 < spec.layers() && !spec.full(layer)) ++layer;
  return layer;
}

// `values` given by ascending tokens `from`, looked up at the ascending tokens `to`; 0 where there is none.
std::vector<double> AtTokens(std::span<const double> values, std::span<const int32_t> from,
                             std::span<const int32_t> to) {
  std::vector<double> out;
  size_t i = 0;
  for (const int32_t token : to) {
    while (i < from.size() && from[i] < token) ++i;
    out.push_back(i < from.size() && from[i] == token ? values[i] : 0.0);
  }
  return out;
}

class PureKv : public SinksAndRecentPolicy {
 public:
  PureKv(const OptionValues& values, const KvCacheSpec& spec)
      : SinksAndRecentPolicy(values),
        sources_(values.Is("sources", "auto") ? std::vector{AutoSource(spec)} : values.Layers("sources")),
        window_(values.Is("window", "all") ? 0 : values.Integer("window")),
        head_mean_(values.Is("heads", "mean")),
        normalise_(values.Is("normalise", "1")),
        value_norm_(values.Is("vnorm", "1")),
        below_(values.Is("below", "wait")    ? Below::kWait
               : values.Is("below", "vnorm") ? Below::kValueNorm
                                             : Below::kWindow) {
    if (sources_.back() >= spec.layers()) {
      FailUsage(Field{"kv.option.sources"}, "=", values.Word("sources"), ": out of range (layers 0 .. ",
                spec.layers() - 1, ")");
    }
    for (const int64_t source : sources_) {
      if (spec.full(source)) continue;
      FailUsage(Field{"kv.option.sources"}, "=", values.Word("sources"), ": layer ", source,
                " has a window: what it attends to says nothing of older tokens");
    }
  }

  Observer Observes(int64_t layer, int64_t base) const override {
    const int64_t source = WhichSource(layer);
    if (source == layer) return {.kind = Observer::Kind::kColumnSums, .window = window_};
    if (source != kNoSource || below_ != Below::kWindow) return {};
    return {.kind = Observer::Kind::kColumnSums, .window = std::max<int64_t>(1, std::min(kLowLayersWindow, base / 2))};
  }

  int64_t FirstDropLayer() const override { return sources_.front() + 1; }

  int64_t SumsFrom(int64_t layer) const override {
    if (WhichSource(layer) != kNoSource) return WhichSource(layer);
    return below_ == Below::kWait ? sources_.front() : layer;
  }

  std::vector<Scores> Score(const LayerEntries& entries, const Observation& observed) const override {
    if (WhichSource(entries.layer) == kNoSource && below_ == Below::kWindow)
      return {WindowMean(entries, *observed.sums)};
    if (WhichSource(entries.layer) == kNoSource && below_ == Below::kValueNorm) return {ValueNorms(entries)};
    Scores scores = SourceScores(entries, observed);
    if (!value_norm_) return {scores};
    const Scores norms = ValueNorms(entries);
    for (size_t head = 0; head < scores.size(); ++head) {
      for (size_t j = 0; j < scores[head].size(); ++j) scores[head][j] *= norms[head][j];
    }
    return {scores};
  }

 private:
  static constexpr int64_t kNoSource = -1;

  // The nearest source at or below `layer`.
  int64_t WhichSource(int64_t layer) const {
    const auto above = std::upper_bound(sources_.begin(), sources_.end(), layer);
    return above == sources_.begin() ? kNoSource : *(above - 1);
  }

  // The source's sums at this layer's entries, per query head of a group.
  Scores SourceScores(const LayerEntries& entries, const Observation& observed) const {
    const AttentionSums& sums = *observed.sums;
    const bool mean = head_mean_ || sums.kv_heads() != entries.kv_heads();
    Scores scores;
    for (int64_t head = 0; head < entries.kv_heads(); ++head) {
      const auto& tokens = entries.tokens[static_cast<size_t>(head)];
      std::vector<double> score(tokens.size(), 0.0);
      for (int64_t g = mean ? 0 : head; g < (mean ? sums.kv_heads() : head + 1); ++g) {
        const auto one = AtTokens(sums.Plane(0, g), observed.sum_tokens[static_cast<size_t>(g)], tokens);
        for (size_t j = 0; j < score.size(); ++j) score[j] += one[j];
      }
      const auto over = static_cast<double>(entries.group() * (mean ? sums.kv_heads() : 1));
      for (size_t j = 0; j < score.size(); ++j) {
        score[j] /= over * (normalise_ ? static_cast<double>(sums.QueriesThatSee(tokens[j])) : 1.0);
      }
      scores.push_back(std::move(score));
    }
    return scores;
  }

  std::vector<int64_t> sources_;  // ascending
  int64_t window_;                // 0: all
  bool head_mean_, normalise_, value_norm_;
  enum class Below { kWindow, kValueNorm, kWait } below_;  // layers below the first source
};

}  // namespace

PolicyInfo PureKvPolicy() {
  PolicyInfo info;
  info.name = "purekv";
  info.summary = "keeps what one low layer saw attended to, times each layer's own value norm";
  info.paper = "PureKV, arXiv 2510.25600";
  info.options = {LayersOption("sources", "auto"),      WordOrIntegerOption("window", "all", 1, kMostTokens),
                  WordOption("heads", {"own", "mean"}), WordOption("normalise", {"0", "1"}),
                  WordOption("vnorm", {"1", "0"}),      WordOption("below", {"window", "vnorm", "wait"})};
  for (const PolicyOption& option : SinksAndRecentPolicy::Options()) info.options.push_back(option);
  info.ada = true;
  info.calibrated = true;
  info.score_lower = Say("give it lower ", Field{"kv.option.sources"});
  info.score_window = Say(Field{"kv.option.window"}, "=32 looks at the last queries of each chunk");
  info.make = [](const OptionValues& values, const KvCacheSpec& spec) {
    return std::make_unique<const PureKv>(values, spec);
  };
  return info;
}

}  // namespace purekv
