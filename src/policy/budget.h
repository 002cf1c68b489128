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
  // [layers] Behind the rows of which layer each one is cut: its own, or a higher one that it waits for.
  std::vector<int64_t> cut_behind;
  bool together = false;    // all heads of all layers share their entries out so (PolicyInfo::repeats)
  int64_t entry_bytes = 0;  // of each kept entry beside key and value: how many tokens it stands for
};

// Entries that every KV head keeps. [layers][kv_heads]
using HeadCounts = std::vector<std::vector<int64_t>>;

// The most bytes (KvCache::AllocatedBytes) that the capped part ever takes with these counts. Exact but for `shared`
// and `together`, where it is a bound for every way to share out, and for `entry_bytes`, which a head that merges
// nothing does not take.
int64_t CappedBytes(const CappedPart& part, const HeadCounts& counts);

// What is held when the part has been read and cut, and `more` entries a head behind it.
int64_t HeldBytes(const CappedPart& part, const HeadCounts& counts, int64_t more);

// B of KvOptions::bytes: the largest whose CappedBytes are at most `bytes`, never above part.tokens. counts_of: the
// counts for a B, with a mean of B. Throws Error (kUsage) that says what would do when not even 1 fits.
int64_t LargestBudget(int64_t bytes, const CappedPart& part, const std::function<HeadCounts(int64_t base)>& counts_of);

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

// PrefixKV (arXiv 2412.03409): entries per head of each layer, `protected_count` and x_l more, the x_l such that every
// layer keeps the same share of its mass as nearly as whole entries allow: the next one goes to the layer whose x_l
// largest masses are the smallest share of all of its. All layers together hold exactly layers * base. masses:
// [layers][tokens], none negative; where all are 0 each counts the same.
std::vector<int64_t> PrefixCounts(const std::vector<std::vector<double>>& masses, int64_t base,
                                  int64_t protected_count);

// The layers' shares at a budget in (0, 1], on straight lines between the budgets that are given: at 0 all are 0, at 1
// all are 1. shares: CheckLayerShares takes them. [layers]
std::vector<double> SharesAt(const std::vector<LayerShares>& shares, double budget);

// The same with shares that are known: entries per head of each layer in proportion to them, but none below
// protected_count + 1 or above `tokens`, rounded so that layers 0 .. l together hold the rounded sum of theirs. All
// layers together hold exactly layers * base. shares: above 0; protected_count < base <= tokens. [layers]
std::vector<int64_t> ShareCounts(std::span<const double> shares, int64_t base, int64_t tokens, int64_t protected_count);

// Throws Error (kUsage): lists of different lengths, budgets that do not ascend, numbers that are out of range.
void CheckLayerShares(const std::vector<LayerShares>& shares);

// How well each KV head copies: the share of its attention, at a token of a passage that is read a second time, on the
// same place of the first reading, in [0, 1] (engine/copying_heads.h). [layers][kv_heads]
using CopyingHeads = std::vector<std::vector<double>>;

// What a head that does not copy at all still weighs.
constexpr double kLeastCopying = 0.005;

// Entries of each head in proportion to how well it copies, on top of the protected ones:
//   n_i = min(tokens, protected + c (copying_i + kLeastCopying)^gamma),
// c being such that all lists together hold lists * B, rounded so that lists 0 .. i together hold the rounded sum of
// theirs. B < tokens, protected <= B. [lists]
std::vector<int64_t> RetrievalCounts(std::span<const double> copying, int64_t base, int64_t tokens,
                                     int64_t protected_count, double gamma);

}  // namespace purekv
