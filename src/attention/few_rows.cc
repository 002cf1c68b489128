// AttendFewRows: products of a key with a few queries run along the head's elements, every load of the cache (f32 or
// bf16) serves all rows and goes to a register directly. The wide tile's broadcasts would use R of 16 lanes here, and
// its bf16 block copy would cost as much as the arithmetic.
#include "attention/few_rows.h"

#include <algorithm>
#include <limits>

#include "attention/kv_rows.h"
#include "base/error.h"
#include "kernels/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "attention/few_rows.cc"
// clang-format off
#include "hwy/foreach_target.h"  // must come before highway.h
#include "hwy/highway.h"
#include "attention/softmax-inl.h"
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

// logits[key][row] for kKeys x kRows = 8 products. queries [kRows][query_stride], zero behind head_dim. `key` points at
// kKeys key rows, given one by one so that a block's end can repeat its last key.
template <int kKeys, int kRows, class T>
HWY_INLINE void EightLogits(const T* const* key, const float* queries, int64_t query_stride, int64_t head_dim,
                            float* out) {
  static_assert(kKeys * kRows == 8, "eight sums keep the multipliers busy");
  FloatVec sum[8];
  HWY_UNROLL(8)
  for (int i = 0; i < 8; ++i) sum[i] = hn::Zero(FloatTag());
  int64_t d = 0;
  for (; d + kLanes <= head_dim; d += kLanes) {
    FloatVec query[kRows];
    HWY_UNROLL(8)
    for (int r = 0; r < kRows; ++r) query[r] = LoadVec(queries + r * query_stride + d);
    HWY_UNROLL(8)
    for (int k = 0; k < kKeys; ++k) {
      const FloatVec x = LoadVec(key[k] + d);
      HWY_UNROLL(8)
      for (int r = 0; r < kRows; ++r) sum[k * kRows + r] = hn::MulAdd(x, query[r], sum[k * kRows + r]);
    }
  }
  if (d < head_dim) {
    for (int k = 0; k < kKeys; ++k) {
      const FloatVec x = LoadPart(key[k] + d, head_dim - d);
      HWY_UNROLL(8)
      for (int r = 0; r < kRows; ++r) {
        sum[k * kRows + r] = hn::MulAdd(x, LoadVec(queries + r * query_stride + d), sum[k * kRows + r]);
      }
    }
  }
  SumFour(sum[0], sum[1], sum[2], sum[3], out);
  SumFour(sum[4], sum[5], sum[6], sum[7], out + 4);
}

template <int kRows, class T>
void BlockLogits(const T* keys, int64_t stride, int64_t count, const float* queries, int64_t query_stride,
                 int64_t head_dim, float* logits, int64_t width) {
  constexpr int kKeys = 8 / kRows;
  for (int64_t begin = 0; begin < count; begin += kKeys) {
    const T* rows[kKeys];
    for (int k = 0; k < kKeys; ++k) rows[k] = keys + std::min<int64_t>(begin + k, count - 1) * stride;
    float sums[8];
    EightLogits<kKeys, kRows>(rows, queries, query_stride, head_dim, sums);
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

// Over the whole head, in panels of as many vectors as the registers hold beside one another. kRows divides 8 and o has
// 8 rows, so that rows behind the tile's last are computed with (zeros) and never read.
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

// kRows: the tile's rows rounded up to 1, 2, 4 or 8.
template <int kRows, class T>
void AttendAs(const AttentionTile& tile, const PartialState& state, float* scratch) {
  const int64_t rows = tile.rows();
  const int64_t head_dim = tile.head_dim;
  const int64_t padded_dim = PaddedRows(head_dim);
  const int64_t width = WholeVecs(kRows);
  float* queries = scratch;                 // [kRows][padded_dim], scaled, zeros behind
  float* o = queries + kRows * padded_dim;  // [kRows][padded_dim]
  float* logits = o + kRows * padded_dim;   // [kBlockKeys][width]
  float* m = logits + kBlockKeys * width;   // [width]
  float* l = m + width;                     // [width]
  float* rescale = l + width;               // [width]
  float* limits = rescale + width;          // [width]

  std::fill(queries, m, 0.0f);
  std::fill_n(m, width, -std::numeric_limits<float>::infinity());
  std::fill_n(l, width, 0.0f);
  for (int64_t r = 0; r < rows; ++r) {
    const float* q = static_cast<const float*>(tile.Query(r));
    for (int64_t d = 0; d < head_dim; ++d) queries[r * padded_dim + d] = q[d] * tile.scale;
  }
  const auto limit_of = [&](int64_t r) {
    return tile.first_limit + std::min(r, rows - 1) / tile.group * tile.limit_step;
  };
  const int64_t key_end = std::min(tile.key_end, limit_of(rows - 1));
  for (int64_t block = tile.key_begin; block < key_end; block += kBlockKeys) {
    const int64_t count = std::min(kBlockKeys, key_end - block);
    const bool masked = limit_of(0) < block + count;
    if (masked) {
      for (int64_t r = 0; r < width; ++r) {
        limits[r] = static_cast<float>(std::clamp<int64_t>(limit_of(r) - block, 0, count));
      }
    }
    const T* keys = static_cast<const T*>(KeyRowsOf(tile.kv, block, count));
    const T* values = static_cast<const T*>(ValueRowsOf(tile.kv, block, count));
    BlockLogits<kRows>(keys, tile.kv.key_stride, count, queries, padded_dim, head_dim, logits, width);
    AddBias(tile.kv.bias == nullptr ? nullptr : tile.kv.bias + block, count, width, logits);
    BlockSoftmax(logits, count, width, masked ? limits : nullptr, nullptr, m, l, rescale);
    BlockValues<kRows>(logits, width, values, tile.kv.value_stride, count, head_dim, o, padded_dim, rescale);
  }
  for (int64_t r = 0; r < rows; ++r) {
    state.m[r] = m[r];
    state.l[r] = l[r];
    std::copy_n(o + r * padded_dim, head_dim, state.o.Row(r));
  }
}

template <class T>
void AttendOf(const AttentionTile& tile, const PartialState& state, float* scratch) {
  const int64_t rows = tile.rows();
  if (rows == 1) return AttendAs<1, T>(tile, state, scratch);
  if (rows == 2) return AttendAs<2, T>(tile, state, scratch);
  if (rows <= 4) return AttendAs<4, T>(tile, state, scratch);
  AttendAs<8, T>(tile, state, scratch);
}

void AttendFew(const AttentionTile& tile, const PartialState& state, float* scratch) {
  if (tile.kv.dtype() == Dtype::kF32) {
    AttendOf<float>(tile, state, scratch);
  } else {
    AttendOf<BF16>(tile, state, scratch);
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace purekv
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace purekv {
namespace {
HWY_EXPORT(AttendFew);
}  // namespace

void AttendFewRows(const AttentionTile& tile, const PartialState& state, float* scratch) {
  PUREKV_CHECK(tile.rows() >= 1 && tile.rows() <= kFewRows, tile.rows(), " rows");
  HWY_DYNAMIC_DISPATCH(AttendFew)(tile, state, scratch);
}

}  // namespace purekv
#endif  // HWY_ONCE
