// What the row-wise kernels share: argument bundles that cross the dispatch, checks, and how many rows one task takes.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "base/any_matrix.h"
#include "base/error.h"
#include "base/matrix.h"
#include "kernels/elementwise.h"

namespace purekv {

struct NormArgs {
  MatrixView<const float> x;
  const float* weight = nullptr;
  const float* bias = nullptr;  // null: RMS norm (no mean taken off)
  float eps = 0;
  AnyMatrixView out;
};

struct ActivateArgs {
  Activation activation;
  MatrixView<const float> x;
  MatrixView<const float> up;  // no data: plain activation
  AnyMatrixView out;
};

struct RopeArgs {
  MatrixView<const float> x;
  int64_t heads = 0;
  int64_t head_dim = 0;
  MatrixView<const float> cos;
  MatrixView<const float> sin;
  AnyMatrixView out;  // may be x itself
};

struct CosSinArgs {
  MatrixView<const float> angles;
  MatrixView<float> cos;
  MatrixView<float> sin;
};

// Elements one task should see: large enough that handing tasks out costs nothing (about 10 us of work), small enough
// to balance two to dozens of cores.
constexpr int64_t kTaskElements = 16384;

inline int64_t RowGrain(int64_t cols) {
  return std::max<int64_t>(1, kTaskElements / std::max<int64_t>(1, cols));
}

template <class T>
T* OutRow(const AnyMatrixView& out, int64_t row) {
  return static_cast<T*>(out.data) + row * out.stride;
}

inline void CheckRows(const MatrixView<const float>& x, const AnyMatrixView& out) {
  PUREKV_CHECK(x.rows == out.rows && x.cols == out.cols, x.rows, " x ", x.cols, " into ", out.rows, " x ", out.cols);
  PUREKV_CHECK(out.dtype == Dtype::kF32 || out.dtype == Dtype::kBF16, DtypeName(out.dtype));
}

}  // namespace purekv
