// Codes on AVX2. 4 bits: VPMADDUBSW of codes (unsigned) and the two bytes of X (signed); four octets of inputs fit into
// 16 bits (8 x 2 x 15 x 128 = 30,720). 8 bits: codes widened to 16 bits times X itself (VPMADDWD), since VPMADDUBSW
// would saturate. Both give the integers that VNNI's VPDPBUSD would.
#include "kernels/code_kernels_avx2.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "base/error.h"

#if defined(__x86_64__)

#include <immintrin.h>

// See amx_matmul.cc: the instruction set is for this code only, not for inline functions of the headers above.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

namespace purekv::code_kernels {
namespace {

constexpr int64_t kPanel = CodePanels::kPanel;
constexpr int64_t kBlock = CodePanels::kBlock;
constexpr int64_t kVectors = kPanel / 8;  // of 8 outputs
constexpr int64_t kAhead = 4096;          // bytes asked for ahead: the hardware's own prefetch stops at each page

// Functions that take vectors must be inlined: without the instruction set their callers could not pass them.
#define PUREKV_INLINE inline __attribute__((always_inline))

PUREKV_INLINE __m256 LoadScales(const uint8_t* scales, Dtype dtype) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(scales));
  if (dtype == Dtype::kF16) return _mm256_cvtph_ps(bits);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

PUREKV_INLINE __m256i LoadZeros(const uint8_t* zeros) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(zeros)));
}

PUREKV_INLINE __m256i Quad(const int8_t* bytes) {
  int32_t quad;
  std::memcpy(&quad, bytes, 4);
  return _mm256_set1_epi32(quad);
}

// 32 inputs (four octets) of a panel times both bytes of a row, added to exact 32-bit sums: 256 high + low.
PUREKV_INLINE void Octets(const uint8_t* codes, const int8_t* high, const int8_t* low, __m256i* exact) {
  const __m256i mask = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
  __m256i high_sums[kVectors], low_sums[kVectors];
  for (int64_t v = 0; v < kVectors; ++v) high_sums[v] = low_sums[v] = _mm256_setzero_si256();
  for (int64_t line = 0; line < 512; line += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(codes) + kAhead + line, _MM_HINT_T0);
  }
  for (int64_t t = 0; t < 4; ++t) {
    const __m256i high0 = Quad(high + 8 * t), high1 = Quad(high + 8 * t + 4);
    const __m256i low0 = Quad(low + 8 * t), low1 = Quad(low + 8 * t + 4);
    for (int64_t v = 0; v < kVectors; ++v) {
      const uint8_t* const from = codes + (t * kPanel + v * 8) * 4;
      const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
      const __m256i first = _mm256_and_si256(both, mask);
      const __m256i second = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);
      high_sums[v] = _mm256_add_epi16(high_sums[v], _mm256_maddubs_epi16(first, high0));
      high_sums[v] = _mm256_add_epi16(high_sums[v], _mm256_maddubs_epi16(second, high1));
      low_sums[v] = _mm256_add_epi16(low_sums[v], _mm256_maddubs_epi16(first, low0));
      low_sums[v] = _mm256_add_epi16(low_sums[v], _mm256_maddubs_epi16(second, low1));
    }
  }
  for (int64_t v = 0; v < kVectors; ++v) {
    const __m256i high32 = _mm256_slli_epi32(_mm256_madd_epi16(high_sums[v], ones), 8);
    exact[v] = _mm256_add_epi32(exact[v], _mm256_add_epi32(high32, _mm256_madd_epi16(low_sums[v], ones)));
  }
}

// Sums of neighbouring 32-bit lanes of two vectors, in order: 8 outputs of two lanes each.
PUREKV_INLINE __m256i AddPairs(__m256i a, __m256i b) {
  return _mm256_permute4x64_epi64(_mm256_hadd_epi32(a, b), 0xD8);
}

// `inputs` inputs of 8-bit codes times a row: exact sums of 32 outputs.
PUREKV_INLINE void Quads(const uint8_t* codes, const int16_t* x, int64_t inputs, __m256i* exact) {
  __m256i pairs[2 * kVectors];  // 4 outputs each, two lanes per output
  for (__m256i& sum : pairs) sum = _mm256_setzero_si256();
  for (int64_t q = 0; q < inputs / 4; ++q) {
    int64_t four;
    std::memcpy(&four, x + 4 * q, 8);
    const __m256i values = _mm256_set1_epi64x(four);
    const uint8_t* const from = codes + q * kPanel * 4;
    _mm_prefetch(reinterpret_cast<const char*>(from) + kAhead, _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(from) + kAhead + 64, _MM_HINT_T0);
    for (int64_t v = 0; v < 2 * kVectors; ++v) {
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + v * 16));
      pairs[v] = _mm256_add_epi32(pairs[v], _mm256_madd_epi16(_mm256_cvtepi8_epi16(bytes), values));
    }
  }
  for (int64_t v = 0; v < kVectors; ++v) exact[v] = AddPairs(pairs[2 * v], pairs[2 * v + 1]);
}

