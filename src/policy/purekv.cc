// purekv: what a key is worth times the norm of its value, in two forms.
//
// The paper's (PureKV, arXiv 2510.25600), when any of its options is given: one low layer, the source, observes the
// attention that each key gets; that layer and all above it keep the entries with the highest observed attention times
// their own value norm. What the paper leaves open is an option here.
//
// The default, a union of rankings (docs/purekv.md says what was measured and what lost):
//   own       what the last queries of each layer's own attention look at, smoothed over neighbours, times the value
//             norm. It finds what a question asks for. Few queries: a layer with sparse attention can give it, too.
//   expected  what later queries are expected to look at, times the value norm, times how far the key points away from
//             the mean key: what is worth keeping for questions and summaries that nobody has read yet.
//   source    what all queries look at on average in one middle layer, the source, times each layer's own value norm:
//             for that layer and those above.
//   keys      how far a key points away from the mean key alone (KeyDiff).
//   values    the value norm alone.
// An entry's score is its best place in any of them, places being stretched by the rankings' shares: B entries are
// those that each ranking would choose for its share of B. How much of the budget a head gets is the allocator's
// (retrieval): that matters more than all of this.
#include <algorithm>
#include <array>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "base/threads.h"
#include "policy/expectation.h"
#include "policy/policies.h"
#include "policy/scores.h"

namespace purekv {
namespace {

constexpr int64_t kLowLayersWindow = 32;  // layers below the first source: the last queries of their own attention
constexpr int64_t kNoSource = -1;
constexpr int64_t kDropKernel = 15;  // neighbours that go on together

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

// A source's sums over all queries at this layer's entries: the mean over the query heads of the KV head, or over all.
// normalise: divided by the number of queries that see the entry.
Scores SourceScores(const LayerEntries& entries, const Observation& observed, bool head_mean, bool normalise) {
  const AttentionSums& sums = *observed.sums;
  const bool mean = head_mean || sums.kv_heads() != entries.kv_heads();
  Scores scores;
  for (int64_t head = 0; head < entries.kv_heads(); ++head) {
    const auto& tokens = entries.tokens[static_cast<size_t>(head)];
    std::vector<double> score(tokens.size(), 0.0);
    for (int64_t g = mean ? 0 : head; g < (mean ? sums.kv_heads() : head + 1); ++g) {
      const auto one = AtTokens(sums.Plane(0, g), observed.sum_tokens[static_cast<size_t>(g)], tokens);
      for (size_t j = 0; j < score.size(); ++j) score[j] += one[j];
    }
    const auto over = static_cast<double>(observed.sum_group * (mean ? sums.kv_heads() : 1));
    for (size_t j = 0; j < score.size(); ++j) {
      score[j] /= over * (normalise ? static_cast<double>(sums.QueriesThatSee(tokens[j])) : 1.0);
    }
    scores.push_back(std::move(score));
  }
  return scores;
}

void Multiply(const Scores& by, Scores* scores) {
  for (size_t head = 0; head < scores->size(); ++head) {
    for (size_t j = 0; j < (*scores)[head].size(); ++j) (*scores)[head][j] *= by[head][j];
  }
}

class PaperPureKv : public SinksAndRecentPolicy {
 public:
  PaperPureKv(const OptionValues& values, const KvCacheSpec& spec)
      : SinksAndRecentPolicy(values),
        sources_(values.Is("sources", "auto") ? std::vector{LowSource(spec)} : values.Layers("sources")),
        window_(values.Is("window", "auto") || values.Is("window", "all") ? 0 : values.Integer("window")),
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
                spec[source].reads_layer >= 0 ? " reads another's cache, whose layer is one"
                                              : " has a window: what it attends to says nothing of older tokens");
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
    Scores scores = SourceScores(entries, observed, head_mean_, normalise_);
    if (value_norm_) Multiply(ValueNorms(entries), &scores);
    return {scores};
  }

 private:
  static int64_t LowSource(const KvCacheSpec& spec) {
    int64_t layer = std::min<int64_t>(2, spec.layers() - 1);
    while (layer + 1 < spec.layers() && !spec.full(layer)) ++layer;
    return layer;
  }

  // The nearest source at or below `layer`.
  int64_t WhichSource(int64_t layer) const {
    const auto above = std::upper_bound(sources_.begin(), sources_.end(), layer);
    return above == sources_.begin() ? kNoSource : *(above - 1);
  }

