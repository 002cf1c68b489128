// Attention over the blocks of keys that matter, chosen by content while the prompt is read, in the manner of
// XAttention (arXiv 2503.16428): antidiagonals of Q K^T, summed over stride x stride squares, estimate each block's
// share of the probability.
#pragma once

#include <cstdint>
#include <vector>

#include "attention/attention.h"
#include "attention/sparse_plan.h"

namespace purekv {

struct BlockSparseOptions {
  int64_t block = 128;     // rows and keys of a block
  int64_t stride = 16;     // side of the squares; divides block
  double threshold = 0.9;  // share of the estimated probability that a block of queries keeps, 0 .. 1
};

// The estimated share of block of keys k among all that the block of queries q sees: shares[g][q][k], mean over the
// query heads of KV head g, sums of 1 over k. Blocks of queries begin at the first row, blocks of keys at the first
// entry. A square counts as seen when its first key is seen by its last query.
using BlockShares = std::vector<std::vector<std::vector<double>>>;
BlockShares EstimateBlockShares(const AttentionArgs& args, const BlockSparseOptions& options);

// Per KV head and block of queries: the fewest blocks of keys whose shares add up to the threshold (ties: the earlier
// one), and always the first one and those that hold the rows' own keys. threshold 1: all. Keys are entry indices.
SparsePlan PlanBlocks(const BlockShares& shares, const AttentionArgs& args, const BlockSparseOptions& options);

// Pairs of query and key in a plan of entry indices, mean over the KV heads.
double CountPairs(const SparsePlan& plan, int64_t kv_heads);

namespace reference {
BlockShares EstimateBlockShares(const AttentionArgs& args, const BlockSparseOptions& options);
}

}  // namespace purekv
