// Attention inside a short segment (a vision window) on AMX tiles: one head at a time, all of it in the first and
// second level caches.
//
// Other than the kernel for long lists of keys, S = Q K^T is not transposed: queries are read where they lie, and of
// what is left only the keys need transposing. A row's maximum and sum then go across lanes, 16 rows together. A
// head of 80 of 64 rows takes 3.1 us from the second-level cache; the other kernel took 5.1.
#include "attention/bf16_kernel.h"

#if defined(__x86_64__)

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "attention/x86_bf16_begin-inl.h"

namespace purekv {
namespace {

#include "attention/bf16_kernel-inl.h"
#include "kernels/amx_tiles-inl.h"

constexpr int64_t kTile = 16;           // rows of a tile, and its columns of 32 bits
constexpr int64_t kTileElements = 512;  // bf16 elements of a tile
// Cache lines asked for at each step, such that a head's share of the next window is through when the head is: 64 rows
// of q, k and v of 16 heads of 80 are 7680 lines, 480 for each head.
constexpr int64_t kAskPack = 10;
constexpr int64_t kAskPair = 4;
constexpr int64_t kAskRow = 6;
using Registers = __m512[kTile];

struct Larger {
  __m512 operator()(__m512 a, __m512 b) const { return _mm512_max_ps(a, b); }
};
struct Sum {
  __m512 operator()(__m512 a, __m512 b) const { return _mm512_add_ps(a, b); }
};

// Lane r of the result: `op` over all lanes of rows[r].
template <class Op>
[[gnu::always_inline]] inline __m512 AcrossLanes(const Registers& rows, const Op& op) {
  __m512 a[8];
  for (int i = 0; i < 8; ++i) {
    a[i] = op(_mm512_unpacklo_ps(rows[2 * i], rows[2 * i + 1]), _mm512_unpackhi_ps(rows[2 * i], rows[2 * i + 1]));
  }
  __m512 b[4];
  for (int i = 0; i < 4; ++i) {
    const __m512d x = _mm512_castps_pd(a[2 * i]);
    const __m512d y = _mm512_castps_pd(a[2 * i + 1]);
    b[i] = op(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
  }
  __m512 c[2];
  for (int i = 0; i < 2; ++i) {
    c[i] = op(_mm512_shuffle_f32x4(b[2 * i], b[2 * i + 1], 0x88), _mm512_shuffle_f32x4(b[2 * i], b[2 * i + 1], 0xdd));
  }
  return op(_mm512_shuffle_f32x4(c[0], c[1], 0x88), _mm512_shuffle_f32x4(c[0], c[1], 0xdd));
}

// Where the parts of one head lie; all 64-byte aligned.
struct WindowScratch {
  BF16* keys;      // per 16 keys, per 32 elements: a tile [16 pairs of elements][16 keys][2]
  BF16* values;    // per 32 keys, per 16 elements: a tile [16 pairs of keys][16 elements][2]
  BF16* queries;   // [16][padded]: those that cannot be read in place
  float* logits;   // [16][keys]
  BF16* p;         // [16][keys]
  float* outputs;  // [16][padded]

  WindowScratch(char* memory, int64_t keys_padded, int64_t padded) {
    keys = reinterpret_cast<BF16*>(memory);
    values = keys + keys_padded * padded;
    queries = values + keys_padded * padded;
    logits = reinterpret_cast<float*>(queries + kTile * padded);
    p = reinterpret_cast<BF16*>(logits + kTile * keys_padded);
    outputs = reinterpret_cast<float*>(p + kTile * keys_padded);
  }
};

void PackWindowKeys(const KvHeadView& kv, int64_t keys, int64_t head_dim, NextRows& next, BF16* tiles) {
  const BF16* from = static_cast<const BF16*>(kv.keys);
  for (int64_t first = 0; first < keys; first += kTile) {
    for (int64_t d = 0; d < head_dim; d += 32) {
      next.Ask(kAskPack);
      __m512i t[kTile];
      for (int64_t i = 0; i < kTile; ++i) {
        t[i] = first + i < kv.length ? LoadPairs(from + (first + i) * kv.key_stride + d, Dtype::kBF16, head_dim - d)
                                     : _mm512_setzero_si512();
      }
      Transpose(t);
      for (int64_t i = 0; i < kTile; ++i) _mm512_store_si512(tiles + i * 32, t[i]);
      tiles += kTileElements;
    }
  }
}

void PackWindowValues(const KvHeadView& kv, int64_t keys, int64_t head_dim, NextRows& next, BF16* tiles) {
  alignas(64) static constexpr uint16_t kLow[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                    8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  const __m512i low = _mm512_load_si512(kLow);
  const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  const int64_t columns = PaddedHeadDim(head_dim) / kTile;
  const BF16* from = static_cast<const BF16*>(kv.values);
  for (int64_t first = 0; first < keys; first += kKeyGroup) {
    for (int64_t pair = 0; pair < kTile; ++pair) {
      const int64_t key = first + 2 * pair;
      next.Ask(kAskPair);
      for (int64_t d = 0; d < head_dim; d += 32) {
        const auto row = [&](int64_t k) {
          return k < kv.length ? LoadPairs(from + k * kv.value_stride + d, Dtype::kBF16, head_dim - d)
                               : _mm512_setzero_si512();
        };
        const __m512i a = row(key);
        const __m512i b = row(key + 1);
        BF16* to = tiles + d / kTile * kTileElements + pair * 32;
        _mm512_store_si512(to, _mm512_permutex2var_epi16(a, low, b));
        _mm512_store_si512(to + kTileElements, _mm512_permutex2var_epi16(a, high, b));
      }
    }
    tiles += columns * kTileElements;
  }
}

// Rows of queries with zeros behind head_dim, and rows of zeros behind the last up to whole tiles.
void CopyQueries(const BF16* queries, int64_t stride, int64_t count, int64_t head_dim, int64_t padded, BF16* to) {
  const int64_t rows = (count + kTile - 1) / kTile * kTile;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t d = 0; d < padded; d += 32) {
      _mm512_store_si512(to + r * padded + d, r < count
                                                  ? LoadPairs(queries + r * stride + d, Dtype::kBF16, head_dim - d)
                                                  : _mm512_setzero_si512());
    }
  }
}

// Right operands in tiles: `step` elements apart along the sum, `next` from one column of 16 to the next.
struct RightTiles {
  const BF16* tiles;
  int64_t step;
  int64_t next;
};

// kCount (1 to 4) tiles of sums at `to` = 16 rows of `left` times `right`, `depth` whole tiles deep and, where `rest`,
// what tiles 5 and 7 hold: with zeros up to a whole tile instead, and queries copied for it, head 80 took a tenth
// longer.
template <int kCount>
inline void MultiplyColumns(const BF16* left, size_t left_bytes, int64_t depth, bool rest, const RightTiles& right,
                            float* to, size_t to_bytes) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t k = 0; k < depth; ++k) {
    const BF16* tile = right.tiles + k * right.step;
    _tile_loadd(4, left + k * 32, left_bytes);
    _tile_loadd(6, tile, 64);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (kCount > 1) {
      _tile_loadd(6, tile + right.next, 64);
      _tile_dpbf16ps(1, 4, 6);
    }
    if constexpr (kCount > 2) {
      _tile_loadd(6, tile + 2 * right.next, 64);
      _tile_dpbf16ps(2, 4, 6);
    }
    if constexpr (kCount > 3) {
      _tile_loadd(6, tile + 3 * right.next, 64);
      _tile_dpbf16ps(3, 4, 6);
    }
  }
  if (rest) {
    const BF16* tile = right.tiles + depth * right.step;
    _tile_loadd(5, left + depth * 32, left_bytes);
    _tile_loadd(7, tile, 64);
    _tile_dpbf16ps(0, 5, 7);
    if constexpr (kCount > 1) {
      _tile_loadd(7, tile + right.next, 64);
      _tile_dpbf16ps(1, 5, 7);
    }
    if constexpr (kCount > 2) {
      _tile_loadd(7, tile + 2 * right.next, 64);
      _tile_dpbf16ps(2, 5, 7);
    }
    if constexpr (kCount > 3) {
      _tile_loadd(7, tile + 3 * right.next, 64);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, to, to_bytes);
  if constexpr (kCount > 1) _tile_stored(1, to + kTile, to_bytes);
  if constexpr (kCount > 2) _tile_stored(2, to + 2 * kTile, to_bytes);
  if constexpr (kCount > 3) _tile_stored(3, to + 3 * kTile, to_bytes);
}

// to [16][columns * 16] = 16 rows of `left` times `right`.
void Multiply(const BF16* left, int64_t left_stride, int64_t depth, bool rest, RightTiles right, int64_t columns,
              float* to, int64_t to_stride) {
  const auto left_bytes = static_cast<size_t>(left_stride) * sizeof(BF16);
  const auto to_bytes = static_cast<size_t>(to_stride) * sizeof(float);
  for (; columns >= 4; columns -= 4) {
    MultiplyColumns<4>(left, left_bytes, depth, rest, right, to, to_bytes);
    right.tiles += 4 * right.next;
    to += 4 * kTile;
  }
  if (columns == 3) MultiplyColumns<3>(left, left_bytes, depth, rest, right, to, to_bytes);
  if (columns == 2) MultiplyColumns<2>(left, left_bytes, depth, rest, right, to, to_bytes);
  if (columns == 1) MultiplyColumns<1>(left, left_bytes, depth, rest, right, to, to_bytes);
}

// Probabilities of 16 rows relative to their maxima, as bf16, zeros behind the keys; their sums, a lane per row.
// kWhole: the keys fill the vectors.
template <bool kWhole>
[[gnu::always_inline]] inline __m512 WindowSoftmax(const float* logits, int64_t keys, int64_t padded_keys, float unit,
                                                   NextRows& next, BF16* p) {
  const __m512 lowest = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
  Registers rows;
  for (int64_t r = 0; r < kTile; ++r) {
    const float* row = logits + r * padded_keys;
    __m512 top = lowest;
    for (int64_t key = 0; key < keys; key += 16) {
      const __m512 x = _mm512_load_ps(row + key);
      top = kWhole ? _mm512_max_ps(top, x) : _mm512_mask_max_ps(top, LaneMask(keys - key), top, x);
    }
    rows[r] = top;
  }
  const __m512 units = _mm512_set1_ps(unit);
  const __m512 tops = AcrossLanes(rows, Larger());
  alignas(64) float shifts[kTile];
  _mm512_store_ps(shifts, _mm512_mul_ps(tops, units));
  for (int64_t r = 0; r < kTile; ++r) {
    const float* row = logits + r * padded_keys;
    const __m512 shift = _mm512_set1_ps(shifts[r]);
    next.Ask(kAskRow);
    __m512 sum = _mm512_setzero_ps();
    for (int64_t key = 0; key < padded_keys; key += 32) {
      __m512 low = Exp2(_mm512_fmsub_ps(_mm512_load_ps(row + key), units, shift));
      __m512 high = Exp2(_mm512_fmsub_ps(_mm512_load_ps(row + key + 16), units, shift));
      if constexpr (!kWhole) {
        low = _mm512_maskz_mov_ps(LaneMask(keys - key), low);
        high = _mm512_maskz_mov_ps(LaneMask(keys - key - 16), high);
      }
      sum = _mm512_add_ps(sum, _mm512_add_ps(low, high));
      _mm512_store_si512(p + r * padded_keys + key, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)));
    }
    rows[r] = sum;
  }
  return AcrossLanes(rows, Sum());
}

