// Views whose element type is chosen at run time: activations are f32 or bf16, as the model's compute dtype says.
#pragma once

#include <cstdint>

#include "base/matrix.h"
#include "purekv/dtype.h"

namespace purekv {

// [rows, cols] row-major; `stride` in elements; dtype kF32 or kBF16. `data` is read-only unless the callee says it
// writes.
struct AnyMatrixView {
  void* data = nullptr;
  Dtype dtype = Dtype::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;

  AnyMatrixView Rows(int64_t first, int64_t count) const {
    return {static_cast<char*>(data) + static_cast<size_t>(first * stride) * DtypeSize(dtype), dtype, count, cols,
            stride};
  }
  AnyMatrixView Cols(int64_t first, int64_t count) const {
    return {static_cast<char*>(data) + static_cast<size_t>(first) * DtypeSize(dtype), dtype, rows, count, stride};
  }
};

// Owner of an AnyMatrixView. Uninitialised.
class AnyMatrix {
 public:
  AnyMatrix() = default;
  AnyMatrix(Dtype dtype, int64_t rows, int64_t cols)
      : buffer_(static_cast<size_t>(rows * cols) * DtypeSize(dtype)), dtype_(dtype), rows_(rows), cols_(cols) {}
  AnyMatrixView View() { return {buffer_.data(), dtype_, rows_, cols_, cols_}; }

 private:
  Buffer buffer_;
  Dtype dtype_ = Dtype::kF32;
  int64_t rows_ = 0;
  int64_t cols_ = 0;
};

}  // namespace purekv
