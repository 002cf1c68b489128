// The part that the bf16 kernels share: packing, softmax, the loop over blocks. Included inside a region compiled for
// AVX512-BF16, after <immintrin.h>; `Products` (how S^T and O^T are multiplied) is the including file's.

constexpr int64_t kPanelWidth = 32;  // queries side by side: two vectors, two tiles
constexpr float kMasked = -1e30F;    // instead of -infinity: exp2 of it minus anything is 0, never NaN
constexpr float kNothingSeen = -0.9e30F;
constexpr float kLog2E = 1.44269504088896341F;

// 2^x, relative error below 3e-6 (bf16 keeps 4e-3 of it): a polynomial on [0, 1) with p(0) = 1, fitted to the relative
// error, times 2^floor(x) by the exponent.
inline __m512 Exp2(__m512 x) {
  const __m512 f = _mm512_reduce_ps(x, 0x09);  // x - floor(x)
  __m512 p = _mm512_set1_ps(0.013426685705780983F);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.052242472767829895F));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.2412802129983902F));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.6930448412895203F));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0F));
  return _mm512_scalef_ps(p, x);
}

// Rows become columns: 16 x 16 elements of 32 bits.
inline void Transpose(__m512i* r) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

inline __mmask16 LaneMask(int64_t n) {
  return static_cast<__mmask16>(n >= 16 ? 0xffffU : (1U << (n < 0 ? 0 : n)) - 1U);
}

// 32 elements from p, `n` of them real, as bf16 (round to nearest even).
inline __m512i LoadPairs(const void* p, Dtype dtype, int64_t n) {
  if (dtype == Dtype::kBF16) {
    const __mmask32 mask = n >= 32 ? 0xffffffffU : (1U << (n < 0 ? 0 : n)) - 1U;
    return _mm512_maskz_loadu_epi16(mask, p);
  }
  const float* f = static_cast<const float*>(p);
  const __m512 low = _mm512_maskz_loadu_ps(LaneMask(n), f);
  const __m512 high = _mm512_maskz_loadu_ps(LaneMask(n - 16), f + 16);
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
}

// 32 rows of keys as bf16, `count` of them real; zeros behind them and behind head_dim.
inline void CopyKeys(const void* keys, Dtype dtype, int64_t stride, int64_t count, int64_t head_dim, BF16* group) {
  const auto size = static_cast<int64_t>(DtypeSize(dtype));
  const int64_t padded = PaddedHeadDim(head_dim);
  for (int64_t k = 0; k < kKeyGroup; ++k) {
    const char* from = static_cast<const char*>(keys) + k * stride * size;
    for (int64_t d = 0; d < padded; d += 32) {
      const __m512i x = k < count ? LoadPairs(from + d * size, dtype, head_dim - d) : _mm512_setzero_si512();
      _mm512_storeu_si512(group + k * padded + d, x);
    }
  }
}

inline void PackValues(const void* values, Dtype dtype, int64_t stride, int64_t count, int64_t head_dim, BF16* group) {
  const auto size = static_cast<int64_t>(DtypeSize(dtype));
  const char* from = static_cast<const char*>(values);
  for (int64_t d = 0; d < PaddedHeadDim(head_dim); d += 32) {
    __m512i low[16];
    __m512i high[16];
    for (int64_t pair = 0; pair < 16; ++pair) {
      const int64_t n = head_dim - d;
      const int64_t key = 2 * pair;
      const __m512i zero = _mm512_setzero_si512();
      const __m512i a = key < count ? LoadPairs(from + (key * stride + d) * size, dtype, n) : zero;
      const __m512i b = key + 1 < count ? LoadPairs(from + ((key + 1) * stride + d) * size, dtype, n) : zero;
      low[pair] = _mm512_unpacklo_epi16(a, b);  // elements 0-3, 8-11, 16-19, 24-27 of both keys
      high[pair] = _mm512_unpackhi_epi16(a, b);
    }
    Transpose(low);
    Transpose(high);
    for (int64_t i = 0; i < 16; ++i) {
      const int64_t row = d + i / 4 * 8 + i % 4;
      _mm512_storeu_si512(group + row * kKeyGroup, low[i]);
      _mm512_storeu_si512(group + (row + 4) * kKeyGroup, high[i]);
    }
  }
}

