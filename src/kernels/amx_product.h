// Many rows of bf16 times weights in tiles, on all threads: weights that are packed, or expanded block by block.
#pragma once

#include <cstdint>

#include "base/any_matrix.h"
#include "kernels/amx_matmul.h"
#include "kernels/packed_weights.h"

namespace purekv::amx {

struct Weights {
  int64_t in = 0;
  int64_t out = 0;
  // As in Task.
  const char* packed = nullptr;
  Expand expand = nullptr;
  const void* expand_context = nullptr;
  const float* row_scales = nullptr;  // [out, in whole panels] multiply the sums; or null
};

// x [n, in] bf16, any stride.
void MultiplyRows(AnyMatrixView x, const Weights& weights, const Epilogue& epilogue);

}  // namespace purekv::amx
