// Scorers and shapers that several policies are made of. All in f64, one KV head per thread; costs are linear in the
// entries.
#pragma once

#include <cstdint>
#include <vector>

#include "policy/policy.h"

namespace purekv {

// L2 norms of the stored keys or values. [kv_heads][entries]
Scores KeyNorms(const LayerEntries& entries);
Scores ValueNorms(const LayerEntries& entries);

// -cos(k_j, mean_j k_j / ||k_j||), the mean over all entries, protected ones included (KeyDiff, arXiv 2504.15364).
Scores KeyDifference(const LayerEntries& entries);

// One plane of the observed sums divided by the group size: the mean over the query heads of a KV head.
Scores GroupMean(const LayerEntries& entries, const AttentionSums& sums, int64_t plane);

// The first plane divided by the number of query heads of the layer: the mean over all of them, one list for all KV
// heads, which hold the same tokens.
Scores LayerMean(const LayerEntries& entries, const AttentionSums& sums);

// GroupMean of the first plane divided by the number of observed queries.
Scores WindowMean(const LayerEntries& entries, const AttentionSums& sums);

enum class Pool { kNone, kAverage, kMax };
// Pools over neighbouring entries 0 .. length-1 of `scores`, in place: `kernel` (odd) wide, stride 1, zeros outside; an
// average is divided by `kernel` at the edges too. Entries from `length` on stay.
void PoolScores(Pool pool, int64_t kernel, int64_t length, std::vector<double>& scores);

// Row `entry` of a head's keys or values as f64. out [head_dim]
void KeyRow(const KvHeadView& head, int64_t entry, int64_t head_dim, double* out);
void ValueRow(const KvHeadView& head, int64_t entry, int64_t head_dim, double* out);

// Throws Error naming layer, head and token when a score is NaN or infinite: never a silent choice.
void CheckScores(const std::string& policy, const LayerEntries& entries, const std::vector<Scores>& planes);

}  // namespace purekv
