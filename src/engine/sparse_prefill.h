// Sparse prefill of one conversation: what --prefill asks for, checked, and the attention of the layers it concerns.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "attention/attention.h"
#include "attention/block_sparse.h"
#include "attention/sparse_plan.h"
#include "cache/kv_cache.h"
#include "cache/token_layout.h"
#include "engine/spatial_temporal.h"
#include "policy/compressor.h"
#include "policy/options.h"
#include "purekv/session.h"

namespace purekv {

// Kinds of prefill and their options, as `purekv ... --help` and errors list them.
struct PrefillKind {
  std::string name;
  std::string summary;  // one line
  std::vector<PolicyOption> options;
};
const std::vector<PrefillKind>& PrefillKinds();

// Throws Error (kUsage) naming the flag when the kind is unknown, or an option is unknown or out of range.
void CheckPrefillOptions(const PrefillOptions& options);

class SparsePrefill {
 public:
  // Throws Error (kUsage) as CheckPrefillOptions, and when no layer is left to be sparse: above the model, or at or
  // below a layer whose attention scores the policy needs.
  SparsePrefill(const PrefillOptions& options, const KvOptions& kv, const Compressor& compressor, int64_t layers);

  bool active() const { return kind_ != Kind::kDense; }
  // Only tokens of videos and images are sparse: reading text alone, this could not take effect.
  bool needs_media() const { return kind_ == Kind::kSpatialTemporal; }

  // ForwardHooks::attention_rows: a cell's column over time is read once for all rows that attend together.
  int64_t AttentionRows(int64_t layer) const;
  // Rows through all layers come next: plans of other rows are forgotten.
  void Begin() {
    plans_.clear();
    alive_.clear();
  }
  // Of the tokens since Begin only these (ascending) go on: plans of all of them are forgotten.
  void Drop(std::span<const int32_t> alive) {
    plans_.clear();
    alive_.assign(alive.begin(), alive.end());
  }
  // ForwardHooks::attend: `args` is the attention of the rows of these tokens (ascending), whose keys `cache` holds
  // already. layout: records of all tokens in the cache. False: dense attention is what the rows want.
  bool Attend(int64_t layer, std::span<const int32_t> tokens, const AttentionArgs& args, const KvCache& cache,
              std::span<const TokenRecord> layout);

  PrefillStats stats() const;

 private:
  enum class Kind { kDense, kSpatialTemporal, kBlockSparse };
  struct BlockPlan {
    SparsePlan plan;
    PatternPairs pairs;
  };
  // Tokens before `token` that a layer runs, were nothing evicted.
  int64_t Before(int32_t token) const;
  const BlockPlan& PlanOf(std::span<const int32_t> tokens, std::span<const TokenRecord> layout);

  Kind kind_ = Kind::kDense;
  int64_t start_ = 0;
  SpatialTemporalPattern pattern_;
  BlockSparseOptions blocks_;
  std::map<int32_t, BlockPlan> plans_;  // by first token, for all layers up to the next drop
  std::vector<int32_t> alive_;          // of the rows since Begin; empty: all
  PatternPairs pairs_;                  // of all sparse layers
  double chosen_pairs_ = 0;             // block-sparse: mean over KV heads
  double dense_layer_pairs_ = 0;        // of the layers below start
};

}  // namespace purekv
