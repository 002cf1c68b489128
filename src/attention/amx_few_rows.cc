// AttendFewRows on AMX tiles: decode, where reading the cache is the work. Up to 16 (row, head) pairs are one tile of
// columns; keys and values are read once, in place.
#include "attention/bf16_kernel.h"
#include "attention/kv_rows.h"

#if defined(__x86_64__)

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "attention/x86_bf16_begin-inl.h"
#if defined(__clang__)
#pragma clang diagnostic ignored "-Wunused-function"
#else
#pragma GCC diagnostic ignored "-Wunused-function"
#endif

namespace purekv {
namespace {

#include "attention/bf16_kernel-inl.h"
#include "kernels/amx_tiles-inl.h"

constexpr int64_t kLanesOfRows = 16;
// Asks for the next block's keys and values, a few lines at a time between the products: a core holds some 48 requests
// at once, memory answers after 200 to 400 ns, and asking for a block in one go left the memory idle in between (5 to 8
// of the 17 GB/s that a plain read gets). Rows are asked for a quarter of a block apart in turns: four streams each of
// keys and values, which the hardware sees and runs ahead of (19.3 to 21.8 GB/s; eight the same).
class Ahead {
 public:
  Ahead(const KvHeadView& kv, int64_t head_dim, int64_t first, int64_t end)
      : lines_per_row_((head_dim * 2 + 63) / 64),
        rows_(std::max<int64_t>(0, end - first)),
        stripe_rows_((rows_ + kStripes - 1) / kStripes) {
    keys_ = static_cast<const char*>(kv.KeyRows(first, rows_));
    values_ = static_cast<const char*>(kv.ValueRows(first, rows_));
    if (keys_ == nullptr) rows_ = 0;  // in two segments: they are gathered
    key_bytes_ = kv.key_stride * 2;
    value_bytes_ = kv.value_stride * 2;
  }
  void Ask(int64_t rows) {
    const int64_t end = std::min(asked_ + rows, kStripes * stripe_rows_);
    for (; asked_ < end; ++asked_) {
      const int64_t row = asked_ % kStripes * stripe_rows_ + asked_ / kStripes;
      if (row >= rows_) continue;
      for (int64_t line = 0; line < lines_per_row_; ++line) {
        _mm_prefetch(keys_ + row * key_bytes_ + line * 64, _MM_HINT_T1);
        _mm_prefetch(values_ + row * value_bytes_ + line * 64, _MM_HINT_T1);
      }
    }
  }

 private:
  static constexpr int64_t kStripes = 4;

  const char* keys_;
  const char* values_;
  int64_t key_bytes_;
  int64_t value_bytes_;
  int64_t lines_per_row_;
  int64_t rows_;
  int64_t stripe_rows_;
  int64_t asked_ = 0;
};

struct FewScratch {
  BF16* queries;   // [padded / 32][16 pairs][16 rows][2]
  float* logits;   // [kBf16FewBlockKeys][16]
  uint32_t* p;     // per 16 keys [2][16 rows][16 keys]: see FewSoftmax
  BF16* entries;   // [kBf16FewBlockKeys][padded]: keys or values that cannot be read in place
  float* outputs;  // [padded / 32][2][16 rows][16]: even elements, odd elements

  FewScratch(char* memory, int64_t padded) {
    logits = reinterpret_cast<float*>(memory);
    p = reinterpret_cast<uint32_t*>(logits + kBf16FewBlockKeys * kLanesOfRows);
    outputs = reinterpret_cast<float*>(p + 2 * kBf16FewBlockKeys * kLanesOfRows);
    queries = reinterpret_cast<BF16*>(outputs + kLanesOfRows * padded);
    entries = queries + kLanesOfRows * padded;
  }
};

// Rows of keys or values as whole tiles.
struct TileRows {
  const BF16* rows;  // the first ones, in place
  int64_t whole;     // how many: a multiple of 16
  const BF16* rest;  // what follows, copied, zeros behind; stride padded
  int64_t stride;