// Rows of outputs, divided by their sums, to out.
void FinishWindow(const float* outputs, int64_t padded, __m512 sums, int64_t count, const AnyMatrixView& out) {
  alignas(64) float factors[kTile];
  _mm512_store_ps(factors, _mm512_div_ps(_mm512_set1_ps(1.0F), sums));
  for (int64_t r = 0; r < count; ++r) {
    char* to = static_cast<char*>(out.data) + static_cast<size_t>(r * out.stride) * DtypeSize(out.dtype);
    const __m512 factor = _mm512_set1_ps(factors[r]);
    for (int64_t d = 0; d < out.cols; d += 32) {
      const int64_t n = out.cols - d;
      const __m512 low = _mm512_mul_ps(_mm512_load_ps(outputs + r * padded + d), factor);
      const __m512 high = _mm512_mul_ps(_mm512_load_ps(outputs + r * padded + d + 16), factor);
      if (out.dtype == Dtype::kBF16) {
        const __mmask32 mask = n >= 32 ? 0xffffffffU : (1U << n) - 1U;
        _mm512_mask_storeu_epi16(to + d * 2, mask, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)));
      } else {
        _mm512_mask_storeu_ps(to + d * 4, LaneMask(n), low);
        _mm512_mask_storeu_ps(to + d * 4 + 64, LaneMask(n - 16), high);
      }
    }
  }
}

}  // namespace

