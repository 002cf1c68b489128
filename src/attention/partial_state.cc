#include "attention/partial_state.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/bfloat16.h"
#include "base/error.h"

namespace purekv {
namespace {
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
}

PartialState StateIn(float* memory, int64_t rows, int64_t head_dim) {
  const int64_t padded = PaddedRows(rows);
  return {memory, memory + padded, {memory + 2 * padded, rows, head_dim, PaddedRows(head_dim)}};
}

void ResetState(const PartialState& state) {
  std::fill_n(state.m, state.o.rows, kMinusInfinity);
  std::fill_n(state.l, state.o.rows, 0.0f);
  for (int64_t r = 0; r < state.o.rows; ++r) std::fill_n(state.o.Row(r), state.o.cols, 0.0f);
}

void MergeState(const PartialState& into, const PartialState& part) {
  PUREKV_CHECK(into.o.rows == part.o.rows && into.o.cols == part.o.cols, "states of different shapes");
  for (int64_t r = 0; r < into.o.rows; ++r) {
    if (part.m[r] == kMinusInfinity) continue;  // exp(-inf - -inf) would be NaN
    const float m = std::max(into.m[r], part.m[r]);
    const float keep = std::exp(into.m[r] - m);  // 0 when `into` is empty
    const float add = std::exp(part.m[r] - m);
    float* o = into.o.Row(r);
    const float* other = part.o.Row(r);
    for (int64_t d = 0; d < into.o.cols; ++d) o[d] = o[d] * keep + other[d] * add;
    into.l[r] = into.l[r] * keep + part.l[r] * add;
    into.m[r] = m;
  }
}

void FinishState(const PartialState& state, AnyMatrixView out, float* lse, int64_t lse_stride) {
  PUREKV_CHECK(state.o.rows == out.rows && state.o.cols == out.cols, "state and output of different shapes");
  for (int64_t r = 0; r < out.rows; ++r) {
    const bool empty = state.m[r] == kMinusInfinity;
    const float scale = empty ? 0.0f : 1.0f / state.l[r];
    const float* o = state.o.Row(r);
    if (out.dtype == Dtype::kF32) {
      float* to = static_cast<float*>(out.data) + r * out.stride;
      for (int64_t d = 0; d < out.cols; ++d) to[d] = o[d] * scale;
    } else {
      BF16* to = static_cast<BF16*>(out.data) + r * out.stride;
      for (int64_t d = 0; d < out.cols; ++d) to[d] = ToBF16(o[d] * scale);
    }
    if (lse != nullptr) lse[r * lse_stride] = empty ? kMinusInfinity : state.m[r] + std::log(state.l[r]);
  }
}

}  // namespace purekv
