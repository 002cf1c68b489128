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
  // parts afterwards.
  Linear(std::span<const WeightRows> parts, int64_t in, std::span<const float> bias, Dtype compute);

  // y = x W^T + b, or y += x W^T + b when `accumulate` (residual connections). x [n, in] of dtype compute(); y [n, out]
  // f32. Accumulation is f32. n may be 0.
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
