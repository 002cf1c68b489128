#include "attention/merge_states.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "kernels/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "attention/merge_states.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/simd-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace purekv {
namespace HWY_NAMESPACE {

// out = x * a + y * b; y may be null.
template <class Out>
HWY_INLINE void Blend(const float* x, float a, const float* y, float b, int64_t n, Out* out) {
  const FloatVec va = hn::Set(FloatTag(), a);
  const FloatVec vb = hn::Set(FloatTag(), b);
  for (int64_t i = 0; i < n; i += kLanes) {
    const bool whole = i + kLanes <= n;
    FloatVec sum = hn::Mul(whole ? LoadVec(x + i) : LoadPart(x + i, n - i), va);
    if (y != nullptr) sum = hn::MulAdd(whole ? LoadVec(y + i) : LoadPart(y + i, n - i), vb, sum);
    if (whole) {
      StoreVec(sum, out + i);
    } else {
      StorePart(sum, out + i, n - i);
    }
  }
}

constexpr float kNone = -std::numeric_limits<float>::infinity();

void Join(const PartialState& into, const PartialState& part) {
  PUREKV_CHECK(into.o.rows == part.o.rows && into.o.cols == part.o.cols, "states of different shapes");
  for (int64_t r = 0; r < into.o.rows; ++r) {
    if (part.m[r] == kNone) continue;
    const bool empty = into.m[r] == kNone;
    const float m = std::max(into.m[r], part.m[r]);
    const float keep = empty ? 0.0F : std::exp(into.m[r] - m);
    const float add = std::exp(part.m[r] - m);
    Blend(part.o.Row(r), add, empty ? nullptr : into.o.Row(r), keep, into.o.cols, into.o.Row(r));
    into.l[r] = part.l[r] * add + (empty ? 0.0F : into.l[r] * keep);
    into.m[r] = m;
  }
}

void Finish(const PartialState& there, const PartialState& part, AnyMatrixView out, float* lse) {
  PUREKV_CHECK(part.o.rows == out.rows && part.o.cols == out.cols, "state and output of different shapes");
  for (int64_t r = 0; r < out.rows; ++r) {
    const float m1 = there.m == nullptr ? kNone : there.m[r];
    const float m = std::max(m1, part.m[r]);
    const float a = part.m[r] == kNone ? 0.0F : std::exp(part.m[r] - m);
    const float b = m1 == kNone ? 0.0F : std::exp(m1 - m);
    const float l = (a > 0 ? part.l[r] * a : 0.0F) + (b > 0 ? there.l[r] * b : 0.0F);
    const float scale = l > 0 ? 1.0F / l : 0.0F;
    const float* other = b > 0 ? there.o.Row(r) : nullptr;
    if (out.dtype == Dtype::kF32) {
      Blend(part.o.Row(r), a * scale, other, b * scale, out.cols, static_cast<float*>(out.data) + r * out.stride);
    } else {
      Blend(part.o.Row(r), a * scale, other, b * scale, out.cols, static_cast<BF16*>(out.data) + r * out.stride);
    }
    if (lse != nullptr) lse[r] = l > 0 ? m + std::log(l) : kNone;
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace purekv
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace purekv {
namespace {
HWY_EXPORT(Join);
HWY_EXPORT(Finish);
}  // namespace

void JoinState(const PartialState& into, const PartialState& part) {
  HWY_DYNAMIC_DISPATCH(Join)(into, part);
}

void FinishJoined(const PartialState& there, const PartialState& part, AnyMatrixView out, float* lse) {
  HWY_DYNAMIC_DISPATCH(Finish)(there, part, out, lse);
}

}  // namespace purekv
#endif  // HWY_ONCE
