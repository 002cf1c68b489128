// What eviction throws away, folded into what stays: which kept entry takes in which evicted ones, and what it becomes
// (docs/policies.md, "Merging"). Entries are merged at compressions only, all at once, from what they were before.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/matrix.h"
#include "policy/budget.h"

namespace purekv {

struct LayerEntries;

enum class MergeRule : uint8_t {
  kNone,
  kNearest,   // into the kept entry of the nearest token (Elastic Cache, arXiv 2407.18121); all others go by cosine
  kAveraged,  // the mean of all, each as often as it counts (LOOK-M, arXiv 2406.18139)
  kWeighted,  // weighted by (1 + cosine) / 2
  kPivotal,   // the mean, of what lies halfway between an evicted entry and the kept one (LOOK-M)
  kValues     // values alone, weighted by cosine and norms (kvpress)
};

struct MergeOptions {
  MergeRule rule = MergeRule::kNone;
  bool same_kind = false;           // text into text, visual into visual
  bool mean_threshold = false;      // what is less like its target than the mean of its head is dropped;
  std::optional<double> threshold;  // or less than this cosine
  bool align = true;                // keys are compared and averaged before rotation, the result turned to its place
  int64_t window = 0;               // > 0: only targets at most so many tokens away
  bool bias = false;                // the logarithm of its count is added to an entry's logit

  bool merges() const { return rule != MergeRule::kNone; }
};

// A kept entry and the evicted ones that it takes in. Entry indices before the eviction.
struct MergedEntry {
  int32_t target = 0;
  std::vector<int32_t> sources;  // ascending
  std::vector<double> weights;   // of each source; the target has 1
};

// The keys of one head as merging compares them, [length, head_dim]: turned back to position 0 where `align`.
Matrix<float> MergeKeys(const LayerEntries& entries, int64_t head, bool align);

// Where the evicted entries go: those between `kept` (ascending), into kept ones that `spans` does not protect. Without
// such targets nothing is merged. Targets ascending.
std::vector<MergedEntry> MergeInto(const LayerEntries& entries, int64_t head, std::span<const int32_t> kept,
                                   const Protection& spans, const MergeOptions& options);

// What the kept entries have become.
struct MergedRows {
  Matrix<float> keys, values;   // [targets, head_dim], keys rotated
  std::vector<int32_t> counts;  // [targets]
};
// rule kNone: `merged` is another's choice and its weights are what counts (as kWeighted).
MergedRows Merge(const LayerEntries& entries, int64_t head, std::span<const MergedEntry> merged,
                 const MergeOptions& options);

}  // namespace purekv
