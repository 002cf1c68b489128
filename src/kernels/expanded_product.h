// Many rows of x times weights that must be expanded before they can be multiplied: some outputs at a time, by the
// thread that multiplies them, while they are in its cache.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/any_matrix.h"
#include "base/memory.h"
#include "kernels/packed_weights.h"

namespace purekv {

class ExpandedProduct {
 public:
  // Rows [first, first + count) of the weights as f32 or bf16 (`dtype`), dense [count][in]: in `block`, or where they
  // are already.
  using Expand = std::function<const void*(int64_t first, int64_t count, Buffer& block)>;

  // dtype: what oneDNN multiplies, rows of x too; bf16 only at CpuLevel::kAvx512Bf16 and above.
  ExpandedProduct(int64_t in, int64_t out, Dtype dtype) : in_(in), out_(out), dtype_(dtype) {}

  // x [n, in], f32 or bf16, any stride. row_scales [out rounded up to 32] multiply the sums, or null.
  void Run(AnyMatrixView x, const Expand& expand, const float* row_scales, const Epilogue& epilogue) const;
  // What oneDNN takes for `rows` rows of x: "brg:avx512_core_bf16".
  std::string Name(int64_t rows) const;

 private:
  int64_t in_;
  int64_t out_;
  Dtype dtype_;
};

}  // namespace purekv
