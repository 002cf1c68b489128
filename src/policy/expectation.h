// What queries to come are expected to attend to (Expected Attention, arXiv 2510.00636): queries as the part's were
// before rotation, a Gaussian, at the mean rotation of the positions that follow.
#pragma once

#include <cstdint>
#include <span>

#include "policy/policy.h"

namespace purekv {

struct Expectation {
  int64_t horizon = 512;   // positions that follow
  bool covariance = true;  // false: the mean query alone
  // One Gaussian for all query heads of a KV head, the mixture's mean and covariance: a group-th of the work, which is
  // head_dim^2 per key and Gaussian.
  bool pooled = false;
  int64_t first = 0;  // entries before it are left out of the softmax: 0
};

// Where no query has been seen (between two compressions of a few steps), every entry is as likely.
// Else the softmax over entries j of (mean . k_j) / sqrt(d) + k_j^T covariance k_j / (2d), the mean over the query
// heads of a KV head. queries: of each layer whose heads attend to the entries, at least one. [kv_heads][entries]
Scores ExpectedProbabilities(const LayerEntries& entries, std::span<const QueryStats* const> queries,
                             const Expectation& how);

}  // namespace purekv
