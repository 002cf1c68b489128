// How many entries are kept: the base budget B, the room that protected spans may take of it, and how the pyramid
// allocator shares it out over layers. One place for all the arithmetic (docs/policies.md, "Budget").
#pragma once

#include <cstdint>
#include <vector>

#include "cache/kv_cache.h"
#include "purekv/session.h"

namespace purekv {

// floor(fraction * count), with 1e-6 added so that 0.3 * 10 is 3 in every rounding of 0.3.
int64_t FloorShare(double fraction, int64_t count);

// B: entries kept per layer and KV head of `tokens` tokens, before the allocator; at least 1, never above `tokens`
// (a budget that holds everything is one of `tokens`). Throws Error (kUsage) when --kv-bytes does not hold one token.
int64_t BaseBudget(const KvOptions& options, const KvCacheShape& shape, int64_t tokens);

// Entries of a head that are kept whatever their score: its first `sinks` and last `recent`.
struct Protection {
  int64_t sinks = 0;
  int64_t recent = 0;
  int64_t count() const { return sinks + recent; }
};

// The spans asked for, cut to their share of B: a quarter for sinks, half for recent tokens.
Protection CappedProtection(int64_t sinks, int64_t recent, int64_t base);

// PyramidKV (arXiv 2406.02069): entries per head of each layer, a linear ramp down from 2B - lo to
// lo = max(B / beta, protected, 2B - tokens), rounded so that all layers together hold exactly layers * B.
std::vector<int64_t> PyramidCounts(int64_t layers, int64_t base, int64_t tokens, int64_t protected_count, double beta);

}  // namespace purekv
