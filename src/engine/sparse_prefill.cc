#include "engine/sparse_prefill.h"

#include <algorithm>

#include "base/error.h"
#include "policy/registry.h"

namespace purekv {
namespace {

// Where nothing else is known: above the default source layer of the policy purekv.
constexpr int64_t kDefaultStart = 3;

}  // namespace

PolicyOption StartOption() {
  PolicyOption option = WordOrIntegerOption("start", "auto", 0, 1000);
  option.range = "auto or the first sparse layer, 0 .. 1000";
  return option;
}

int64_t FirstSparseLayer(const std::string& kind, const OptionValues& values, const PrefillContext& context) {
  const int64_t scoring = context.last_scoring_layer;
  const int64_t layers = context.layers;
  const bool given = !values.Is("start", "auto");
  const int64_t start = given ? values.Integer("start") : std::max(std::min(kDefaultStart, layers - 1), scoring + 1);
  const Message asked = given ? Say(Field{"prefill.option.start"}, "=", start) : Say(Field{"prefill.kind"}, " ", kind);
  if (scoring == layers - 1) {
    const Message& hint = FindPolicy(context.kv.policy).score_lower;
    FailUsage(asked, ": policy ", context.kv.policy, " needs the attention scores of layer ", scoring,
              ", the last one, which sparse attention does not give; ",
              hint.text.empty() ? Say("choose another ", Field{"kv.policy"}) : hint);
  }
  if (start <= scoring) {
    FailUsage(asked, ": policy ", context.kv.policy, " needs the attention scores of layer ", scoring,
              ", which sparse attention does not give; start above it, at ", scoring + 1, " or more");
  }
  if (start >= layers) FailUsage(asked, ": out of range (layers 0 .. ", layers - 1, ")");
  return start;
}

void SparsePrefill::Begin() {
  alive_.clear();
  ForgetPlans();
}

void SparsePrefill::Drop(std::span<const int32_t> alive) {
  alive_.assign(alive.begin(), alive.end());
  ForgetPlans();
}

int64_t SparsePrefill::Before(int32_t token) const {
  if (alive_.empty() || token <= alive_.front()) return token;
  return alive_.front() + (std::lower_bound(alive_.begin(), alive_.end(), token) - alive_.begin());
}

void SparsePrefill::Run(int64_t layer, std::span<const int32_t> tokens, const AttentionArgs& args, const KvCache& cache,
                        std::span<const TokenRecord> layout) {
  const auto rows = static_cast<double>(args.q.rows);
  const double dense = rows * static_cast<double>(Before(tokens.front())) + rows * (rows + 1) / 2;
  if (layer >= start_) return RunSparse(layer, tokens, args, cache, layout, dense);
  dense_layer_pairs_ += dense;
  Attention(args);
}

PrefillStats SparsePrefill::stats() const {
  PrefillStats stats;
  stats.start = start_;
  const Pairs pairs = Computed();
  if (pairs.dense == 0) return stats;
  double sparse = 0;
  for (const auto& [name, computed] : pairs.parts) {
    sparse += computed;
    stats.parts.push_back({name, computed / pairs.dense});
  }
  stats.flops_share = (dense_layer_pairs_ + sparse) / (dense_layer_pairs_ + pairs.dense);
  return stats;
}

}  // namespace purekv
