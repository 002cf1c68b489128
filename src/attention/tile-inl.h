// Products over register tiles, and the packing of queries, keys and values for them; shared by the f32 kernels.
// Included once per instruction set.
#if defined(PUREKV_ATTENTION_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PUREKV_ATTENTION_TILE_INL_H_
#undef PUREKV_ATTENTION_TILE_INL_H_
#else
#define PUREKV_ATTENTION_TILE_INL_H_
#endif

#include <algorithm>
#include <cstring>

// clang-format off
#include "hwy/highway.h"
#include "hwy/cache_control.h"
#include "attention/softmax-inl.h"
#include "attention/tile.h"
#include "kernels/simd-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace purekv {
namespace HWY_NAMESPACE {

// Register tile: 6 rows x kMaxVecs vectors of sums. 32 registers (AVX-512, NEON): 24 sums + 4 + 1; 16 registers: 12 + 2
// + 1.
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL || HWY_TARGET == HWY_NEON
constexpr int kMaxVecs = 4;
#else
constexpr int kMaxVecs = 2;
#endif
constexpr int64_t kPanelRows = kMaxVecs * kLanes;

// c[r][:] = (kUpdate ? c[r][:] * row_scale[r] : 0) + sum over k of a[r * a_row + k * a_k] * b[k * b_k + :],
// r < kRows, `:` over kVecs vectors.
template <int kRows, int kVecs, bool kUpdate>
HWY_INLINE void Product(const float* HWY_RESTRICT a, int64_t a_row, int64_t a_k, const float* HWY_RESTRICT b,
                        int64_t b_k, int64_t depth, float* HWY_RESTRICT c, int64_t c_row,
                        const float* HWY_RESTRICT row_scale) {
  FloatVec sum[kRows][kVecs];
  HWY_UNROLL(12)
  for (int r = 0; r < kRows; ++r) {
    HWY_UNROLL(4)
    for (int v = 0; v < kVecs; ++v) {
      if constexpr (kUpdate) {
        sum[r][v] = hn::Mul(LoadVec(c + r * c_row + v * kLanes), hn::Set(FloatTag(), row_scale[r]));
      } else {
        sum[r][v] = hn::Zero(FloatTag());
      }
    }
  }
  for (int64_t k = 0; k < depth; ++k) {
    FloatVec column[kVecs];
    HWY_UNROLL(4)
    for (int v = 0; v < kVecs; ++v) column[v] = LoadVec(b + k * b_k + v * kLanes);
    HWY_UNROLL(12)
    for (int r = 0; r < kRows; ++r) {
      const FloatVec x = hn::Set(FloatTag(), a[r * a_row + k * a_k]);
      HWY_UNROLL(4)
      for (int v = 0; v < kVecs; ++v) sum[r][v] = hn::MulAdd(x, column[v], sum[r][v]);
    }
  }
  HWY_UNROLL(12)
  for (int r = 0; r < kRows; ++r) {
    HWY_UNROLL(4)
    for (int v = 0; v < kVecs; ++v) StoreVec(sum[r][v], c + r * c_row + v * kLanes);
  }
}

struct ProductArgs {
  const float* a;
  int64_t a_row;
  int64_t a_k;
  const float* b;
  int64_t b_k;
  int64_t depth;
  float* c;
  int64_t c_row;
  const float* row_scale;
};

template <int kRows, int kVecs, bool kUpdate>
HWY_NOINLINE void ProductAt(const ProductArgs& p, int64_t row) {
  Product<kRows, kVecs, kUpdate>(p.a + row * p.a_row, p.a_row, p.a_k, p.b, p.b_k, p.depth, p.c + row * p.c_row, p.c_row,
                                 p.row_scale + row);
}

// Product over any number of rows.
template <int kVecs, bool kUpdate>
void ProductRows(const ProductArgs& p, int64_t rows) {
  int64_t r = 0;
  if constexpr (kVecs == 1) {  // 6 sums would leave the multipliers waiting for one another
    for (; r + 12 <= rows; r += 12) ProductAt<12, kVecs, kUpdate>(p, r);
  }
  for (; r + 6 <= rows; r += 6) ProductAt<6, kVecs, kUpdate>(p, r);
  switch (rows - r) {
    case 1:
      return ProductAt<1, kVecs, kUpdate>(p, r);
    case 2:
      return ProductAt<2, kVecs, kUpdate>(p, r);
    case 3:
      return ProductAt<3, kVecs, kUpdate>(p, r);
    case 4:
      return ProductAt<4, kVecs, kUpdate>(p, r);
    case 5:
      return ProductAt<5, kVecs, kUpdate>(p, r);
    default:
      return;
  }
}

template <bool kUpdate>
void ProductVecs(const ProductArgs& p, int64_t rows, int64_t vecs) {
  if constexpr (kMaxVecs == 4) {
    if (vecs == 4) return ProductRows<4, kUpdate>(p, rows);
    if (vecs == 3) return ProductRows<3, kUpdate>(p, rows);
  }
  if (vecs == 2) return ProductRows<2, kUpdate>(p, rows);
  ProductRows<1, kUpdate>(p, rows);
}

// Asks for a row that is needed a few rows later. Rows of one head among many lie far apart, where no hardware
// prefetcher finds them.
constexpr int64_t kRowsAhead = 6;
HWY_INLINE void PrefetchRow(const void* row, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 64) hwy::Prefetch(static_cast<const char*>(row) + i);
}