inline void PackQueries(const AttentionTile& tile, BF16* panels) {
  const int64_t rows = tile.rows();
  const int64_t padded = PaddedHeadDim(tile.head_dim);
  const size_t size = DtypeSize(tile.q_dtype);
  for (int64_t first = 0; first < rows; first += 16) {
    BF16* panel = panels + first / kPanelWidth * kPanelWidth * padded + first % kPanelWidth / 16 * 512;
    const char* row[16];
    for (int64_t i = 0; i < 16; ++i) {
      row[i] = first + i < rows ? static_cast<const char*>(tile.Query(first + i)) : nullptr;
    }
    for (int64_t d = 0; d < padded; d += 32) {
      __m512i t[16];
      for (int64_t i = 0; i < 16; ++i) {
        t[i] = row[i] == nullptr ? _mm512_setzero_si512()
                                 : LoadPairs(row[i] + static_cast<size_t>(d) * size, tile.q_dtype, tile.head_dim - d);
      }
      Transpose(t);
      for (int64_t i = 0; i < 16; ++i) _mm512_storeu_si512(panel + d / 32 * 1024 + i * 32, t[i]);
    }
  }
  if (rows % kPanelWidth > 0 && rows % kPanelWidth <= 16) {  // the second half of the last panel
    BF16* panel = panels + rows / kPanelWidth * kPanelWidth * padded + 512;
    for (int64_t d = 0; d < padded; d += 32) std::memset(panel + d / 32 * 1024, 0, 1024);
  }
}

// Logits of keys that a lane does not see become kMasked. It sees those from begins (null: 0) to limits, counted from
// the block's first.
inline void MaskBlock(float* logits, int64_t keys, const int32_t* begins, const int32_t* limits) {
  const __m512 masked = _mm512_set1_ps(kMasked);
  for (int64_t half = 0; half < kPanelWidth; half += 16) {
    const __m512i limit = _mm512_loadu_si512(limits + half);
    const __m512i begin = begins == nullptr ? _mm512_setzero_si512() : _mm512_loadu_si512(begins + half);
    for (int64_t k = 0; k < keys; ++k) {
      const __m512i key = _mm512_set1_epi32(static_cast<int>(k));
      const __mmask16 hidden = _mm512_cmple_epi32_mask(limit, key) | _mm512_cmpgt_epi32_mask(begin, key);
      _mm512_mask_storeu_ps(logits + k * kPanelWidth + half, hidden, masked);
    }
  }
}

// Softmax of a block: logits [keys][32], exponents of 2 once multiplied with `unit`, become probabilities relative to
// the new maxima, as pairs of keys [keys / 2][32][2] bf16. `rescale` (32) is what earlier sums must be multiplied with;
// false when that is 1 everywhere.
inline bool BlockSoftmax(const float* logits, int64_t keys, float unit, float* m, float* l, BF16* p, float* rescale) {
  alignas(64) static constexpr uint16_t kInterleave[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                           21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                           11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i interleave = _mm512_load_si512(kInterleave);
  const __m512 units = _mm512_set1_ps(unit);
  bool changed = false;
  for (int64_t half = 0; half < kPanelWidth; half += 16) {
    const float* column = logits + half;
    const __m512 old = _mm512_loadu_ps(m + half);
    __m512 top0 = old;
    __m512 top1 = old;
    for (int64_t k = 0; k < keys; k += 4) {
      top0 = _mm512_max_ps(top0, _mm512_loadu_ps(column + k * kPanelWidth));
      top1 = _mm512_max_ps(top1, _mm512_loadu_ps(column + (k + 1) * kPanelWidth));
      top0 = _mm512_max_ps(top0, _mm512_loadu_ps(column + (k + 2) * kPanelWidth));
      top1 = _mm512_max_ps(top1, _mm512_loadu_ps(column + (k + 3) * kPanelWidth));
    }
    const __m512 top = _mm512_max_ps(top0, top1);
    // A lane that has seen nothing subtracts 0: its masked logits then give 0, not 1.
    const __mmask16 seen = _mm512_cmp_ps_mask(top, _mm512_set1_ps(kNothingSeen), _CMP_GT_OQ);
    const __m512 shift = _mm512_maskz_mul_ps(seen, top, units);
    __m512 sum0 = _mm512_setzero_ps();
    __m512 sum1 = _mm512_setzero_ps();
    for (int64_t k = 0; k < keys; k += 2) {
      const __m512 p0 = Exp2(_mm512_fmsub_ps(_mm512_loadu_ps(column + k * kPanelWidth), units, shift));
      const __m512 p1 = Exp2(_mm512_fmsub_ps(_mm512_loadu_ps(column + (k + 1) * kPanelWidth), units, shift));
      sum0 = _mm512_add_ps(sum0, p0);
      sum1 = _mm512_add_ps(sum1, p1);
      const __m512i both = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(p1, p0));
      _mm512_storeu_si512(p + k * kPanelWidth + half * 2, _mm512_permutexvar_epi16(interleave, both));
    }
    const __m512 sum = _mm512_add_ps(sum0, sum1);
    if (_mm512_cmp_ps_mask(old, top, _CMP_NEQ_UQ) == 0) {
      _mm512_storeu_ps(l + half, _mm512_add_ps(_mm512_loadu_ps(l + half), sum));
      _mm512_storeu_ps(rescale + half, _mm512_set1_ps(1.0F));
      continue;
    }
    changed = true;
    const __m512 factor = Exp2(_mm512_fmsub_ps(old, units, shift));
    _mm512_storeu_ps(rescale + half, factor);
    _mm512_storeu_ps(l + half, _mm512_fmadd_ps(_mm512_loadu_ps(l + half), factor, sum));
    _mm512_storeu_ps(m + half, top);
  }
  return changed;
}

