// How much attention each key receives, from Q, K and the rows' log-sum-exp: a second pass over Q K^T that adds columns
// up, or keeps the largest of each, as it goes, never an N x N matrix. What score-based cache policies look at.
#pragma once

#include <cstdint>
#include <span>

#include "attention/attention.h"
#include "base/matrix.h"
#include "kernels/kv_view.h"

namespace purekv {

struct ColumnSumsArgs {
  MatrixView<const float> q;       // [rows, heads * head_dim], rotated, not scaled: as Attention got them
  std::span<const KvHeadView> kv;  // [kv_heads]
  int64_t heads = 0;
  int64_t head_dim = 0;
  float scale = 0;
  bool causal = true;          // as AttentionArgs::causal
  const float* lse = nullptr;  // [rows, heads], as Attention wrote it
  // Planes of sums: empty for one plane in which every row counts 1; else what row i of head h counts in each plane (0:
  // not at all), for example one plane per class of query. [planes][rows * heads]
  std::span<const float* const> weights;
  // Without weights: a second plane, of the squares of the probabilities.
  bool squares = false;
  // [planes * kv_heads], each at least as long as its KV head; added to: sums[p * kv_heads + g][j] += sum over rows i
  // and query heads h of KV head g of weights[p][i, h] * exp(scale * q[h, i] . k[g, j] - lse[i, h]), for entries j that
  // row i sees.
  std::span<double* const> sums;

  int64_t planes() const { return weights.empty() ? (squares ? 2 : 1) : static_cast<int64_t>(weights.size()); }
  AttentionWorkspace* workspace = nullptr;  // as AttentionArgs::workspace
};

// The same bits on any number of threads. Logits as Attention's: bf16 products where the keys are bf16 and the CPU
// level has them, else f32.
void ColumnSums(const ColumnSumsArgs& args);

// The same with the largest in place of the sum: sums[g][j] = max(sums[g][j], exp(scale * q[h, i] . k[g, j] -
// lse[i, h])) over rows i that see j and query heads h of KV head g. Neither weights nor squares.
void ColumnMaxima(const ColumnSumsArgs& args);

}  // namespace purekv
