// Codes on AVX2. 4 bits: VPMADDUBSW of codes (unsigned) and the two bytes of X (signed); four octets of inputs fit into
// 16 bits (8 x 2 x 15 x 128 = 30,720). 8 bits: codes widened to 16 bits times X itself (VPMADDWD), since VPMADDUBSW
// would saturate. Both give the integers that VNNI's VPDPBUSD would.
#include <algorithm>
#include <cstring>
#include <limits>

#include "base/error.h"
#include "kernels/code_kernels_x86.h"

#if defined(__x86_64__)

#include <immintrin.h>

// See amx_matmul.cc: the instruction set is for this code only, not for inline functions of the headers above.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

#include "kernels/code_product-inl.h"

namespace purekv::code_kernels {
namespace {

struct Avx2 {
  using F = __m256;
  using I = __m256i;
  static constexpr int64_t kLanes = 8;
  static constexpr int64_t kVectors = kPanel / kLanes;
  static constexpr int kRows = 2;
  static constexpr int kRowsOfBytes = 1;  // two were no faster

  static PUREKV_INLINE I Set(int32_t value) { return _mm256_set1_epi32(value); }
  static PUREKV_INLINE F Set(float value) { return _mm256_set1_ps(value); }
  static PUREKV_INLINE F Load(const float* from) { return _mm256_loadu_ps(from); }
  static PUREKV_INLINE void Store(float* to, F value) { _mm256_storeu_ps(to, value); }
  static PUREKV_INLINE F Float(I value) { return _mm256_cvtepi32_ps(value); }
  static PUREKV_INLINE I Bits(F value) { return _mm256_castps_si256(value); }
  static PUREKV_INLINE I Add(I a, I b) { return _mm256_add_epi32(a, b); }
  static PUREKV_INLINE F Add(F a, F b) { return _mm256_add_ps(a, b); }
  static PUREKV_INLINE I Subtract(I a, I b) { return _mm256_sub_epi32(a, b); }
  static PUREKV_INLINE F Subtract(F a, F b) { return _mm256_sub_ps(a, b); }
  static PUREKV_INLINE I Multiply(I a, I b) { return _mm256_mullo_epi32(a, b); }
  static PUREKV_INLINE F Multiply(F a, F b) { return _mm256_mul_ps(a, b); }
  static PUREKV_INLINE F MultiplyAdd(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static PUREKV_INLINE F MultiplySubtract(F a, F b, F c) { return _mm256_fmsub_ps(a, b, c); }
  template <int kBits>
  static PUREKV_INLINE I Shift(I value) {
    return _mm256_slli_epi32(value, kBits);
  }
  template <int kBits>
  static PUREKV_INLINE I ShiftRight(I value) {
    return _mm256_srli_epi32(value, kBits);
  }
  template <int kBits>
  static PUREKV_INLINE I ShiftRightSigned(I value) {
    return _mm256_srai_epi32(value, kBits);
  }
  static PUREKV_INLINE I And(I a, I b) { return _mm256_and_si256(a, b); }
  static PUREKV_INLINE I Or(I a, I b) { return _mm256_or_si256(a, b); }
  static PUREKV_INLINE I Round(F value) { return _mm256_cvtps_epi32(value); }
  static PUREKV_INLINE I LoadInts(const uint8_t* from) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  }
  static PUREKV_INLINE void StoreInts(int8_t* to, I value) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), value);
  }
  // 8 numbers of f16 or bf16; 8 bytes.
  static PUREKV_INLINE F Scales(const uint8_t* from, Dtype dtype) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    if (dtype == Dtype::kF16) return _mm256_cvtph_ps(bits);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  static PUREKV_INLINE I Unsigned(const uint8_t* from) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
  }
  static PUREKV_INLINE I Signed(const uint8_t* from) {
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
  }

  // A sum that is made here, in its register. GCC 12 takes all additions of a chain apart otherwise, keeps every
  // product in memory and adds them up at the end: two rows of 4 bits took half as long again.
  static PUREKV_INLINE void Keep(I& sum) { asm("" : "+x"(sum)); }

  // Of as many of the panel's vectors at once as the registers have sums for.
  template <int kCount>
  static PUREKV_INLINE void FourBits(const BlockArgs& a, int64_t first, int64_t inputs, I (*exact)[kVectors]) {
    constexpr int64_t kWide = kCount == 1 ? kVectors : kVectors / 2;
    const I mask = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    for (int r = 0; r < kCount; ++r) {
      for (int64_t v = 0; v < kVectors; ++v) exact[r][v] = _mm256_setzero_si256();
    }
    for (int64_t from = first; from < first + inputs; from += 32) {
      const uint8_t* const codes = a.codes + from * kPanel / 2;
      for (int64_t line = 0; line < 512; line += 64) {
        _mm_prefetch(reinterpret_cast<const char*>(codes) + a.ahead + line, _MM_HINT_T0);
      }
      for (int64_t wide = 0; wide < kVectors; wide += kWide) {
        I high[kCount][kWide], low[kCount][kWide];  // in 16 bits
        for (int r = 0; r < kCount; ++r) {
          for (int64_t v = 0; v < kWide; ++v) high[r][v] = low[r][v] = _mm256_setzero_si256();
        }
        for (int64_t t = 0; t < 4; ++t) {
          for (int64_t v = 0; v < kWide; ++v) {
            const uint8_t* const octet = codes + (t * kPanel + (wide + v) * kLanes) * 4;
            const I both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(octet));
            const I even = _mm256_and_si256(both, mask);
            const I odd = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);
            for (int r = 0; r < kCount; ++r) {
              const int8_t *const highs = a.High(r, from + 8 * t), *const lows = a.Low(r, from + 8 * t);
              high[r][v] = _mm256_add_epi16(high[r][v], _mm256_maddubs_epi16(even, Set(Quad(highs))));
              low[r][v] = _mm256_add_epi16(low[r][v], _mm256_maddubs_epi16(even, Set(Quad(lows))));
              high[r][v] = _mm256_add_epi16(high[r][v], _mm256_maddubs_epi16(odd, Set(Quad(highs + 4))));
              low[r][v] = _mm256_add_epi16(low[r][v], _mm256_maddubs_epi16(odd, Set(Quad(lows + 4))));
              Keep(high[r][v]);
              Keep(low[r][v]);
            }
          }
        }
        for (int r = 0; r < kCount; ++r) {
          for (int64_t v = 0; v < kWide; ++v) {
            const I high32 = Shift<8>(_mm256_madd_epi16(high[r][v], ones));
            I& sum = exact[r][wide + v];
            sum = Add(sum, Add(high32, _mm256_madd_epi16(low[r][v], ones)));
          }
        }
      }
    }
  }

  template <int kCount>
  static PUREKV_INLINE void EightBits(const BlockArgs& a, int64_t first, int64_t inputs, I (*exact)[kVectors]) {
    constexpr int64_t kWide = kCount == 1 ? kVectors : kVectors / 2;
    for (int64_t wide = 0; wide < kVectors; wide += kWide) {
      I pairs[kCount][2 * kWide];  // 4 outputs each, two lanes per output
      for (int r = 0; r < kCount; ++r) {
        for (int64_t v = 0; v < 2 * kWide; ++v) pairs[r][v] = _mm256_setzero_si256();
      }
      for (int64_t i = first; i < first + inputs; i += 4) {
        const uint8_t* const codes = a.codes + (i * kPanel + wide * kLanes * 4);
        for (int64_t line = 0; line < kWide * kLanes * 4; line += 64) {
          _mm_prefetch(reinterpret_cast<const char*>(codes) + a.ahead + line, _MM_HINT_T0);
        }
        for (int64_t v = 0; v < 2 * kWide; ++v) {
          const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + v * 16));
          const I wider = _mm256_cvtepi8_epi16(bytes);
          for (int r = 0; r < kCount; ++r) {
            int64_t four;
            std::memcpy(&four, a.Values(r, i), 8);
            pairs[r][v] = Add(pairs[r][v], _mm256_madd_epi16(wider, _mm256_set1_epi64x(four)));
            Keep(pairs[r][v]);
          }
        }
      }
      for (int r = 0; r < kCount; ++r) {
        for (int64_t v = 0; v < kWide; ++v) {
          // Sums of neighbouring lanes, 8 outputs in order.
          exact[r][wide + v] = _mm256_permute4x64_epi64(_mm256_hadd_epi32(pairs[r][2 * v], pairs[r][2 * v + 1]), 0xD8);
        }
      }
    }
  }
};

