// How many entries are kept: the base budget B, the room that protected spans may take of it, and how the pyramid
// allocator shares it out over layers. One place for all the arithmetic (docs/policies.md, "Budget").
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "cache/kv_cache.h"
#include "purekv/options.h"

namespace purekv {

// floor(fraction * count), with 1e-6 added so that 0.3 * 10 is 3 in every rounding of 0.3.
int64_t FloorShare(double fraction, int64_t count);

// B of KvOptions::budget or tokens: entries kept per layer and KV head of `tokens` tokens, before the allocator; at
// least 1, never above `tokens` (a budget that holds everything is one of `tokens`).
int64_t BaseBudget(const KvOptions& options, int64_t tokens);

// A part that is read and cut under KvOptions::bytes, which caps what is allocated for its keys and values.
struct CappedPart {
  KvCacheSpec spec;
  int64_t tokens = 0;  // N
  int64_t chunk =
      0;  // tokens read between two cuts (KvOptions::chunk): the cap holds at every moment; 0: behind the cut
  bool shared = false;  // ada: the heads of a layer share its entries out in a way that is not known beforehand
  bool holds = false;   // the policy goes on evicting: the cap holds while it decodes, one entry per head above B
  // [layers] Behind the rows of which layer each one is cut: its own, or a higher one that it waits for. Layers between
  // the two wait for the same.
  std::vector<int64_t> cut_behind;
  bool together = false;  // all heads of all layers share their entries out so (PolicyInfo::repeats)
};

// The most bytes (KvCache::AllocatedBytes) that the capped part ever takes when every head of layer l keeps counts[l]
// entries, counts [layers]. Exact but for `shared` and `together`, where it is a bound for every way to share
// out.
int64_t CappedBytes(const CappedPart& part, std::span<const int64_t> counts);

// B of KvOptions::bytes: the largest whose CappedBytes are at most `bytes`, never above part.tokens. counts_of: entries
// per head of each layer for a B, with a mean of B. Throws Error (kUsage) that says what would do when not even 1 fits.
int64_t LargestBudget(int64_t bytes, const CappedPart& part,
                      const std::function<std::vector<int64_t>(int64_t base)>& counts_of);

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
