// Many rows of bf16 times weights that are expanded block by block, multiplied pair by pair (VDPBF16PS). Only on
// processors of CpuLevel::kAvx512Bf16.
#pragma once

#include <cstdint>

#include "base/any_matrix.h"
#include "kernels/packed_weights.h"

namespace purekv {

// Weights [out, in] in panels of 32 outputs and blocks of 256 inputs, the last one a multiple of 32: with zeros behind
// the last output and input.
struct ExpandedWeights {
  static constexpr int64_t kPanel = 32;
  static constexpr int64_t kBlock = 256;

  int64_t in = 0;
  int64_t out = 0;
  // One block of a panel as [pairs of inputs][32 outputs][2] bf16.
  void (*expand)(const void* context, int64_t panel, int64_t block, char* to) = nullptr;
  const void* context = nullptr;
  const float* row_scales = nullptr;  // [out, in whole panels] multiply the sums; or null
};

// x [n, in] bf16, any stride. A row's sums do not depend on the rows beside it.
void MultiplyRowsBF16(AnyMatrixView x, const ExpandedWeights& weights, const Epilogue& epilogue);

}  // namespace purekv
