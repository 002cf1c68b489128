// Dense layers: y = x W^T + b, through oneDNN, weights packed once at load.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/any_matrix.h"
#include "base/matrix.h"

namespace purekv {

// Rows of a weight matrix as a checkpoint stores them: [rows, in] row-major, dtype f32, bf16 or f16, any alignment.
struct WeightRows {
  const void* data = nullptr;
  Dtype dtype = Dtype::kF32;
  int64_t rows = 0;
};

// A packed weight matrix [out, in] with an optional bias [out]. Immutable after construction; Run may be called from
// several threads at once.
class Linear {
 public:
  Linear();
  ~Linear();
  Linear(Linear&&) noexcept;
  Linear& operator=(Linear&&) noexcept;

  // Packs the parts stacked along the output dimension (q, k, v become one product). `compute` is f32 or bf16: the
  // format of packed weights and of the input rows. `bias` is empty or [sum of rows], f32. Holds no reference to the
  // parts afterwards, and never a copy of more than 512 rows beside the packed matrix. Throws Error when oneDNN has no
  // fast kernel for this processor. Where it has none for bf16 only (no AVX-512), the weights are rounded to bf16, kept
  // as f32 (twice the bytes: packed_bytes() and Implementation() tell), and give the same results.
  Linear(std::span<const WeightRows> parts, int64_t in, std::span<const float> bias, Dtype compute);

  // y = x W^T + b, or y += x W^T + b when `accumulate` (residual connections). x [n, in] of dtype compute(); y [n, out]
  // f32. Accumulation is f32. n may be 0. x and y must not overlap. Rows of either with gaps between them (stride !=
  // cols, n > 1) are copied, 512 rows at a time: oneDNN's fast kernels take dense rows only. Threads: oneDNN's order of
  // sums may depend on their number, so the last bits may too (seen with 3 threads in bf16).
  void Run(AnyMatrixView x, MatrixView<float> y, bool accumulate = false) const;

  int64_t in() const;
  int64_t out() const;
  Dtype compute() const;
  size_t packed_bytes() const;
  // Which implementation runs for `rows` input rows, e.g. "onednn brgemm:avx512_core_bf16".
  std::string Implementation(int64_t rows) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace purekv