// O^T of a panel, [padded head_dim][32], to rows of the state.
inline void StoreRows(const float* transposed, int64_t padded, int64_t count, float* o, int64_t stride) {
  for (int64_t half = 0; half < std::min(kPanelWidth, count); half += 16) {
    for (int64_t d = 0; d < padded; d += 16) {
      if (d >= stride) break;
      __m512i t[16];
      for (int64_t i = 0; i < 16; ++i) t[i] = _mm512_loadu_si512(transposed + (d + i) * kPanelWidth + half);
      Transpose(t);
      for (int64_t i = 0; i < 16 && half + i < count; ++i) _mm512_storeu_si512(o + (half + i) * stride + d, t[i]);
    }
  }
}

// 16 columns of O^T, scaled, to rows [first, first + count) of the tile in the output.
inline void FinishRows(const float* transposed, __m512 scale, const AttentionTile& tile, int64_t first, int64_t count,
                       const AnyMatrixView& out) {
  const int64_t head_dim = tile.head_dim;
  char* row[16];
  for (int64_t i = 0; i < count; ++i) {
    const int64_t r = first + i;
    row[i] = static_cast<char*>(out.data) +
             static_cast<size_t>(r / tile.group * out.stride + r % tile.group * head_dim) * DtypeSize(out.dtype);
  }
  for (int64_t d = 0; d < head_dim; d += 32) {
    __m512i low[16];
    __m512i high[16];
    for (int64_t i = 0; i < 16; ++i) {
      const float* from = transposed + (d + i) * kPanelWidth;
      low[i] = reinterpret_cast<__m512i>(_mm512_mul_ps(_mm512_loadu_ps(from), scale));
      high[i] = reinterpret_cast<__m512i>(_mm512_mul_ps(_mm512_loadu_ps(from + 16 * kPanelWidth), scale));
    }
    Transpose(low);
    Transpose(high);
    const int64_t n = std::min<int64_t>(32, head_dim - d);
    if (out.dtype == Dtype::kBF16) {
      const __mmask32 mask = n == 32 ? 0xffffffffU : (1U << n) - 1U;
      for (int64_t i = 0; i < count; ++i) {
        const auto both = _mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(high[i]), reinterpret_cast<__m512>(low[i]));
        _mm512_mask_storeu_epi16(row[i] + d * 2, mask, reinterpret_cast<__m512i>(both));
      }
    } else {
      for (int64_t i = 0; i < count; ++i) {
        _mm512_mask_storeu_epi32(row[i] + d * 4, LaneMask(n), low[i]);
        _mm512_mask_storeu_epi32(row[i] + d * 4 + 64, LaneMask(n - 16), high[i]);
      }
    }
  }
}