  std::vector<int64_t> sources_;  // ascending
  int64_t window_;                // 0: all
  bool head_mean_, normalise_, value_norm_;
  enum class Below { kWindow, kValueNorm, kWait } below_;  // layers below the first source
};

// A share of the budget for each ranking.
constexpr std::array kShareOptions = {"own_share", "expected_share", "source_share", "key_share", "value_share"};

class UnionPureKv : public SinksAndRecentPolicy {
 public:
  UnionPureKv(const OptionValues& values, const PolicyContext& context)
      : SinksAndRecentPolicy(values),
        own_(values.Integer("own")),
        kernel_(values.Integer("kernel")),
        epsilon_(values.Real("epsilon")),
        value_norm_(values.Is("vnorm", "1")),
        drop_kernel_(values.Integer("drop_kernel")),
        drops_by_(values.Is("drop_by", "layer") ? DropsBy::kLayerBelow : DropsBy::kCopyingHeads),
        first_drop_layer_(std::min<int64_t>(2, context.spec.layers() - 1) + 1) {
    for (size_t i = 0; i < shares_.size(); ++i) {
      shares_[i] = values.Is(kShareOptions[i], "auto") ? DefaultShares(context)[i] : values.Real(kShareOptions[i]);
    }
    if (std::accumulate(shares_.begin(), shares_.end(), 0.0) <= 0) {
      FailUsage(Field{"kv.option.own_share"}, ": no ranking has a share; one of the shares must be above 0");
    }
    if (shares_[kOwn] == 0 && drop_kernel_ != kDropKernel) {
      FailUsage(Field{"kv.option.drop_kernel"}, ": cannot take effect: what the last queries look at has no share");
    }
    if (shares_[kSource] > 0) source_ = MiddleSource(context.spec);
  }

  Observer Observes(int64_t layer, int64_t base) const override {
    const int64_t own = shares_[kOwn] > 0 ? std::max<int64_t>(1, std::min(own_, base / 2)) : 0;
    Observer observer;
    if (layer == source_) {
      observer = {.kind = Observer::Kind::kColumnSums, .tail = own};
    } else if (own > 0) {
      observer = {.kind = Observer::Kind::kColumnSums, .window = own};
    }
    if (shares_[kExpected] > 0) {
      observer.queries_every = kQueriesEvery;
      observer.first_token = Protects(base).sinks;
    }
    return observer;
  }

  // The lowest layers look at texture: what they would drop is what the paper's form, with its source at 2, may not
  // drop.
  int64_t FirstDropLayer() const override { return first_drop_layer_; }
  DropsBy drops_by() const override { return drops_by_; }

  // Passages go on rather than tokens (drop_kernel): what copies from a token above needs its neighbours there, too.
  // What the last queries look at counts most, where there are any.
  std::vector<Ranking> DropRankings(const LayerEntries& entries, const Observation& observed,
                                    const Scores& scores) const override {
    // Expected attention is not smoothed: of 19 answers that the 0.5B model gives without dropping, 10 are left so, and
    // 5 with neighbours.
    if (drops_by_ == DropsBy::kLayerBelow || shares_[kOwn] == 0) return {{1, scores}};
    Scores own = Own(entries, *observed.own, drop_kernel_);
    if (value_norm_) Multiply(ValueNorms(entries), &own);
    return {{kOwnDropShare, std::move(own)}, {1 - kOwnDropShare, scores}};
  }

  int64_t SumsFrom(int64_t layer) const override { return HasSource(layer) ? source_ : layer; }

  std::string NoMass() const override {
    const auto shares = std::count_if(shares_.begin(), shares_.end(), [](double share) { return share > 0; });
    // Below a source that alone has a share, and for keys alone, scores are cosines.
    if (shares == 1 && (shares_[kKeys] > 0 || shares_[kSource] > 0)) return "some are cosines, which may be negative";
    return shares == 1 ? "" : "they are places in several rankings";
  }