// A block of keys or values as f32 rows `stride` apart.
struct Block {
  const float* data;
  int64_t stride;
};

// In place where the rows lie as wanted (f32, one after another, whole vectors when `padded`), else copied to
// `scratch`. Strided rows are copied too: at a power-of-two stride their cache lines would evict one another before
// their second use.
HWY_INLINE Block BlockOf(const void* rows, Dtype dtype, int64_t stride, int64_t count, int64_t head_dim, bool padded,
                         float* scratch) {
  const int64_t width = padded ? WholeVecs(head_dim) : head_dim;
  if (dtype == Dtype::kF32) {
    const float* from = static_cast<const float*>(rows);
    if (stride == head_dim && width == head_dim) return {from, stride};
    for (int64_t i = 0; i < count; ++i) {
      if (i + kRowsAhead < count) PrefetchRow(from + (i + kRowsAhead) * stride, static_cast<size_t>(head_dim) * 4);
      std::memcpy(scratch + i * width, from + i * stride, static_cast<size_t>(head_dim) * sizeof(float));
      for (int64_t d = head_dim; d < width; ++d) scratch[i * width + d] = 0.0f;
    }
    return {scratch, width};
  }
  const BF16* from = static_cast<const BF16*>(rows);
  for (int64_t i = 0; i < count; ++i) {
    const BF16* row = from + i * stride;
    float* to = scratch + i * width;
    int64_t d = 0;
    for (; d + kLanes <= head_dim; d += kLanes) StoreVec(LoadVec(row + d), to + d);
    if (d < head_dim) {
      if (padded) {
        StoreVec(LoadPart(row + d, head_dim - d), to + d);
      } else {
        StorePart(LoadPart(row + d, head_dim - d), to + d, head_dim - d);
      }
    }
  }
  return {scratch, width};
}

// Rows [first, first + count) of the tile, count <= kPanelRows, transposed and scaled: to[d][width], zeros behind
// count.
HWY_INLINE void PackQueries(const AttentionTile& tile, int64_t first, int64_t count, int64_t width, float* to) {
  for (int64_t c = 0; c < width; ++c) {
    if (c >= count) {
      for (int64_t d = 0; d < tile.head_dim; ++d) to[d * width + c] = 0.0f;
      continue;
    }
    const int64_t r = first + c;
    if (c + kRowsAhead < count) {
      PrefetchRow(tile.Query(r + kRowsAhead), static_cast<size_t>(tile.head_dim) * 4);
    }
    const float* q = static_cast<const float*>(tile.Query(r));
    for (int64_t d = 0; d < tile.head_dim; ++d) to[d * width + c] = q[d] * tile.scale;
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace purekv
HWY_AFTER_NAMESPACE();

#endif  // PUREKV_ATTENTION_TILE_INL_H_
