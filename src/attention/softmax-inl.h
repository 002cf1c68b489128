// The softmax of one block of transposed logits; shared by the attention kernels. Included once per instruction set.
#if defined(PUREKV_ATTENTION_SOFTMAX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PUREKV_ATTENTION_SOFTMAX_INL_H_
#undef PUREKV_ATTENTION_SOFTMAX_INL_H_
#else
#define PUREKV_ATTENTION_SOFTMAX_INL_H_
#endif

#include <cstdint>
#include <limits>

// clang-format off
#include "hwy/highway.h"
#include "hwy/contrib/math/math-inl.h"
#include "kernels/simd-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace purekv {
namespace HWY_NAMESPACE {

// Keys per block. Wide tiles: 96 = 16 x 6 rows of the register tile, and P^T of a panel (24 KB) stays in the
// first-level cache.
constexpr int64_t kBlockKeys = 96;
static_assert(kLanes <= 16, "PaddedRows pads to 16 floats");

// Up to whole vectors.
HWY_INLINE int64_t WholeVecs(int64_t n) {
  return (n + kLanes - 1) / kLanes * kLanes;
}

// logits [keys][width] += bias [keys]; null: nothing.
HWY_INLINE void AddBias(const float* bias, int64_t keys, int64_t width, float* logits) {
  if (bias == nullptr) return;
  for (int64_t k = 0; k < keys; ++k) {
    for (int64_t c = 0; c < width; c += kLanes) {
      float* const at = logits + k * width + c;
      StoreVec(hn::Add(LoadVec(at), hn::Set(FloatTag(), bias[k])), at);
    }
  }
}

// One panel's softmax over a block: logits [keys][width] become probabilities relative to the new maxima m; `rescale`
// is what earlier sums must be multiplied with. Row c sees the block's keys below limits[c] (null: all), from begins[c]
// on (null: 0; only with limits).
HWY_INLINE void BlockSoftmax(float* HWY_RESTRICT logits, int64_t keys, int64_t width, const float* limits,
                             const float* begins, float* HWY_RESTRICT m, float* HWY_RESTRICT l,
                             float* HWY_RESTRICT rescale) {
  const FloatTag d;
  const FloatVec minus_infinity = hn::Set(d, -std::numeric_limits<float>::infinity());
  for (int64_t c = 0; c < width; c += kLanes) {
    float* column = logits + c;
    if (limits != nullptr) {
      const FloatVec limit = LoadVec(limits + c);
      for (int64_t k = 0; k < keys; ++k) {
        const auto seen = hn::Lt(hn::Set(d, static_cast<float>(k)), limit);
        StoreVec(hn::IfThenElse(seen, LoadVec(column + k * width), minus_infinity), column + k * width);
      }
      for (int64_t k = 0; begins != nullptr && k < keys; ++k) {
        const auto before = hn::Lt(hn::Set(d, static_cast<float>(k)), LoadVec(begins + c));
        StoreVec(hn::IfThenElse(before, minus_infinity, LoadVec(column + k * width)), column + k * width);
      }
    }
    const FloatVec old = LoadVec(m + c);
    FloatVec top0 = old;
    FloatVec top1 = old;
    int64_t k = 0;
    for (; k + 2 <= keys; k += 2) {
      top0 = hn::Max(top0, LoadVec(column + k * width));
      top1 = hn::Max(top1, LoadVec(column + (k + 1) * width));
    }
    if (k < keys) top0 = hn::Max(top0, LoadVec(column + k * width));
    const FloatVec top = hn::Max(top0, top1);
    // A row that has seen no key yet: subtract 0, not -infinity, which would make NaN of exp(-inf - -inf).
    const FloatVec shift = hn::IfThenElse(hn::Eq(top, minus_infinity), hn::Zero(d), top);
    FloatVec sum0 = hn::Zero(d);
    FloatVec sum1 = hn::Zero(d);
    for (k = 0; k + 2 <= keys; k += 2) {
      const FloatVec p0 = hn::Exp(d, hn::Sub(LoadVec(column + k * width), shift));
      const FloatVec p1 = hn::Exp(d, hn::Sub(LoadVec(column + (k + 1) * width), shift));
      StoreVec(p0, column + k * width);
      StoreVec(p1, column + (k + 1) * width);
      sum0 = hn::Add(sum0, p0);
      sum1 = hn::Add(sum1, p1);
    }
    if (k < keys) {
      const FloatVec p = hn::Exp(d, hn::Sub(LoadVec(column + k * width), shift));
      StoreVec(p, column + k * width);
      sum0 = hn::Add(sum0, p);
    }
    const FloatVec factor = hn::Exp(d, hn::Sub(old, shift));
    StoreVec(factor, rescale + c);
    StoreVec(hn::MulAdd(LoadVec(l + c), factor, hn::Add(sum0, sum1)), l + c);
    StoreVec(top, m + c);
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace purekv
HWY_AFTER_NAMESPACE();

#endif  // PUREKV_ATTENTION_SOFTMAX_INL_H_