  std::vector<Scores> Score(const LayerEntries& entries, const Observation& observed) const override {
    std::vector<Ranking> rankings;
    if (shares_[kOwn] > 0) rankings.push_back({shares_[kOwn], Own(entries, *observed.own, kernel_)});
    if (shares_[kExpected] > 0) rankings.push_back({shares_[kExpected], Expected(entries, observed.queries)});
    if (HasSource(entries.layer)) rankings.push_back({shares_[kSource], SourceScores(entries, observed, false, true)});
    if ((value_norm_ && !rankings.empty()) || shares_[kValues] > 0) {
      Scores norms = ValueNorms(entries);
      for (auto& [share, scores] : rankings) {
        if (value_norm_) Multiply(norms, &scores);
      }
      if (shares_[kValues] > 0) rankings.push_back({shares_[kValues], std::move(norms)});
    }
    // Layers below a source that alone has a share have nothing else.
    if (shares_[kKeys] > 0 || rankings.empty())
      rankings.push_back({std::max(shares_[kKeys], 1e-3), KeyDifference(entries)});
    if (rankings.size() == 1) return {rankings[0].scores};
    return {Union(entries, rankings)};
  }

 private:
  enum WhichShare : size_t { kOwn, kExpected, kSource, kKeys, kValues };
  using Shares = std::array<double, kShareOptions.size()>;

  static Shares DefaultShares(const PolicyContext& context) {
    // What passes in chunks has no queries of the whole part.
    if (context.chunked) return context.unseen ? Shares{0, 0, 0, 0.5, 0.5} : Shares{0.6, 0, 0, 0.4, 0};
    // Seen: the last queries know what is asked. Unseen: they are any.
    return context.unseen ? Shares{0, 1, 0, 0, 0} : Shares{0.4, 0.6, 0, 0, 0};
  }

  // The full layer nearest to the middle of the depth, the lower one of two.
  static int64_t MiddleSource(const KvCacheSpec& spec) {
    int64_t best = kNoSource;
    const auto far = [&](int64_t layer) { return std::abs(2 * layer - spec.layers()); };
    for (int64_t layer = 0; layer < spec.layers(); ++layer) {
      if (spec.full(layer) && (best == kNoSource || far(layer) < far(best))) best = layer;
    }
    return best;
  }
  bool HasSource(int64_t layer) const { return source_ != kNoSource && layer >= source_; }

  Scores Own(const LayerEntries& entries, const AttentionSums& sums, int64_t kernel) const {
    Scores scores = GroupMean(entries, sums, entries.layer == source_ ? 1 : 0);
    for (auto& head : scores) {
      const int64_t before = static_cast<int64_t>(head.size()) - Protects(entries.base).recent;
      PoolScores(kernel > 1 ? Pool::kAverage : Pool::kNone, kernel, std::max<int64_t>(0, before), head);
    }
    return scores;
  }

  // (expected probability + epsilon of the mean one) * (1 - cosine with the mean key).
  Scores Expected(const LayerEntries& entries, std::span<const QueryStats* const> queries) const {
    Scores scores = ExpectedProbabilities(entries, queries, {.pooled = true, .first = Protects(entries.base).sinks});
    const Scores differs = KeyDifference(entries);
    for (size_t head = 0; head < scores.size(); ++head) {
      const double least = epsilon_ / static_cast<double>(std::max<size_t>(1, scores[head].size()));
      for (size_t j = 0; j < scores[head].size(); ++j) {
        scores[head][j] = (scores[head][j] + least) * std::max(0.0, 1 + differs[head][j]);
      }
    }
    return scores;
  }

  // Minus the best place over the rankings, each divided by its share. Protected entries take no place. Ties of a
  // ranking: the lower position first.
  Scores Union(const LayerEntries& entries, const std::vector<Ranking>& rankings) const {
    Scores scores(entries.kv.size());
    const Protection spans = Protects(entries.base);
    ParallelFor(entries.kv_heads(), [&](int64_t g) {
      const auto head = static_cast<size_t>(g);
      const int64_t length = entries.length(g);
      std::vector<double>& out = scores[head];
      out.assign(static_cast<size_t>(length), -std::numeric_limits<double>::max());
      std::vector<int32_t> order(static_cast<size_t>(std::max<int64_t>(0, length - spans.count())));
      for (const auto& [share, ranked] : rankings) {
        const std::vector<double>& by = ranked[head];
        std::iota(order.begin(), order.end(), static_cast<int32_t>(spans.sinks));
        std::stable_sort(order.begin(), order.end(),
                         [&](int32_t a, int32_t b) { return by[static_cast<size_t>(a)] > by[static_cast<size_t>(b)]; });
        for (size_t place = 0; place < order.size(); ++place) {
          double& best = out[static_cast<size_t>(order[place])];
          best = std::max(best, -static_cast<double>(place + 1) / share);
        }
      }
    });
    return scores;
  }

