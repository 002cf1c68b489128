// Codes on AVX-512 with VNNI: VPDPBUSD of codes and the two bytes of X, 4-bit codes as they are, 8-bit codes with their
// sign bit turned (code + 128), which 128 times the sum of X undoes. All exact in 32 bits within a group:
// 255 * 127 * 256 * 128 inputs = 1.06e9.
#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "kernels/code_kernels_x86.h"

#if defined(__x86_64__)

// clang-format off
#include "kernels/x86_int8_begin-inl.h"
#include "kernels/code_product-inl.h"  // for these instructions
// clang-format on

namespace purekv::code_kernels {
namespace {

struct Vnni {
  using F = __m512;
  using I = __m512i;
  static constexpr int64_t kLanes = 16;
  static constexpr int64_t kVectors = kPanel / kLanes;
  static constexpr int kRows = 4;
  static constexpr int kRowsOfBytes = 4;

  static PUREKV_INLINE I Set(int32_t value) { return _mm512_set1_epi32(value); }
  static PUREKV_INLINE F Set(float value) { return _mm512_set1_ps(value); }
  static PUREKV_INLINE F Load(const float* from) { return _mm512_loadu_ps(from); }
  static PUREKV_INLINE void Store(float* to, F value) { _mm512_storeu_ps(to, value); }
  static PUREKV_INLINE F Float(I value) { return _mm512_cvtepi32_ps(value); }
  static PUREKV_INLINE I Bits(F value) { return _mm512_castps_si512(value); }
  static PUREKV_INLINE I Add(I a, I b) { return _mm512_add_epi32(a, b); }
  static PUREKV_INLINE F Add(F a, F b) { return _mm512_add_ps(a, b); }
  static PUREKV_INLINE I Subtract(I a, I b) { return _mm512_sub_epi32(a, b); }
  static PUREKV_INLINE F Subtract(F a, F b) { return _mm512_sub_ps(a, b); }
  static PUREKV_INLINE I Multiply(I a, I b) { return _mm512_mullo_epi32(a, b); }
  static PUREKV_INLINE F Multiply(F a, F b) { return _mm512_mul_ps(a, b); }
  static PUREKV_INLINE F MultiplyAdd(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static PUREKV_INLINE F MultiplySubtract(F a, F b, F c) { return _mm512_fmsub_ps(a, b, c); }
  template <int kBits>
  static PUREKV_INLINE I Shift(I value) {
    return _mm512_slli_epi32(value, kBits);
  }
  template <int kBits>
  static PUREKV_INLINE I ShiftRight(I value) {
    return _mm512_srli_epi32(value, kBits);
  }
  template <int kBits>
  static PUREKV_INLINE I ShiftRightSigned(I value) {
    return _mm512_srai_epi32(value, kBits);
  }
  static PUREKV_INLINE I And(I a, I b) { return _mm512_and_si512(a, b); }
  static PUREKV_INLINE I Or(I a, I b) { return _mm512_or_si512(a, b); }
  static PUREKV_INLINE I Round(F value) { return _mm512_cvtps_epi32(value); }
  static PUREKV_INLINE I LoadInts(const uint8_t* from) { return _mm512_loadu_si512(from); }
  static PUREKV_INLINE void StoreInts(int8_t* to, I value) { _mm512_storeu_si512(to, value); }
  // 16 numbers of f16 or bf16; 16 bytes.
  static PUREKV_INLINE F Scales(const uint8_t* from, Dtype dtype) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    if (dtype == Dtype::kF16) return _mm512_cvtph_ps(bits);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  static PUREKV_INLINE I Unsigned(const uint8_t* from) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
  static PUREKV_INLINE I Signed(const uint8_t* from) {
    return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }

  // sum += codes * bytes, in the register that the sum is in: GCC 12 copies sums of several rows back and forth.
  static PUREKV_INLINE void Dot(I& sum, I codes, I bytes) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(codes), "v"(bytes));
  }

  // Where the rows' bytes are, from an input on. Not looked up in the loops: what these write could have changed it.
  template <int kCount>
  struct RowBytes {
    PUREKV_INLINE RowBytes(const BlockArgs& a, int64_t first) {
      PUREKV_UNROLL for (int r = 0; r < kCount; ++r) {
        high[r] = a.High(r, first);
        low[r] = a.Low(r, first);
      }
    }
    const int8_t *high[kCount], *low[kCount];
  };