// One block and one row of x.
struct BlockArgs {
  int64_t inputs;  // 256, of the last block fewer
  const uint8_t *codes, *numbers, *bytes;
  Dtype dtype;  // of the numbers
  const IntegerRows* x;
  int64_t row, first;  // first input

  PUREKV_INLINE __m256 Number(int64_t i, int64_t v) const {
    return LoadScales(numbers + (i * kPanel + v * 8) * 2, dtype);
  }
  PUREKV_INLINE __m256i Byte(int64_t i, int64_t v) const { return LoadZeros(bytes + i * kPanel + v * 8); }
  PUREKV_INLINE float Factor(int64_t i) const { return x->scales(row)[(first + i) / IntegerRows::kGroup]; }
};

template <int64_t kGroup>
PUREKV_INLINE void FourBitGroup(const BlockArgs& a, int64_t g, __m256i* exact) {
  for (int64_t v = 0; v < kVectors; ++v) exact[v] = _mm256_setzero_si256();
  for (int64_t i = g * kGroup; i < (g + 1) * kGroup; i += 32) {
    Octets(a.codes + i * kPanel / 2, a.x->high(a.row) + a.first + i, a.x->low(a.row) + a.first + i, exact);
  }
}

template <int64_t kGroup>
struct Block4G {
  static PUREKV_INLINE void Add(const BlockArgs& a, __m256* total) {
    for (int64_t g = 0; g < a.inputs / kGroup; ++g) {
      __m256i exact[kVectors];
      FourBitGroup<kGroup>(a, g, exact);
      const __m256 factor = _mm256_set1_ps(a.Factor(g * kGroup) * 0.0625F);
      const __m256i sum_of_x = _mm256_set1_epi32(a.x->Sum(a.row, a.first + g * kGroup));
      for (int64_t v = 0; v < kVectors; ++v) {
        const __m256i zero = _mm256_mullo_epi32(a.Byte(g, v), sum_of_x);
        const __m256i moved = _mm256_sub_epi32(_mm256_slli_epi32(exact[v], 4), zero);
        total[v] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(moved), _mm256_mul_ps(a.Number(g, v), factor), total[v]);
      }
    }
  }
};

struct Block4M {
  static PUREKV_INLINE void Add(const BlockArgs& a, __m256* total) {
    for (int64_t g = 0; g < a.inputs / 32; ++g) {
      __m256i exact[kVectors];
      FourBitGroup<32>(a, g, exact);
      const __m256 factor = _mm256_set1_ps(a.Factor(g * 32));
      const __m256 sum_of_x = _mm256_set1_ps(static_cast<float>(a.x->Sum(a.row, a.first + g * 32)) * a.Factor(g * 32));
      for (int64_t v = 0; v < kVectors; ++v) {
        total[v] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(exact[v]), _mm256_mul_ps(a.Number(2 * g, v), factor), total[v]);
        total[v] = _mm256_fmadd_ps(sum_of_x, a.Number(2 * g + 1, v), total[v]);
      }
    }
  }
};

struct Block4K {
  // Half a block shares the scale of x: what its four groups add, before the numbers of the block.
  static PUREKV_INLINE void Add(const BlockArgs& a, __m256* total) {
    for (int64_t half = 0; half < 2; ++half) {
      __m256 inner[kVectors];
      __m256i low[kVectors];
      for (int64_t v = 0; v < kVectors; ++v) {
        inner[v] = _mm256_setzero_ps();
        low[v] = _mm256_setzero_si256();
      }
      for (int64_t g = half * 4; g < half * 4 + 4; ++g) {
        __m256i exact[kVectors];
        FourBitGroup<32>(a, g, exact);
        const __m256i sum_of_x = _mm256_set1_epi32(a.x->Sum(a.row, a.first + g * 32));
        for (int64_t v = 0; v < kVectors; ++v) {
          inner[v] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(exact[v]), _mm256_cvtepi32_ps(a.Byte(g, v)), inner[v]);
          low[v] = _mm256_add_epi32(low[v], _mm256_mullo_epi32(a.Byte(8 + g, v), sum_of_x));
        }
      }
      const __m256 factor = _mm256_set1_ps(a.Factor(half * 128));
      for (int64_t v = 0; v < kVectors; ++v) {
        const __m256 moved =
            _mm256_fmsub_ps(inner[v], a.Number(0, v), _mm256_mul_ps(_mm256_cvtepi32_ps(low[v]), a.Number(1, v)));
        total[v] = _mm256_fmadd_ps(moved, factor, total[v]);
      }
    }
  }
};