  static constexpr double kOwnDropShare = 0.8;
  static constexpr int64_t kQueriesEvery = 8;  // enough for a mean and a covariance

  int64_t own_, kernel_;
  double epsilon_;
  bool value_norm_;
  int64_t drop_kernel_;
  DropsBy drops_by_;
  Shares shares_{};
  int64_t first_drop_layer_;
  int64_t source_ = kNoSource;
};

// The options that make it the paper's, all "auto" unless given.
constexpr std::array kPaperOptions = {"sources", "window", "heads", "normalise", "below"};
template <class Given>
bool AnyOfThePaper(const Given& given) {
  return std::any_of(kPaperOptions.begin(), kPaperOptions.end(), given);
}
constexpr std::array kUnionOptions = {"own",          "kernel",    "epsilon",     "own_share", "expected_share",
                                      "source_share", "key_share", "value_share", "drop_by",   "drop_kernel"};

}  // namespace

PolicyInfo PureKvPolicy() {
  PolicyInfo info;
  info.name = "purekv";
  info.summary = "gives most of the budget to heads that copy; keeps what is looked at, or will be, times value norms";
  info.paper = "after PureKV, arXiv 2510.25600, which sources, window, heads, normalise or below bring as it stands";
  info.cost = {
      "probabilities of a few last queries; mean and covariance of every eighth query, then a quadratic form of every "
      "key: N d^2; how well heads copy, once per model",
      "nothing"};
  PolicyOption window = WordOrIntegerOption("window", "auto", 1, kMostTokens);
  window.range = "auto, all or " + StrCat(1, " .. ", kMostTokens);
  window.words.push_back("all");
  info.options = {LayersOption("sources", "auto"),
                  window,
                  WordOption("heads", {"auto", "own", "mean"}),
                  WordOption("normalise", {"auto", "0", "1"}),
                  WordOption("below", {"auto", "window", "vnorm", "wait"}),
                  WordOption("vnorm", {"1", "0"}),
                  IntegerOption("own", 32, 1, 64),
                  OddOption("kernel", 5, 1, 1023),
                  RealOption("epsilon", "3", 0, 1'000'000),
                  WordOption("drop_by", {"heads", "layer"}).OfDrops(),
                  OddOption("drop_kernel", kDropKernel, 1, 1023).OfDrops()};
  for (const char* const share : kShareOptions) info.options.push_back(WordOrRealOption(share, "auto", 0, 1));
  for (const PolicyOption& option : SinksAndRecentPolicy::Options()) info.options.push_back(option);
  info.ada = info.mass = true;
  info.calibrated = true;
  info.score_lower = Say("give it lower ", Field{"kv.option.sources"});
  info.score_window =
      Say(Field{"kv.option.expected_share"}, "=0 and ", Field{"kv.option.source_share"}, "=0, or of the paper's form ",
          Field{"kv.option.window"}, "=32, look at the last queries of each chunk");
  const auto of_the_paper = [](const OptionValues& values) {
    return AnyOfThePaper([&](const char* option) { return !values.Is(option, "auto"); });
  };
  info.check = [of_the_paper](const std::map<std::string, std::string>& given, const OptionValues& values) {
    if (values.Is("drop_by", "layer") && given.contains("drop_kernel")) {
      FailUsage(Field{"kv.option.drop_kernel"},
                ": cannot take effect: drop_by=layer takes one layer's scores as they are");
    }
    if (!of_the_paper(values)) return;
    for (const char* option : kUnionOptions) {
      if (!given.contains(option)) continue;
      FailUsage(Field{StrCat("kv.option.", option)},
                ": cannot take effect: sources, window, heads, normalise and below ask for the paper's score");
    }
  };
  info.allocator = [](const std::map<std::string, std::string>& given) -> std::string {
    const bool paper =
        AnyOfThePaper([&](const char* option) { return given.contains(option) && given.at(option) != "auto"; });
    return paper ? "uniform" : "retrieval";
  };
  info.make = [of_the_paper](const OptionValues& values,
                             const PolicyContext& context) -> std::unique_ptr<const Policy> {
    if (of_the_paper(values)) return std::make_unique<const PaperPureKv>(values, context.spec);
    return std::make_unique<const UnionPureKv>(values, context);
  };
  return info;
}

}  // namespace purekv