void AttendWindowAmx(const AttentionTile& tile, const AnyMatrixView& out, NextRows& next, char* memory) {
  const int64_t head_dim = tile.head_dim;
  const int64_t padded = PaddedHeadDim(head_dim);
  const int64_t keys = tile.kv.length;
  const int64_t padded_keys = (keys + kKeyGroup - 1) / kKeyGroup * kKeyGroup;
  const int64_t tiles_deep = padded / 32;
  const int64_t columns = (head_dim + kTile - 1) / kTile;
  const float unit = tile.scale * kLog2E;
  // An odd rest has no pairs: queries are copied, zeros behind them.
  const bool in_place = head_dim % 2 == 0;
  const int64_t rest = in_place ? head_dim % 32 : 0;
  const int64_t depth = rest > 0 ? tiles_deep - 1 : tiles_deep;
  const Tiles tiles(rest);
  const WindowScratch scratch(memory, padded_keys, padded);
  PackWindowKeys(tile.kv, padded_keys, head_dim, next, scratch.keys);
  PackWindowValues(tile.kv, padded_keys, head_dim, next, scratch.values);
  for (int64_t first = 0; first < tile.q_rows; first += kTile) {
    const int64_t count = std::min(kTile, tile.q_rows - first);
    const BF16* queries = static_cast<const BF16*>(tile.Query(first));
    int64_t stride = tile.q_stride;
    if (count < kTile || !in_place) {
      CopyQueries(queries, stride, count, head_dim, padded, scratch.queries);
      queries = scratch.queries;
      stride = padded;
    }
    Multiply(queries, stride, depth, rest > 0, {scratch.keys, kTileElements, tiles_deep * kTileElements},
             padded_keys / kTile, scratch.logits, padded_keys);
    const __m512 sums = keys == padded_keys
                            ? WindowSoftmax<true>(scratch.logits, keys, padded_keys, unit, next, scratch.p)
                            : WindowSoftmax<false>(scratch.logits, keys, padded_keys, unit, next, scratch.p);
    Multiply(scratch.p, padded_keys, padded_keys / kKeyGroup, false,
             {scratch.values, padded / kTile * kTileElements, kTileElements}, columns, scratch.outputs, padded);
    FinishWindow(scratch.outputs, padded, sums, count, out.Rows(first, count));
  }
}

}  // namespace purekv

#include "attention/x86_bf16_end-inl.h"

#endif  // __x86_64__
