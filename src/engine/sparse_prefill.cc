#include "engine/sparse_prefill.h"

#include <algorithm>
#include <numeric>

#include "attention/sparse.h"
#include "base/error.h"

namespace purekv {
namespace {

// Where nothing else is known: above the default source layer of the policy purekv.
constexpr int64_t kDefaultStart = 3;
// Rows that attend at a time under the pattern. One layer of 16k tokens in frames of 256 (28 heads of 128) took 330 ms
// in spans of 512 rows, 310 in 2048, 260 in 4096: columns are read once per span, a cache line here and there.
constexpr int64_t kPatternRows = 4096;

PolicyOption StartOption() {
  PolicyOption option = WordOrIntegerOption("start", "auto", 0, 1000);
  option.range = "auto or the first sparse layer, 0 .. 1000";
  return option;
}

PolicyOption AnchorOption() {
  PolicyOption option = WordOrIntegerOption("anchor_every", "none", 0, kMostTokens);
  option.fallback = "0";
  option.range += "; 0: the first frame alone";
  return option;
}

const PrefillKind& Find(const std::string& name) {
  std::string known;
  for (const PrefillKind& kind : PrefillKinds()) {
    if (kind.name == name) return kind;
    known += (known.empty() ? "" : ", ") + kind.name;
  }
  FailUsage("--prefill ", name, ": unknown; known kinds: ", known);
}

OptionValues Checked(const PrefillOptions& options) {
  const PrefillKind& kind = Find(options.kind);
  std::string names;
  for (const PolicyOption& option : kind.options) names += (names.empty() ? "" : ", ") + option.name;
  for (const auto& [key, value] : options.options) {
    const bool known = std::any_of(kind.options.begin(), kind.options.end(),
                                   [&, &name = key](const PolicyOption& option) { return option.name == name; });
    if (!known) {
      FailUsage("--prefill-option ", key, ": prefill ", kind.name,
                " has no such option; valid here: ", names.empty() ? "none" : names);
    }
  }
  OptionValues values(kind.options, options.options, "--prefill-option");
  if (kind.name == "st" && values.Is("temporal", "0")) {
    for (const char* const name : {"temporal_radius", "temporal_window"}) {
      if (options.options.contains(name)) FailUsage("--prefill-option ", name, ": cannot take effect with temporal=0");
    }
  }
  return values;
}

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

int64_t FirstLayer(const std::string& kind, const OptionValues& values, const KvOptions& kv, int64_t last_scoring,
                   int64_t layers) {
  const bool given = !values.Is("start", "auto");
  const int64_t start =
      given ? values.Integer("start") : std::max(std::min(kDefaultStart, layers - 1), last_scoring + 1);
  const std::string flag = given ? StrCat("--prefill-option start=", start) : "--prefill " + kind;
  if (last_scoring == layers - 1) {
    FailUsage(flag, ": policy ", kv.policy, " needs the attention scores of layer ", last_scoring,
              ", the last one, which sparse attention does not give",
              kv.policy == "purekv" ? "; give it lower --kv-option sources" : "; choose another --kv-policy");
  }
  if (start <= last_scoring) {
    FailUsage(flag, ": policy ", kv.policy, " needs the attention scores of layer ", last_scoring,
              ", which sparse attention does not give; start above it, at ", last_scoring + 1, " or more");
  }
  if (start >= layers) FailUsage(flag, ": out of range (layers 0 .. ", layers - 1, ")");
  return start;
}

}  // namespace

const std::vector<PrefillKind>& PrefillKinds() {
  static const std::vector<PrefillKind> kinds = {
      {"dense", "every query sees all before it", {}},
      {"st",
       "videos attend inside their frame and along time, after ST-SpAttn of PureKV",
       {StartOption(), IntegerOption("sinks", 4, 0, kMostTokens), IntegerOption("temporal_radius", 0, 0, 10'000),
        WordOrIntegerOption("temporal_window", "all", 1, kMostTokens), AnchorOption(),
        WordOption("spatial", {"1", "0"}), WordOption("temporal", {"1", "0"})}},
      {"block-sparse",
       "blocks of keys chosen by their content, in the manner of XAttention",
       {StartOption(), WordOption("block", {"128", "64", "256", "512"}), WordOption("stride", {"16", "8", "4", "32"}),
        RealOption("threshold", "0.9", 0, 1)}}};
  return kinds;
}

void CheckPrefillOptions(const PrefillOptions& options) {
  Checked(options);
}

SparsePrefill::SparsePrefill(const PrefillOptions& options, const KvOptions& kv, const Compressor& compressor,
                             int64_t layers)
    : start_(layers) {
  const OptionValues values = Checked(options);
  if (options.kind == "dense") return;
  start_ = FirstLayer(options.kind, values, kv, compressor.last_scoring_layer(), layers);
  if (options.kind == "st") {
    kind_ = Kind::kSpatialTemporal;
    pattern_ = PatternOf(values);
  } else {
    kind_ = Kind::kBlockSparse;
    blocks_ = {values.Integer("block"), values.Integer("stride"), values.Real("threshold")};
  }
}

int64_t SparsePrefill::Before(int32_t token) const {
  if (alive_.empty() || token <= alive_.front()) return token;
  return alive_.front() + (std::lower_bound(alive_.begin(), alive_.end(), token) - alive_.begin());
}

const SparsePrefill::BlockPlan& SparsePrefill::PlanOf(std::span<const int32_t> tokens,
                                                      std::span<const TokenRecord> layout) {
  const auto [at, fresh] = plans_.try_emplace(tokens.front());
  BlockPlan& block = at->second;
  if (fresh) {
    std::vector<int32_t> keys(static_cast<size_t>(alive_.empty() ? tokens.front() : alive_.front()));
    std::iota(keys.begin(), keys.end(), 0);
    for (const int32_t token : alive_) {
      if (token < tokens.front()) keys.push_back(token);
    }
    keys.insert(keys.end(), tokens.begin(), tokens.end());
    block.plan = PlanSpatialTemporal(pattern_, layout, tokens, keys, &block.pairs);
  }
  PUREKV_CHECK(block.plan.rows == static_cast<int64_t>(tokens.size()), block.plan.rows, " rows planned, ",
               tokens.size(), " there");
  return block;
}

int64_t SparsePrefill::AttentionRows(int64_t layer) const {
  return kind_ == Kind::kSpatialTemporal && layer >= start_ ? kPatternRows : 0;
}

bool SparsePrefill::Attend(int64_t layer, std::span<const int32_t> rows_tokens, const AttentionArgs& args,
                           const KvCache& cache, std::span<const TokenRecord> layout) {
  const auto rows = static_cast<double>(args.q.rows);
  const double dense = rows * static_cast<double>(Before(rows_tokens.front())) + rows * (rows + 1) / 2;
  if (layer < start_) {
    dense_layer_pairs_ += dense;
    return false;
  }
  if (kind_ == Kind::kBlockSparse) {
    const SparsePlan plan = PlanBlocks(EstimateBlockShares(args, blocks_), args, blocks_);
    chosen_pairs_ += CountPairs(plan, static_cast<int64_t>(args.kv.size()));
    pairs_.dense += dense;
    SparseAttention({args, {}}, plan);
    return true;
  }
  const BlockPlan& block = PlanOf(rows_tokens, layout);
  pairs_.Add(block.pairs);
  if (block.plan.passes.empty()) return false;  // text alone
  std::vector<std::span<const int32_t>> tokens;
  for (int64_t head = 0; head < cache.shape().kv_heads; ++head) tokens.push_back(cache.EntryTokens(layer, head));
  SparseAttention({args, tokens}, block.plan);
  return true;
}

PrefillStats SparsePrefill::stats() const {
  PrefillStats stats;
  stats.start = start_;
  if (!active() || pairs_.dense == 0) return stats;
  const auto share = [&](double pairs) { return pairs / pairs_.dense; };
  const double sparse = kind_ == Kind::kBlockSparse ? chosen_pairs_ : pairs_.sum();
  stats.flops_share = (dense_layer_pairs_ + sparse) / (dense_layer_pairs_ + pairs_.dense);
  if (kind_ == Kind::kBlockSparse) {
    stats.parts = {{"blocks", share(chosen_pairs_)}};
  } else {
    stats.parts = {{"text_queries", share(pairs_.text_rows)},
                   {"text_and_sinks", share(pairs_.prefix)},
                   {"spatial", share(pairs_.spatial)},
                   {"anchors", share(pairs_.anchors)},
                   {"temporal", share(pairs_.temporal)}};
  }
  return stats;
}

}  // namespace purekv
