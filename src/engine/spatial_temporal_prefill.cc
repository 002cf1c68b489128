// Prefill "st": videos attend inside their frame and along time (engine/spatial_temporal.h has the pattern).
#include <map>
#include <numeric>

#include "attention/sparse.h"
#include "base/error.h"
#include "engine/sparse_prefill.h"
#include "engine/spatial_temporal.h"

namespace purekv {
namespace {

// Rows that attend at a time under the pattern: a cell's column over time is read once for all of them. One layer of
// 16k tokens in frames of 256 (28 heads of 128) took 330 ms in spans of 512 rows, 310 in 2048, 260 in 4096.
constexpr int64_t kPatternRows = 4096;

class SpatialTemporal : public SparsePrefill {
 public:
  SpatialTemporal(const SpatialTemporalPattern& pattern, int64_t start) : SparsePrefill(start), pattern_(pattern) {}

  int64_t Rows(int64_t layer) const override { return layer >= start() ? kPatternRows : 0; }

 private:
  struct SpanPlan {
    SparsePlan plan;
    PatternPairs pairs;
  };

  void ForgetPlans() override { plans_.clear(); }

  const SpanPlan& PlanOf(std::span<const int32_t> tokens, std::span<const TokenRecord> layout) {
    const auto [at, fresh] = plans_.try_emplace(tokens.front());
    SpanPlan& span = at->second;
    if (fresh) {
      std::vector<int32_t> keys(static_cast<size_t>(alive().empty() ? tokens.front() : alive().front()));
      std::iota(keys.begin(), keys.end(), 0);
      for (const int32_t token : alive()) {
        if (token < tokens.front()) keys.push_back(token);
      }
      keys.insert(keys.end(), tokens.begin(), tokens.end());
      span.plan = PlanSpatialTemporal(pattern_, layout, tokens, keys, &span.pairs);
    }
    PUREKV_CHECK(span.plan.rows == static_cast<int64_t>(tokens.size()), span.plan.rows, " rows planned, ",
                 tokens.size(), " there");
    return span;
  }

  void RunSparse(int64_t layer, std::span<const int32_t> tokens, const AttentionArgs& args, const KvCache& cache,
                 std::span<const TokenRecord> layout, double /*dense*/) override {
    const SpanPlan& span = PlanOf(tokens, layout);
    pairs_.Add(span.pairs);
    if (span.plan.passes.empty()) return Attention(args);  // text alone
    // Heads have lost different keys: the plan names tokens, not entries.
    std::vector<std::span<const int32_t>> entries;
    for (int64_t head = 0; head < cache.spec()[layer].kv_heads; ++head) {
      entries.push_back(cache.EntryTokens(layer, head));
    }
    SparseAttention({args, entries}, span.plan);
  }

  Pairs Computed() const override {
    return {pairs_.dense,
            {{"text_queries", pairs_.text_rows},
             {"text_and_sinks", pairs_.prefix},
             {"spatial", pairs_.spatial},
             {"anchors", pairs_.anchors},
             {"temporal", pairs_.temporal}}};
  }

  SpatialTemporalPattern pattern_;
  std::map<int32_t, SpanPlan> plans_;  // by first token, for all layers up to the next drop
  PatternPairs pairs_;                 // of all sparse layers
};

SpatialTemporalPattern PatternOf(const OptionValues& values) {
  SpatialTemporalPattern pattern;
  pattern.sinks = values.Integer("sinks");
  pattern.temporal_radius = values.Integer("temporal_radius");
  pattern.temporal_window = values.Is("temporal_window", "all") ? 0 : values.Integer("temporal_window");
  pattern.anchor_every =
      values.Is("anchor_every", "none") ? SpatialTemporalPattern::kNoAnchors : values.Integer("anchor_every");
  pattern.spatial = values.Is("spatial", "1");
  pattern.temporal = values.Is("temporal", "1");
  return pattern;
}

PolicyOption AnchorOption() {
  PolicyOption option = WordOrIntegerOption("anchor_every", "none", 0, kMostTokens);
  option.fallback = "0";
  option.range += "; 0: the first frame alone";
  return option;
}

}  // namespace

PrefillKind SpatialTemporalPrefill() {
  PrefillKind kind;
  kind.name = "st";
  kind.summary = "videos attend inside their frame and along time, after ST-SpAttn of PureKV";
  kind.options = {StartOption(),
                  IntegerOption("sinks", 4, 0, kMostTokens),
                  IntegerOption("temporal_radius", 0, 0, 10'000),
                  WordOrIntegerOption("temporal_window", "all", 1, kMostTokens),
                  AnchorOption(),
                  WordOption("spatial", {"1", "0"}),
                  WordOption("temporal", {"1", "0"})};
  kind.needs_media = true;
  kind.check = [](const PrefillOptions& given, const OptionValues& values) {
    if (!values.Is("temporal", "0")) return;
    for (const char* const name : {"temporal_radius", "temporal_window"}) {
      if (given.options.contains(name))
        FailUsage(Field{StrCat("prefill.option.", name)}, ": cannot take effect with temporal=0");
    }
  };
  kind.make = [](const OptionValues& values, const PrefillContext& context) -> std::unique_ptr<PrefillAttention> {
    if (context.shares) {
      FailUsage(Field{"prefill.kind"},
                " st: this model has layers that read another's cache, which its plan of a "
                "layer's own keys does not know; dense and block-sparse run on it");
    }
    return std::make_unique<SpatialTemporal>(PatternOf(values), FirstSparseLayer("st", values, context));
  };
  return kind;
}

}  // namespace purekv