  const BF16* Tile(int64_t tile, int64_t padded, size_t* bytes) const {
    const bool in_place = tile * 16 < whole;
    *bytes = static_cast<size_t>(in_place ? stride : padded) * sizeof(BF16);
    return in_place ? rows + tile * 16 * stride : rest + (tile * 16 - whole) * padded;
  }
};

inline TileRows WholeTiles(const void* rows, int64_t stride, int64_t count, int64_t head_dim, int64_t padded,
                           BF16* copy) {
  const BF16* from = static_cast<const BF16*>(rows);
  const int64_t whole = head_dim == padded ? count / 16 * 16 : 0;
  for (int64_t k = whole; k < (count + 15) / 16 * 16; ++k) {
    for (int64_t d = 0; d < padded; d += 32) {
      const __m512i x =
          k < count ? LoadPairs(from + k * stride + d, Dtype::kBF16, head_dim - d) : _mm512_setzero_si512();
      _mm512_storeu_si512(copy + (k - whole) * padded + d, x);
    }
  }
  return {from, whole, copy, stride};
}

// logits [tiles * 16][16] = keys times queries. Four tiles at a time: a product's sum is ready after 52 cycles, and one
// can start every 16.
inline void FewLogits(const TileRows& keys, int64_t tiles, const BF16* queries, int64_t padded, float* logits,
                      Ahead& ahead) {
  for (int64_t t = 0; t < tiles; t += 4) {
    size_t bytes[4];
    const BF16* rows[4];
    for (int64_t i = 0; i < 4; ++i) rows[i] = keys.Tile(std::min(t + i, tiles - 1), padded, &bytes[i]);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t d = 0; d < padded; d += 32) {
      ahead.Ask(4);
      _tile_loadd(6, queries + d * kLanesOfRows, 64);
      _tile_loadd(4, rows[0] + d, bytes[0]);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(5, rows[1] + d, bytes[1]);
      _tile_dpbf16ps(1, 5, 6);
      _tile_loadd(4, rows[2] + d, bytes[2]);
      _tile_dpbf16ps(2, 4, 6);
      _tile_loadd(5, rows[3] + d, bytes[3]);
      _tile_dpbf16ps(3, 5, 6);
    }
    // Tiles behind the last repeat it; their rows lie behind the last block's too, in room for a whole block.
    _tile_stored(0, logits + t * 256, 64);
    _tile_stored(1, logits + (t + 1) * 256, 64);
    _tile_stored(2, logits + (t + 2) * 256, 64);
    _tile_stored(3, logits + (t + 3) * 256, 64);
  }
}

// As BlockSoftmax with one vector of rows. Probabilities leave as left operands against which values need no packing:
// per 16 keys, first [16 rows][16 keys] of pairs (p, 0), which sum up a value row's even elements, then of pairs (0,
// p), for the odd ones. Twice the products, and none of the 43 cycles per key that interleaving pairs of value rows
// took.
inline bool FewSoftmax(float* logits, int64_t keys, const int32_t* limits, float unit, float* m, float* l, uint32_t* p,
                       float* rescale, Ahead& ahead) {
  const __m512 units = _mm512_set1_ps(unit);
  const __m512i limit = _mm512_loadu_si512(limits);
  const __m512 masked = _mm512_set1_ps(kMasked);
  const __m512 old = _mm512_loadu_ps(m);
  __m512 top = old;
  if (_mm512_cmplt_epi32_mask(limit, _mm512_set1_epi32(static_cast<int>(keys))) == 0) {
    __m512 other = old;
    for (int64_t k = 0; k < keys; k += 2) {
      top = _mm512_max_ps(top, _mm512_loadu_ps(logits + k * kLanesOfRows));
      other = _mm512_max_ps(other, _mm512_loadu_ps(logits + (k + 1) * kLanesOfRows));
    }
    top = _mm512_max_ps(top, other);
  } else {
    for (int64_t k = 0; k < keys; ++k) {
      const __mmask16 seen = _mm512_cmpgt_epi32_mask(limit, _mm512_set1_epi32(static_cast<int>(k)));
      const __m512 x = _mm512_mask_loadu_ps(masked, seen, logits + k * kLanesOfRows);
      _mm512_storeu_ps(logits + k * kLanesOfRows, x);
      top = _mm512_max_ps(top, x);
    }
  }
  const __mmask16 some = _mm512_cmp_ps_mask(top, _mm512_set1_ps(kNothingSeen), _CMP_GT_OQ);
  const __m512 shift = _mm512_maskz_mul_ps(some, top, units);
  __m512 sum = _mm512_setzero_ps();
  for (int64_t first = 0; first < keys; first += 16) {
    ahead.Ask(6);
    __m512i t[16];
    for (int64_t i = 0; i < 16; ++i) {
      const __m512 x = Exp2(_mm512_fmsub_ps(_mm512_loadu_ps(logits + (first + i) * kLanesOfRows), units, shift));
      sum = _mm512_add_ps(sum, x);
      // Half a unit of the last bit kept: p >= 0, so this rounds to nearest; a tie goes up.
      t[i] = _mm512_add_epi32(reinterpret_cast<__m512i>(x), _mm512_set1_epi32(0x8000));
    }
    Transpose(t);
    uint32_t* to = p + first * 2 * kLanesOfRows;
    for (int64_t i = 0; i < 16; ++i) {
      _mm512_store_si512(to + i * 16, _mm512_srli_epi32(t[i], 16));
      _mm512_store_si512(to + 256 + i * 16, _mm512_and_si512(t[i], _mm512_set1_epi32(static_cast<int>(0xffff0000U))));
    }
  }
  const __m512 factor = Exp2(_mm512_fmsub_ps(old, units, shift));
  _mm512_storeu_ps(rescale, factor);
  _mm512_storeu_ps(l, _mm512_fmadd_ps(_mm512_loadu_ps(l), factor, sum));
  _mm512_storeu_ps(m, top);
  return _mm512_cmp_ps_mask(old, top, _CMP_NEQ_UQ) != 0;
}

// outputs += p times values, 64 elements at a time.
inline void FewValues(const TileRows& values, int64_t tiles, int64_t padded, const uint32_t* p, float* outputs,
                      Ahead& ahead) {
  for (int64_t d = 0; d < padded; d += 64) {
    const bool two = d + 32 < padded;
    float* o = outputs + d * 16;
    _tile_loadd(0, o, 64);
    _tile_loadd(1, o + 256, 64);
    if (two) {
      _tile_loadd(2, o + 512, 64);
      _tile_loadd(3, o + 768, 64);
    }
    for (int64_t t = 0; t < tiles; ++t) {
      ahead.Ask(3);
      size_t bytes = 0;
      const BF16* rows = values.Tile(t, padded, &bytes) + d;
      _tile_loadd(4, p + t * 512, 64);
      _tile_loadd(6, rows, bytes);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(5, p + t * 512 + 256, 64);
      _tile_dpbf16ps(1, 5, 6);
      if (!two) continue;
      _tile_loadd(7, rows + 32, bytes);
      _tile_dpbf16ps(2, 4, 7);
      _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, o, 64);
    _tile_stored(1, o + 256, 64);
    if (two) {
      _tile_stored(2, o + 512, 64);
      _tile_stored(3, o + 768, 64);
    }
  }
}

// Element d of row r in the outputs.
inline int64_t OutputIndex(int64_t r, int64_t d) {
  return d / 32 * 512 + d % 2 * 256 + r * 16 + d % 32 / 2;
}

}  // namespace

