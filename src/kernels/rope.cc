// ApplyRope: rotate-half rotary embedding. CosSin: its angles.
#include "base/threads.h"
#include "kernels/elementwise.h"
#include "kernels/reference.h"
#include "kernels/rows.h"
#include "kernels/simd.h"
#include "kernels/simd_target.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/rope.cc"
// clang-format off
#include "hwy/foreach_target.h"  // must come before highway.h
#include "hwy/highway.h"
#include "hwy/contrib/math/math-inl.h"
#include "kernels/simd-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace purekv {
namespace HWY_NAMESPACE {

// The pair of halves of one head: (a, b) -> (a cos - b sin, b cos + a sin). Vector and scalar forms use the same
// operations (one product, one fused product), so that a value does not depend on where in the row it stands.
template <class T>
HWY_INLINE void RotateHead(const float* x, const float* cos, const float* sin, int64_t angles, int64_t half, T* out) {
  for (int64_t i = 0; i < angles; i += kLanes) {
    const int64_t n = HWY_MIN(kLanes, angles - i);
    const FloatVec c = LoadAt(cos, i, n);
    const FloatVec s = LoadAt(sin, i, n);
    const FloatVec a = LoadAt(x, i, n);
    const FloatVec b = LoadAt(x + half, i, n);
    const FloatVec first = hn::NegMulAdd(b, s, hn::Mul(a, c));
    const FloatVec second = hn::MulAdd(a, s, hn::Mul(b, c));
    if (n == kLanes) {
      StoreVec(first, out + i);
      StoreVec(second, out + half + i);
    } else {
      StorePart(first, out + i, n);
      StorePart(second, out + half + i, n);
    }
  }
}

template <class T>
HWY_INLINE void CopyPart(const float* x, int64_t begin, int64_t end, T* out) {
  for (int64_t i = begin; i < end; i += kLanes) {
    const int64_t n = HWY_MIN(kLanes, end - i);
    const FloatVec v = LoadAt(x, i, n);
    if (n == kLanes) {
      StoreVec(v, out + i);
    } else {
      StorePart(v, out + i, n);
    }
  }
}

template <class T>
void RopeRowsAs(const RopeArgs& args, int64_t begin, int64_t end) {
  const int64_t half = args.head_dim / 2;
  for (int64_t r = begin; r < end; ++r) {
    for (int64_t h = 0; h < args.heads; ++h) {
      const float* x = args.x.Row(r) + h * args.head_dim;
      T* out = OutRow<T>(args.out, r) + h * args.head_dim;
      RotateHead(x, args.cos.Row(r), args.sin.Row(r), args.cos.cols, half, out);
      if (static_cast<const void*>(x) == out || args.cos.cols == half) continue;
      CopyPart(x, args.cos.cols, half, out);
      CopyPart(x, half + args.cos.cols, args.head_dim, out);
    }
  }
}

void RopeRows(const RopeArgs& args, int64_t begin, int64_t end) {
  if (args.out.dtype == Dtype::kF32) {
    RopeRowsAs<float>(args, begin, end);
  } else {
    RopeRowsAs<BF16>(args, begin, end);
  }
}

// Highway's cosine and sine hold up to here (3 units in the last place); beyond, the library's.
constexpr float kLargestAngle = 39000.0f;

void CosSinRows(const CosSinArgs& args, int64_t begin, int64_t end) {
  const FloatTag d;
  const int64_t cols = args.angles.cols;
  for (int64_t r = begin; r < end; ++r) {
    const float* const angles = args.angles.Row(r);
    float* const cos = args.cos.Row(r);
    float* const sin = args.sin.Row(r);
    for (int64_t i = 0; i < cols; i += kLanes) {
      const int64_t n = HWY_MIN(kLanes, cols - i);
      const FloatVec x = LoadAt(angles + i, 0, n);
      if (!hn::AllTrue(d, hn::Le(hn::Abs(x), hn::Set(d, kLargestAngle)))) {
        for (int64_t k = i; k < i + n; ++k) {
          const float angle = angles[k];
          cos[k] = std::cos(angle);
          sin[k] = std::sin(angle);
        }
        continue;
      }
      const FloatVec c = hn::Cos(d, x);
      const FloatVec s = hn::Sin(d, x);
      if (n == kLanes) {
        StoreVec(c, cos + i);
        StoreVec(s, sin + i);
      } else {
        StorePart(c, cos + i, n);
        StorePart(s, sin + i, n);
      }
    }
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace purekv
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace purekv {
namespace {
HWY_EXPORT(RopeRows);
HWY_EXPORT(CosSinRows);
}  // namespace

void ApplyRope(MatrixView<float> x, int64_t heads, int64_t head_dim, MatrixView<const float> cos,
               MatrixView<const float> sin) {
  ApplyRope(x, heads, head_dim, cos, sin, {x.data, Dtype::kF32, x.rows, x.cols, x.stride});
}

void ApplyRope(MatrixView<const float> x, int64_t heads, int64_t head_dim, MatrixView<const float> cos,
               MatrixView<const float> sin, AnyMatrixView out) {
  PUREKV_CHECK(head_dim % 2 == 0 && x.cols == heads * head_dim, x.cols, " columns, ", heads, " heads of ", head_dim);
  PUREKV_CHECK(cos.rows == x.rows && sin.rows == x.rows, cos.rows, " and ", sin.rows, " rows of angles for ", x.rows);
  PUREKV_CHECK(cos.cols == sin.cols && 2 * cos.cols <= head_dim, cos.cols, " and ", sin.cols, " angles, head ",
               head_dim);
  CheckRows(x, out);
  if (Cpu() == CpuLevel::kReference) return reference::ApplyRope(x, heads, head_dim, cos, sin, out);
  UseCpuLevel();
  const RopeArgs args{x, heads, head_dim, cos, sin, out};
  ParallelForRanges(x.rows, RowGrain(x.cols), [&args](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(RopeRows)(args, begin, end);
  });
}

void CosSin(MatrixView<const float> angles, MatrixView<float> cos, MatrixView<float> sin) {
  PUREKV_CHECK(cos.rows == angles.rows && sin.rows == angles.rows, cos.rows, " and ", sin.rows, " for ", angles.rows);
  PUREKV_CHECK(cos.cols == angles.cols && sin.cols == angles.cols, cos.cols, " and ", sin.cols, " for ", angles.cols);
  if (Cpu() == CpuLevel::kReference) return reference::CosSin(angles, cos, sin);
  UseCpuLevel();
  const CosSinArgs args{angles, cos, sin};
  ParallelForRanges(angles.rows, RowGrain(16 * angles.cols), [&args](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(CosSinRows)(args, begin, end);
  });
}

}  // namespace purekv
#endif  // HWY_ONCE