struct Scratch {
  BF16* queries;   // panels
  float* outputs;  // per panel [padded head_dim][32]
  float* m;
  float* l;
  float* logits;  // [kBf16BlockKeys][32]
  BF16* p;        // [kBf16BlockKeys / 2][32][2]

  Scratch(char* memory, int64_t rows, int64_t padded) {
    const int64_t padded_rows = PanelRows(rows);
    logits = reinterpret_cast<float*>(memory);
    p = reinterpret_cast<BF16*>(logits + kBf16BlockKeys * kPanelWidth);
    m = reinterpret_cast<float*>(p + kBf16BlockKeys * kPanelWidth);
    l = m + padded_rows;
    outputs = l + padded_rows;
    queries = reinterpret_cast<BF16*>(outputs + padded_rows * padded);
  }
};

// Asks for part `part` of `parts` of a block's keys and values. The third-level cache answers after 200 ns here (a
// large server part), tile loads wait for it one by one, and rows `stride` apart are no pattern the hardware foresees:
// without this, half of the time went by waiting.
inline void PrefetchBlock(const PreparedHead& kv, int64_t block, int64_t key_end, int64_t padded, int64_t part,
                          int64_t parts) {
  const int64_t keys = std::min(kBf16BlockKeys, key_end - block);
  if (keys <= 0) return;
  const auto row_bytes = padded * static_cast<int64_t>(sizeof(BF16));
  const int64_t whole = kv.tail != nullptr ? kv.length / kKeyGroup * kKeyGroup : kv.length;
  for (int64_t k = keys * part / parts; k < keys * (part + 1) / parts; ++k) {
    const char* value = reinterpret_cast<const char*>(kv.values + (block + k) * padded);
    for (int64_t b = 0; b < row_bytes; b += 64) _mm_prefetch(value + b, _MM_HINT_T1);
    if (block + k >= whole) continue;
    const char* key = reinterpret_cast<const char*>(kv.keys + (block + k) * kv.key_stride);
    for (int64_t b = 0; b < row_bytes; b += 64) _mm_prefetch(key + b, _MM_HINT_T1);
  }
}

// Leaves maxima, sums and O^T of all panels in the scratch memory.
template <class Products>
void AttendPanels(const AttentionTile& tile, const PreparedHead& kv, const Scratch& scratch) {
  const Products products;
  const int64_t rows = tile.rows();
  const int64_t padded = PaddedHeadDim(tile.head_dim);
  PackQueries(tile, scratch.queries);
  std::fill_n(scratch.m, PanelRows(rows), kMasked);
  std::fill_n(scratch.l, PanelRows(rows), 0.0F);
  std::memset(scratch.outputs, 0, static_cast<size_t>(PanelRows(rows) * padded) * sizeof(float));

  const auto limit_of = [&](int64_t r) {
    return std::min(tile.limit(std::min(r, rows - 1) / tile.group), tile.key_end);
  };
  const auto begin_of = [&](int64_t r) { return tile.begin(std::min(r, rows - 1) / tile.group); };
  const int64_t key_end = limit_of(rows - 1);
  const int64_t key_begin = std::max(tile.key_begin, begin_of(0) / kKeyGroup * kKeyGroup);
  for (int64_t block = key_begin; block < key_end; block += kBf16BlockKeys) {
    for (int64_t first = 0; first < rows; first += kPanelWidth) {
      PrefetchBlock(kv, block + kBf16BlockKeys, key_end, padded, first / kPanelWidth, PanelRows(rows) / kPanelWidth);
      const int64_t highest = limit_of(first + kPanelWidth - 1);
      if (highest <= block) continue;
      const int64_t groups = (std::min(kBf16BlockKeys, highest - block) + kKeyGroup - 1) / kKeyGroup;
      const int64_t keys = groups * kKeyGroup;
      if (begin_of(first) >= block + keys) continue;
      const bool begins_here = begin_of(first + kPanelWidth - 1) > block;
      products.Logits(kv, block / kKeyGroup, groups, padded, scratch.queries + first * padded, scratch.logits);
      if (begins_here || limit_of(first) < block + keys) {
        alignas(64) int32_t begins[kPanelWidth];
        alignas(64) int32_t limits[kPanelWidth];
        for (int64_t i = 0; i < kPanelWidth; ++i) {
          begins[i] = static_cast<int32_t>(std::clamp<int64_t>(begin_of(first + i) - block, 0, keys));
          limits[i] = static_cast<int32_t>(std::clamp<int64_t>(limit_of(first + i) - block, 0, keys));
        }
        MaskBlock(scratch.logits, keys, begins_here ? begins : nullptr, limits);
      }
      alignas(64) float rescale[kPanelWidth];
      float* o = scratch.outputs + first * padded;
      if (BlockSoftmax(scratch.logits, keys, tile.scale * kLog2E, scratch.m + first, scratch.l + first, scratch.p,
                       rescale)) {
        const __m512 r0 = _mm512_load_ps(rescale);
        const __m512 r1 = _mm512_load_ps(rescale + 16);
        for (int64_t d = 0; d < padded; ++d) {
          _mm512_storeu_ps(o + d * kPanelWidth, _mm512_mul_ps(_mm512_loadu_ps(o + d * kPanelWidth), r0));
          _mm512_storeu_ps(o + d * kPanelWidth + 16, _mm512_mul_ps(_mm512_loadu_ps(o + d * kPanelWidth + 16), r1));
        }
      }
      products.Values(kv.values + block * padded, groups, padded, scratch.p, o);
    }
  }
}