  // One row: sums of even and odd quads apart, since each VPDPBUSD waits for the one before on the same sum.
  template <int kCount>
  static PUREKV_INLINE void FourBits(const BlockArgs& a, int64_t first, int64_t inputs, I (*exact)[kVectors]) {
    constexpr int kChains = kCount == 1 ? 2 : 1;
    const I mask = _mm512_set1_epi8(15);
    const RowBytes<kCount> x(a, first);
    const uint8_t* codes = a.codes + first * kPanel / 2;
    I high[kCount][kVectors][kChains], low[kCount][kVectors][kChains];
    PUREKV_UNROLL for (int r = 0; r < kCount; ++r) {
      PUREKV_UNROLL for (int64_t v = 0; v < kVectors; ++v) {
        PUREKV_UNROLL for (int c = 0; c < kChains; ++c) high[r][v][c] = low[r][v][c] = _mm512_setzero_si512();
      }
    }
    for (int64_t i = 0; i < inputs; i += 8, codes += 4 * kPanel) {
      _mm_prefetch(reinterpret_cast<const char*>(codes) + a.ahead, _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(codes) + a.ahead + 64, _MM_HINT_T0);
      PUREKV_UNROLL for (int64_t v = 0; v < kVectors; ++v) {
        const I both = _mm512_loadu_si512(codes + v * 64);
        const I even = _mm512_and_si512(both, mask);
        const I odd = _mm512_and_si512(_mm512_srli_epi16(both, 4), mask);
        PUREKV_UNROLL for (int r = 0; r < kCount; ++r) {
          const int8_t *const highs = x.high[r] + i, *const lows = x.low[r] + i;
          Dot(high[r][v][0], even, Set(Quad(highs)));
          Dot(low[r][v][0], even, Set(Quad(lows)));
          Dot(high[r][v][kChains - 1], odd, Set(Quad(highs + 4)));
          Dot(low[r][v][kChains - 1], odd, Set(Quad(lows + 4)));
        }
      }
    }
    PUREKV_UNROLL for (int r = 0; r < kCount; ++r) {
      PUREKV_UNROLL for (int64_t v = 0; v < kVectors; ++v) {
        PUREKV_UNROLL for (int c = 1; c < kChains; ++c) {
          high[r][v][0] = Add(high[r][v][0], high[r][v][c]);
          low[r][v][0] = Add(low[r][v][0], low[r][v][c]);
        }
        exact[r][v] = Add(Shift<8>(high[r][v][0]), low[r][v][0]);
      }
    }
  }

  template <int kCount>
  static PUREKV_INLINE void EightBits(const BlockArgs& a, int64_t first, int64_t inputs, I (*exact)[kVectors]) {
    const I sign = _mm512_set1_epi8(static_cast<char>(0x80));
    const RowBytes<kCount> x(a, first);
    const uint8_t* codes = a.codes + first * kPanel;
    I high[kCount][kVectors], low[kCount][kVectors];
    PUREKV_UNROLL for (int r = 0; r < kCount; ++r) {
      PUREKV_UNROLL for (int64_t v = 0; v < kVectors; ++v) high[r][v] = low[r][v] = _mm512_setzero_si512();
    }
    for (int64_t i = 0; i < inputs; i += 4, codes += 4 * kPanel) {
      _mm_prefetch(reinterpret_cast<const char*>(codes) + a.ahead, _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(codes) + a.ahead + 64, _MM_HINT_T0);
      PUREKV_UNROLL for (int64_t v = 0; v < kVectors; ++v) {
        const I turned = _mm512_xor_si512(_mm512_loadu_si512(codes + v * 64), sign);
        PUREKV_UNROLL for (int r = 0; r < kCount; ++r) {
          Dot(high[r][v], turned, Set(Quad(x.high[r] + i)));
          Dot(low[r][v], turned, Set(Quad(x.low[r] + i)));
        }
      }
    }
    PUREKV_UNROLL for (int r = 0; r < kCount; ++r) {
      const I too_much = Set(128 * a.Sum(r, first));
      PUREKV_UNROLL for (int64_t v = 0; v < kVectors; ++v) {
        exact[r][v] = Subtract(Add(Shift<8>(high[r][v]), low[r][v]), too_much);
      }
    }
  }
};

}  // namespace

bool HasVnni() {
  static const bool has = __builtin_cpu_supports("avx512vnni") != 0;
  return has;
}

void BlockPairsVnni(const CodePanels& weights, int64_t panel, int64_t block, int8_t* out) {
  BlockPairs<Vnni>(weights, panel, block, out);
}

void PanelBytesVnni(const CodePanels& weights, int64_t panel, const float* inverse, int8_t* out) {
  PanelBytes<Vnni>(weights, panel, inverse, out);
}

void ProductVnni(const CodePanels& weights, int64_t panel, const IntegerRows& x, float* sums) {
  Product<Vnni>(weights, panel, x, sums);
}

}  // namespace purekv::code_kernels

#include "kernels/x86_int8_end-inl.h"

#else

namespace purekv::code_kernels {
bool HasVnni() {
  return false;
}
void BlockPairsVnni(const CodePanels&, int64_t, int64_t, int8_t*) {
  PUREKV_CHECK(false, "no VNNI");
}
void PanelBytesVnni(const CodePanels&, int64_t, const float*, int8_t*) {
  PUREKV_CHECK(false, "no VNNI");
}
void ProductVnni(const CodePanels&, int64_t, const IntegerRows&, float*) {
  PUREKV_CHECK(false, "no VNNI");
}
}  // namespace purekv::code_kernels

#endif