// The eight codes of an octet of one output, in the order of the inputs.
PUREKV_INLINE __m256 Octet(const uint8_t* word) {
  int32_t bits;
  std::memcpy(&bits, word, 4);
  const __m256i shifts = _mm256_setr_epi32(0, 8, 16, 24, 4, 12, 20, 28);
  const __m256i codes = _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(bits), shifts), _mm256_set1_epi32(15));
  return _mm256_cvtepi32_ps(codes);
}

PUREKV_INLINE float ScaleAt(const uint8_t* scale, Dtype dtype) {
  uint16_t bits;
  std::memcpy(&bits, scale, 2);
  return dtype == Dtype::kF16 ? _cvtsh_ss(bits) : _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(bits << 16)));
}

}  // namespace

void RoundRowAvx2(const float* x, int64_t in, const RoundedRow& to) {
  const __m256 sign = _mm256_set1_ps(-0.0F), largest = _mm256_set1_ps(std::numeric_limits<float>::max());
  for (int64_t g = 0; g < in; g += IntegerRows::kGroup) {
    __m256 most = _mm256_setzero_ps(), bad = _mm256_setzero_ps();
    for (int64_t i = g; i < g + IntegerRows::kGroup; i += 8) {
      const __m256 size = _mm256_andnot_ps(sign, _mm256_loadu_ps(x + i));
      bad = _mm256_or_ps(bad, _mm256_cmp_ps(size, largest, _CMP_NLE_UQ));
      most = _mm256_max_ps(most, size);
    }
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(most), _mm256_extractf128_ps(most, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    const float m = _mm_cvtss_f32(_mm_max_ss(four, _mm_shuffle_ps(four, four, 1)));
    const bool finite = _mm256_movemask_ps(bad) == 0;
    to.scales[g / IntegerRows::kGroup] = finite ? m / IntegerRows::kLargest : std::numeric_limits<float>::quiet_NaN();
    const __m256 factor = _mm256_set1_ps(finite && m >= kSmallest ? IntegerRows::kLargest / m : 0.0F);
    for (int64_t i = g; i < g + IntegerRows::kGroup; i += 16) {
      __m256i a = _mm256_setzero_si256(), b = a;
      if (finite) {
        a = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), factor));
        b = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i + 8), factor));
      }
      const __m256i values = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xD8);
      // X + 128 fits into 16 bits; high and low are its bytes then, low with the 128 taken off again.
      const __m256i moved = _mm256_add_epi16(values, _mm256_set1_epi16(128));
      const __m256i high = _mm256_srai_epi16(moved, 8);
      const __m256i low = _mm256_sub_epi16(values, _mm256_slli_epi16(high, 8));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to.values + i), values);
      const __m256i bytes = _mm256_permute4x64_epi64(_mm256_packs_epi16(high, low), 0xD8);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to.high + i), _mm256_castsi256_si128(bytes));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to.low + i), _mm256_extracti128_si256(bytes, 1));
    }
  }
}