template <class Products>
void Attend(const AttentionTile& tile, const PreparedHead& kv, const PartialState& state, char* memory) {
  const int64_t rows = tile.rows();
  const int64_t padded = PaddedHeadDim(tile.head_dim);
  const Scratch scratch(memory, rows, padded);
  AttendPanels<Products>(tile, kv, scratch);
  for (int64_t first = 0; first < rows; first += kPanelWidth) {
    StoreRows(scratch.outputs + first * padded, padded, std::min(kPanelWidth, rows - first), state.o.Row(first),
              state.o.stride);
  }
  for (int64_t r = 0; r < rows; ++r) {
    const bool seen = scratch.m[r] > kNothingSeen;
    state.m[r] = seen ? scratch.m[r] * tile.scale : -std::numeric_limits<float>::infinity();
    state.l[r] = scratch.l[r];
  }
}

template <class Products>
void AttendFinish(const AttentionTile& tile, const PreparedHead& kv, const TileOutput& output, char* memory) {
  const int64_t rows = tile.rows();
  const int64_t padded = PaddedHeadDim(tile.head_dim);
  const Scratch scratch(memory, rows, padded);
  AttendPanels<Products>(tile, kv, scratch);
  for (int64_t first = 0; first < rows; first += 16) {
    const int64_t panel = first / kPanelWidth * kPanelWidth;
    const __m512 l = _mm512_loadu_ps(scratch.l + first);
    const __mmask16 seen = _mm512_cmp_ps_mask(l, _mm512_setzero_ps(), _CMP_GT_OQ);
    const __m512 scale = _mm512_maskz_div_ps(seen, _mm512_set1_ps(1.0F), l);
    FinishRows(scratch.outputs + panel * padded + first % kPanelWidth, scale, tile, first,
               std::min<int64_t>(16, rows - first), output.out);
  }
  for (int64_t r = 0; r < rows && output.lse != nullptr; ++r) {
    output.lse[r / tile.group * output.lse_stride + r % tile.group] =
        scratch.l[r] > 0 ? scratch.m[r] * tile.scale + std::log(scratch.l[r]) : -std::numeric_limits<float>::infinity();
  }
}

template <class Products>
void Logits(const PreparedHead& kv, int64_t group, int64_t groups, int64_t padded, const BF16* panel, float* logits) {
  const Products products;
  products.Logits(kv, group, groups, padded, panel, logits);
}

