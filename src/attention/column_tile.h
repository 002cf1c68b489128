// The f32 twin of the bf16 kernels' column sums and maxima.
#pragma once

#include <cstdint>

#include "attention/tile.h"

namespace purekv {

struct ColumnRows {
  AttentionTile tile;              // its rows, keys and limits
  const float* lse = nullptr;      // [tile.rows()], natural logarithm; +infinity: the row does not count
  const float* weights = nullptr;  // [planes][weight_stride], or null: one plane of ones,
  bool squares = false;            // and a second one of the squares of the probabilities
  int64_t weight_stride = 0;
  int64_t planes = 1;
  bool maxima = false;  // in place of sums; one plane without weights
};

// sums[plane][j] += sum over the tile's rows of weight * exp(logit - lse), for keys j in
// [tile.key_begin, tile.key_end); maxima: the largest of sums[0][j] and every exp(logit - lse). Scratch of
// ColumnScratchBytes, 64-byte aligned.
void AddColumns(const ColumnRows& rows, double* const* sums, char* scratch);
int64_t ColumnScratchBytes(int64_t planes, int64_t head_dim);

}  // namespace purekv