void ProductAvx2(const CodePanels& weights, int64_t panel, const IntegerRows& x, float* sums) {
  Product<Avx2>(weights, panel, x, sums);
}

void BlockPairsAvx2(const CodePanels& weights, int64_t panel, int64_t block, int8_t* out) {
  BlockPairs<Avx2>(weights, panel, block, out);
}

void PanelBytesAvx2(const CodePanels& weights, int64_t panel, const float* inverse, int8_t* out) {
  PanelBytes<Avx2>(weights, panel, inverse, out);
}

void ExpandRowAvx2(const CodePanels& weights, int64_t row, float* out) {
  const QuantLayout& layout = weights.layout();
  const int64_t lane = row % kPanel;
  for (int64_t b = 0; b < weights.blocks(); ++b, out += kBlock) {
    const uint8_t* const block = weights.Block(row / kPanel, b);
    const int64_t inputs = weights.inputs(b);
    const int64_t group = layout.storage == QuantStorage::kW8C ? inputs : layout.group;
    const uint8_t *const numbers = block + weights.numbers_at(inputs), *const bytes = block + weights.bytes_at(inputs);
    const auto number = [&](int64_t i) { return ScaleAt(numbers + (i * kPanel + lane) * 2, layout.scales); };
    const auto byte = [&](int64_t i) { return bytes[i * kPanel + lane]; };
    for (int64_t g = 0; g < inputs / group; ++g) {
      // value = scale * (code - zero) + add, in the order of QuantValues.
      float scale = 1, zero = 0, add = -0.0F;  // -0 changes nothing, not even the sign of a zero
      switch (layout.storage) {
        case QuantStorage::kW8C:
          break;
        case QuantStorage::kW8G:
          scale = number(g);
          break;
        case QuantStorage::kW4G:
          scale = number(g);
          zero = static_cast<float>(byte(g)) * 0.0625F;
          break;
        case QuantStorage::kW4M:
          scale = number(2 * g);
          add = number(2 * g + 1);
          break;
        case QuantStorage::kW4K:
          scale = number(0) * static_cast<float>(byte(g));
          add = -(number(1) * static_cast<float>(byte(8 + g)));
          break;
        case QuantStorage::kW8K:
          scale = number(0) * static_cast<float>(static_cast<int8_t>(byte(g)));
          break;
      }
      if (layout.four_bits()) {
        const __m256 factor = _mm256_set1_ps(scale), moved = _mm256_set1_ps(zero), more = _mm256_set1_ps(add);
        for (int64_t i = g * group; i < (g + 1) * group; i += 8) {
          const __m256 codes = _mm256_sub_ps(Octet(block + (i / 8 * kPanel + lane) * 4), moved);
          _mm256_storeu_ps(out + i, _mm256_add_ps(_mm256_mul_ps(codes, factor), more));
        }
        continue;
      }
      for (int64_t i = g * group; i < (g + 1) * group; i += 4) {
        const __m128i codes = _mm_cvtepi8_epi32(_mm_loadu_si32(block + (i / 4 * kPanel + lane) * 4));
        _mm_storeu_ps(out + i, _mm_mul_ps(_mm_cvtepi32_ps(codes), _mm_set1_ps(scale)));
      }
    }
  }
}

}  // namespace purekv::code_kernels

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#else

namespace purekv::code_kernels {
void RoundRowAvx2(const float*, int64_t, const RoundedRow&) {
  PUREKV_CHECK(false, "no AVX2");
}
void ProductAvx2(const CodePanels&, int64_t, const IntegerRows&, float*) {
  PUREKV_CHECK(false, "no AVX2");
}
void BlockPairsAvx2(const CodePanels&, int64_t, int64_t, int8_t*) {
  PUREKV_CHECK(false, "no AVX2");
}
void PanelBytesAvx2(const CodePanels&, int64_t, const float*, int8_t*) {
  PUREKV_CHECK(false, "no AVX2");
}
void ExpandRowAvx2(const CodePanels&, int64_t, float*) {
  PUREKV_CHECK(false, "no AVX2");
}
}  // namespace purekv::code_kernels

#endif
