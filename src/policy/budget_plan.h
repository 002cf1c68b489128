// How many entries each layer keeps of a compressed prefix: the budget's B and the allocator's share of every layer.
#pragma once

#include <cstdint>
#include <vector>

#include "cache/kv_cache.h"
#include "policy/budget.h"
#include "policy/registry.h"

namespace purekv {

struct BudgetPlan {
  int64_t base = 0;  // B
  // Of every head (ada shares the layer's sum out); B or more: all. Of a layer with a window what that holds.
  HeadCounts counts;
  // [layers] B of each full one, by what its entries take (BudgetByEntries), and B their mean; empty: B everywhere.
  std::vector<int64_t> bases{};

  int64_t BaseOf(int64_t layer) const { return bases.empty() ? base : bases[static_cast<size_t>(layer)]; }
};

// Whether B follows from what entries of each layer take as they are stored, by the formulas of docs/policies.md: a
// share of bytes is asked for, or bytes of a cache that encodes or has an index. Else bytes are what is allocated.
bool BudgetByEntries(const KvOptions& options, const KvCacheSpec& spec);

// Of a prefix of `tokens` tokens. copying: of the model's heads, where the allocator asks for it. Throws Error (kUsage)
// when a budget in bytes does not hold one token per head.
BudgetPlan PlanBudget(const PolicySetup& setup, const KvOptions& options, const KvCacheSpec& spec,
                      const CopyingHeads& copying, int64_t tokens);
// The same where B is known: `base` in 1 .. tokens.
BudgetPlan PlanFromBase(const PolicySetup& setup, const KvCacheSpec& spec, const CopyingHeads& copying, int64_t tokens,
                        int64_t base);

// Bytes of keys and values that a prefix of `tokens` tokens takes which is read and cut so, with `behind` tokens behind
// it that are all kept: afterwards, and the most at any moment. For every way to share out, where a policy shares out
// by what it sees: then a bound. Without an index, and as if all lay in memory.
struct PlannedBytes {
  int64_t kept = 0, peak = 0;
};
PlannedBytes BytesOf(const PolicySetup& setup, const KvOptions& options, const KvCacheSpec& spec,
                     const BudgetPlan& plan, int64_t tokens, int64_t behind);

}  // namespace purekv
