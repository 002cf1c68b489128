// Exact attention over the keys that a plan names: its parts one by one, merged by log-sum-exp.
#pragma once

#include <cstdint>
#include <span>

#include "attention/attention.h"
#include "attention/sparse_plan.h"

namespace purekv {

struct SparseAttentionArgs {
  // As for Attention, causal: the last q.rows entries of every KV head are the rows' own keys.
  AttentionArgs dense;
  // What the plan's keys are. Given: sequence indices; tokens[g] holds that of each entry of KV head g, ascending; keys
  // that a head does not hold are left out. Empty: entry indices themselves.
  std::span<const std::span<const int32_t>> tokens;
};

// out and lse as Attention's. Working memory: AttentionWorkspace::states of rows x heads x (head_dim + 2) floats where
// the plan has several passes, and per thread, beside a tile's, the keys and values of a part, up to 4096 of them at a
// time. The same bits on any number of threads.
void SparseAttention(const SparseAttentionArgs& args, const SparsePlan& plan);

}  // namespace purekv