// Sums, or (one plane, no weights) the largest probability of every key.
template <class Products, bool kMaxima>
void Columns(const ColumnTile& tile, double* const* sums, char* memory) {
  const Products products;
  const int64_t padded = PaddedHeadDim(tile.head_dim);
  float* logits = reinterpret_cast<float*>(memory);        // [kBf16BlockKeys][32]
  float* columns = logits + kBf16BlockKeys * kPanelWidth;  // [planes][kBf16BlockKeys][16]
  const int64_t width = tile.panels * kPanelWidth;
  const __m512 units = _mm512_set1_ps(tile.scale * kLog2E);
  for (int64_t block = tile.key_begin; block < tile.key_end; block += kBf16BlockKeys) {
    const int64_t groups = (std::min(kBf16BlockKeys, tile.key_end - block) + kKeyGroup - 1) / kKeyGroup;
    const int64_t keys = groups * kKeyGroup;
    std::memset(columns, 0, static_cast<size_t>(tile.planes * kBf16BlockKeys * 16) * sizeof(float));
    for (int64_t panel = 0; panel < tile.panels; ++panel) {
      const int32_t* limits = tile.limits + panel * kPanelWidth;
      int32_t lowest = limits[0];
      int32_t highest = limits[0];
      for (int64_t i = 1; i < kPanelWidth; ++i) {
        lowest = std::min(lowest, limits[i]);
        highest = std::max(highest, limits[i]);
      }
      if (highest <= block) continue;
      products.Logits(tile.kv, block / kKeyGroup, groups, padded, tile.queries + panel * kPanelWidth * padded, logits);
      if (lowest < block + keys) {
        alignas(64) int32_t inside[kPanelWidth];
        for (int64_t i = 0; i < kPanelWidth; ++i) {
          inside[i] = static_cast<int32_t>(std::clamp<int64_t>(limits[i] - block, 0, keys));
        }
        MaskBlock(logits, keys, nullptr, inside);
      }
      const float* lse = tile.lse + panel * kPanelWidth;
      const __m512 l0 = _mm512_loadu_ps(lse);
      const __m512 l1 = _mm512_loadu_ps(lse + 16);
      if (tile.weights == nullptr) {
        for (int64_t k = 0; k < keys; ++k) {
          const __m512 p0 = Exp2(_mm512_fmsub_ps(_mm512_loadu_ps(logits + k * kPanelWidth), units, l0));
          const __m512 p1 = Exp2(_mm512_fmsub_ps(_mm512_loadu_ps(logits + k * kPanelWidth + 16), units, l1));
          float* column = columns + k * 16;
          const __m512 before = _mm512_loadu_ps(column);
          _mm512_storeu_ps(column, kMaxima ? _mm512_max_ps(before, _mm512_max_ps(p0, p1))
                                           : _mm512_add_ps(before, _mm512_add_ps(p0, p1)));
          if (kMaxima || !tile.squares) continue;
          float* const squares = column + kBf16BlockKeys * 16;
          const __m512 sum = _mm512_fmadd_ps(p0, p0, _mm512_loadu_ps(squares));
          _mm512_storeu_ps(squares, _mm512_fmadd_ps(p1, p1, sum));
        }
        continue;
      }
      for (int64_t k = 0; k < keys; ++k) {
        const __m512 p0 = Exp2(_mm512_fmsub_ps(_mm512_loadu_ps(logits + k * kPanelWidth), units, l0));
        const __m512 p1 = Exp2(_mm512_fmsub_ps(_mm512_loadu_ps(logits + k * kPanelWidth + 16), units, l1));
        for (int64_t plane = 0; plane < tile.planes; ++plane) {
          const float* w = tile.weights + plane * width + panel * kPanelWidth;
          float* column = columns + (plane * kBf16BlockKeys + k) * 16;
          __m512 sum = _mm512_fmadd_ps(p0, _mm512_loadu_ps(w), _mm512_loadu_ps(column));
          sum = _mm512_fmadd_ps(p1, _mm512_loadu_ps(w + 16), sum);
          _mm512_storeu_ps(column, sum);
        }
      }
    }
    for (int64_t plane = 0; plane < tile.planes; ++plane) {
      for (int64_t k = 0; k < std::min(keys, tile.key_end - block); ++k) {
        const __m512 column = _mm512_loadu_ps(columns + (plane * kBf16BlockKeys + k) * 16);
        double& sum = sums[plane][block + k];
        if constexpr (kMaxima) {
          sum = std::max(sum, static_cast<double>(_mm512_reduce_max_ps(column)));
        } else {
          sum += static_cast<double>(_mm512_reduce_add_ps(column));
        }
      }
    }
  }
}
