// Products of a block of keys, or values, with a few queries: what the kernels for few rows share. Included once per
// instruction set.
#if defined(PUREKV_ATTENTION_FEW_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PUREKV_ATTENTION_FEW_ROWS_INL_H_
#undef PUREKV_ATTENTION_FEW_ROWS_INL_H_
#else
#define PUREKV_ATTENTION_FEW_ROWS_INL_H_
#endif

#include <algorithm>
#include <cstdint>

// clang-format off
#include "hwy/highway.h"
#include "kernels/simd-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace purekv {
namespace HWY_NAMESPACE {

#if HWY_TARGET == HWY_SCALAR
HWY_INLINE void SumFour(FloatVec a, FloatVec b, FloatVec c, FloatVec d, float* out) {
  out[0] = hn::GetLane(a);
  out[1] = hn::GetLane(b);
  out[2] = hn::GetLane(c);
  out[3] = hn::GetLane(d);
}
#else
// Adds up the 128-bit blocks of a vector.
template <class D>
HWY_INLINE void StoreBlockSum(D d, hn::Vec<D> v, float* out) {
  if constexpr (hn::MaxLanes(D()) <= 4) {
    hn::StoreU(v, d, out);
  } else {
    const hn::Half<D> half;
    StoreBlockSum(half, hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)), out);
  }
}

// The sums of the lanes of four vectors: 13 instructions on AVX-512, where four separate sums take 32.
HWY_INLINE void SumFour(FloatVec a, FloatVec b, FloatVec c, FloatVec d, float* out) {
  const FloatTag f32;
  const FloatVec ac = hn::Add(hn::InterleaveLower(f32, a, c), hn::InterleaveUpper(f32, a, c));
  const FloatVec bd = hn::Add(hn::InterleaveLower(f32, b, d), hn::InterleaveUpper(f32, b, d));
  const FloatVec abcd = hn::Add(hn::InterleaveLower(f32, ac, bd), hn::InterleaveUpper(f32, ac, bd));
  StoreBlockSum(f32, abcd, out);
}
#endif

// logits[key][row] for kKeys x kRows = 8 products, of which rows from kUsed on are zeros. queries
// [kRows][query_stride], zero behind head_dim. `key` points at kKeys key rows, given one by one so that a block's end
// can repeat its last key.
template <int kKeys, int kRows, int kUsed, class T>
HWY_INLINE void EightLogits(const T* const* key, const float* queries, int64_t query_stride, int64_t head_dim,
                            float* out) {
  static_assert(kKeys * kRows == 8, "eight sums keep the multipliers busy");
  FloatVec sum[8];
  HWY_UNROLL(8)
  for (int i = 0; i < 8; ++i) sum[i] = hn::Zero(FloatTag());
  int64_t d = 0;
  for (; d + kLanes <= head_dim; d += kLanes) {
    FloatVec query[kUsed];
    HWY_UNROLL(8)
    for (int r = 0; r < kUsed; ++r) query[r] = LoadVec(queries + r * query_stride + d);
    HWY_UNROLL(8)
    for (int k = 0; k < kKeys; ++k) {
      const FloatVec x = LoadVec(key[k] + d);
      HWY_UNROLL(8)
      for (int r = 0; r < kUsed; ++r) sum[k * kRows + r] = hn::MulAdd(x, query[r], sum[k * kRows + r]);
    }
  }
  if (d < head_dim) {
    for (int k = 0; k < kKeys; ++k) {
      const FloatVec x = LoadPart(key[k] + d, head_dim - d);
      HWY_UNROLL(8)
      for (int r = 0; r < kUsed; ++r) {
        sum[k * kRows + r] = hn::MulAdd(x, LoadVec(queries + r * query_stride + d), sum[k * kRows + r]);
      }
    }
  }
  SumFour(sum[0], sum[1], sum[2], sum[3], out);
  SumFour(sum[4], sum[5], sum[6], sum[7], out + 4);
}

template <int kRows, int kUsed = kRows, class T>
void BlockLogits(const T* keys, int64_t stride, int64_t count, const float* queries, int64_t query_stride,
                 int64_t head_dim, float* logits, int64_t width) {
  constexpr int kKeys = 8 / kRows;
  for (int64_t begin = 0; begin < count; begin += kKeys) {
    const T* rows[kKeys];
    for (int k = 0; k < kKeys; ++k) rows[k] = keys + std::min<int64_t>(begin + k, count - 1) * stride;
    float sums[8];
    EightLogits<kKeys, kRows, kUsed>(rows, queries, query_stride, head_dim, sums);
    for (int k = 0; k < kKeys && begin + k < count; ++k) {
      for (int r = 0; r < kRows; ++r) logits[(begin + k) * width + r] = sums[k * kRows + r];
    }
  }
}

// o[r][:] = o[r][:] * rescale[r] + sum over keys of p[key][r] * values[key][:], `:` over kVecs vectors, the last one of
// `last` < kLanes elements when `last` > 0.
template <int kRows, int kVecs, class T>
HWY_INLINE void AddValues(const float* p, int64_t width, const T* values, int64_t stride, int64_t count, int64_t last,
                          float* o, int64_t o_stride, const float* rescale) {
  FloatVec sum[kRows][kVecs];
  HWY_UNROLL(8)
  for (int r = 0; r < kRows; ++r) {
    HWY_UNROLL(8)
    for (int v = 0; v < kVecs; ++v) {
      sum[r][v] = hn::Mul(LoadVec(o + r * o_stride + v * kLanes), hn::Set(FloatTag(), rescale[r]));
    }
  }
  for (int64_t k = 0; k < count; ++k) {
    FloatVec value[kVecs];
    HWY_UNROLL(8)
    for (int v = 0; v < kVecs; ++v) {
      const T* from = values + k * stride + v * kLanes;
      value[v] = kVecs == 1 && last > 0 ? LoadPart(from, last) : LoadVec(from);
    }
    HWY_UNROLL(8)
    for (int r = 0; r < kRows; ++r) {
      const FloatVec weight = hn::Set(FloatTag(), p[k * width + r]);
      HWY_UNROLL(8)
      for (int v = 0; v < kVecs; ++v) sum[r][v] = hn::MulAdd(weight, value[v], sum[r][v]);
    }
  }
  HWY_UNROLL(8)
  for (int r = 0; r < kRows; ++r) {
    HWY_UNROLL(8)
    for (int v = 0; v < kVecs; ++v) StoreVec(sum[r][v], o + r * o_stride + v * kLanes);
  }
}

// Over the whole head, in panels of as many vectors as the registers hold beside one another. Of kRows rows; where the
// tile has fewer, those behind its last are computed with (zeros) and never read.
template <int kRows, class T>
void BlockValues(const float* p, int64_t width, const T* values, int64_t stride, int64_t count, int64_t head_dim,
                 float* o, int64_t o_stride, const float* rescale) {
  constexpr int kSums = HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL || HWY_TARGET == HWY_NEON ? 16 : 8;
  constexpr int kVecs = HWY_MIN(8, kSums / kRows);
  int64_t d = 0;
  for (; d + kVecs * kLanes <= head_dim; d += kVecs * kLanes) {
    AddValues<kRows, kVecs>(p, width, values + d, stride, count, 0, o + d, o_stride, rescale);
  }
  for (; d < head_dim; d += kLanes) {
    const int64_t last = head_dim - d < kLanes ? head_dim - d : 0;
    AddValues<kRows, 1>(p, width, values + d, stride, count, last, o + d, o_stride, rescale);
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace purekv
HWY_AFTER_NAMESPACE();

#endif  // PUREKV_ATTENTION_FEW_ROWS_INL_H_