// 8 bits, a scale per group, or (kScales false) none here.
template <int64_t kGroup, bool kScales>
struct Block8 {
  static PUREKV_INLINE void Add(const BlockArgs& a, __m256* total) {
    for (int64_t g = 0; g * kGroup < a.inputs; ++g) {
      __m256i exact[kVectors];
      const int64_t inputs = kScales ? kGroup : std::min(kGroup, a.inputs - g * kGroup);
      Quads(a.codes + g * kGroup * kPanel, a.x->values(a.row) + a.first + g * kGroup, inputs, exact);
      const __m256 factor = _mm256_set1_ps(a.Factor(g * kGroup));
      for (int64_t v = 0; v < kVectors; ++v) {
        __m256 scale = factor;
        if constexpr (kScales) scale = _mm256_mul_ps(a.Number(g, v), factor);
        total[v] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(exact[v]), scale, total[v]);
      }
    }
  }
};

struct Block8K {
  static PUREKV_INLINE void Add(const BlockArgs& a, __m256* total) {
    for (int64_t half = 0; half < 2; ++half) {
      __m256 inner[kVectors];
      for (__m256& sum : inner) sum = _mm256_setzero_ps();
      for (int64_t g = half * 8; g < half * 8 + 8; ++g) {
        __m256i exact[kVectors];
        Quads(a.codes + g * 16 * kPanel, a.x->values(a.row) + a.first + g * 16, 16, exact);
        for (int64_t v = 0; v < kVectors; ++v) {
          const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(a.bytes + g * kPanel + v * 8));
          const __m256 group = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
          inner[v] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(exact[v]), group, inner[v]);
        }
      }
      const __m256 factor = _mm256_set1_ps(a.Factor(half * 128));
      for (int64_t v = 0; v < kVectors; ++v) {
        total[v] = _mm256_fmadd_ps(_mm256_mul_ps(inner[v], a.Number(0, v)), factor, total[v]);
      }
    }
  }
};

// All blocks; rows share a block while it is in the L1 cache.
template <class Block>
void Panel(const CodePanels& weights, int64_t panel, const IntegerRows& x, float* sums) {
  for (int64_t b = 0; b < weights.blocks(); ++b) {
    const uint8_t* const block = weights.Block(panel, b);
    const int64_t inputs = weights.inputs(b);
    BlockArgs args{inputs,
                   block,
                   block + weights.numbers_at(inputs),
                   block + weights.bytes_at(inputs),
                   weights.layout().scales,
                   &x,
                   0,
                   b * kBlock};
    for (args.row = 0; args.row < x.rows(); ++args.row) {
      float* const to = sums + args.row * kPanel;
      __m256 total[kVectors];
      for (int64_t v = 0; v < kVectors; ++v) total[v] = _mm256_loadu_ps(to + v * 8);
      Block::Add(args, total);
      for (int64_t v = 0; v < kVectors; ++v) _mm256_storeu_ps(to + v * 8, total[v]);
    }
  }
}

// By group size: 32, 64 or 128.
template <template <int64_t> class Block>
void PanelOfGroup(const CodePanels& weights, int64_t panel, const IntegerRows& x, float* sums) {
  switch (weights.layout().group) {
    case 32:
      return Panel<Block<32>>(weights, panel, x, sums);
    case 64:
      return Panel<Block<64>>(weights, panel, x, sums);
    default:
      return Panel<Block<128>>(weights, panel, x, sums);
  }
}
template <int64_t kGroup>
using Block8G = Block8<kGroup, true>;

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
  std::memset(sums, 0, static_cast<size_t>(x.rows() * kPanel) * sizeof(float));
  switch (weights.layout().storage) {
    case QuantStorage::kW4G:
      return PanelOfGroup<Block4G>(weights, panel, x, sums);
    case QuantStorage::kW8G:
      return PanelOfGroup<Block8G>(weights, panel, x, sums);
    case QuantStorage::kW4M:
      return Panel<Block4M>(weights, panel, x, sums);
    case QuantStorage::kW4K:
      return Panel<Block4K>(weights, panel, x, sums);
    case QuantStorage::kW8K:
      return Panel<Block8K>(weights, panel, x, sums);
    case QuantStorage::kW8C:
      break;
  }
  Panel<Block8<IntegerRows::kGroup, false>>(weights, panel, x, sums);
  const float* const scales = weights.row_scales() + panel * kPanel;
  for (int64_t i = 0; i < x.rows() * kPanel; ++i) sums[i] *= scales[i % kPanel];
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
void ExpandRowAvx2(const CodePanels&, int64_t, float*) {
  PUREKV_CHECK(false, "no AVX2");
}
}  // namespace purekv::code_kernels

#endif