void AttendFewRowsAmx(const AttentionTile& tile, const PartialState& state, char* memory) {
  const Tiles tiles;
  const int64_t rows = tile.rows();
  const int64_t padded = PaddedHeadDim(tile.head_dim);
  const FewScratch scratch(memory, padded);
  const size_t size = DtypeSize(tile.q_dtype);
  for (int64_t d = 0; d < padded; d += 32) {
    __m512i t[16];
    for (int64_t r = 0; r < 16; ++r) {
      t[r] = r < rows ? LoadPairs(static_cast<const char*>(tile.Query(r)) + static_cast<size_t>(d) * size, tile.q_dtype,
                                  tile.head_dim - d)
                      : _mm512_setzero_si512();
    }
    Transpose(t);
    for (int64_t i = 0; i < 16; ++i) _mm512_storeu_si512(scratch.queries + d * kLanesOfRows + i * 32, t[i]);
  }
  alignas(64) float m[16];
  alignas(64) float l[16] = {};
  alignas(64) float rescale[16];
  alignas(64) int32_t limits[16];
  std::fill_n(m, 16, kMasked);
  std::memset(scratch.outputs, 0, static_cast<size_t>(kLanesOfRows * padded) * sizeof(float));
  const auto limit_of = [&](int64_t r) {
    const int64_t limit = tile.first_limit + std::min(r, rows - 1) / tile.group * tile.limit_step;
    return std::min(limit, tile.key_end);
  };
  const int64_t key_end = limit_of(rows - 1);
  for (int64_t block = tile.key_begin; block < key_end; block += kBf16FewBlockKeys) {
    const int64_t count = std::min(kBf16FewBlockKeys, key_end - block);
    Ahead ahead(tile.kv, tile.head_dim, block + count, std::min(block + 2 * kBf16FewBlockKeys, key_end));
    const int64_t tiles_of_keys = (count + 15) / 16;
    const TileRows keys =
        WholeTiles(KeyRowsOf(tile.kv, block, count), tile.kv.key_stride, count, tile.head_dim, padded, scratch.entries);
    FewLogits(keys, tiles_of_keys, scratch.queries, padded, scratch.logits, ahead);
    for (int64_t r = 0; r < 16; ++r) {
      limits[r] = static_cast<int32_t>(std::clamp<int64_t>(limit_of(r) - block, 0, count));
    }
    if (FewSoftmax(scratch.logits, tiles_of_keys * 16, limits, tile.scale * kLog2E, m, l, scratch.p, rescale, ahead)) {
      for (int64_t r = 0; r < rows; ++r) {
        const __m512 factor = _mm512_set1_ps(rescale[r]);
        for (int64_t half = 0; half < padded / 16; ++half) {
          float* o = scratch.outputs + half * 256 + r * 16;
          _mm512_store_ps(o, _mm512_mul_ps(_mm512_load_ps(o), factor));
        }
      }
    }
    const TileRows values = WholeTiles(ValueRowsOf(tile.kv, block, count), tile.kv.value_stride, count, tile.head_dim,
                                       padded, scratch.entries);
    FewValues(values, tiles_of_keys, padded, scratch.p, scratch.outputs, ahead);
  }
  for (int64_t r = 0; r < rows; ++r) {
    const bool seen = m[r] > kNothingSeen;
    state.m[r] = seen ? m[r] * tile.scale : -std::numeric_limits<float>::infinity();
    state.l[r] = l[r];
    float* o = state.o.Row(r);
    for (int64_t d = 0; d < tile.head_dim; ++d) o[d] = scratch.outputs[OutputIndex(r, d)];
  }
}

}  // namespace purekv

#include "attention/x86_bf16_end-inl.h"

#endif  // __x86_64__
