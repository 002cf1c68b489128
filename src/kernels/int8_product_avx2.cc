// Bytes times bytes on AVX2: both widened to 16 bits, VPMADDWD. VPMADDUBSW of |code| and x with the code's sign needs
// as many instructions and its sums leave room for one product only.
#include <cstring>

#include "base/error.h"
#include "kernels/int8_product_x86.h"

#if defined(__x86_64__)

#include <immintrin.h>

// See amx_matmul.cc: the instruction set is for this code only, not for inline functions of the headers above.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif

namespace purekv::int8_product {
namespace {

constexpr int64_t kPanel = CodePanels::kPanel;
constexpr int64_t kVectors = 4;  // of 4 outputs, two lanes each
constexpr int kRows = 3;         // 3 x 4 sums fill the registers

// kCount rows from `row` on times 16 outputs from `first` on.
template <int kCount>
void Block(const int8_t* panel, const ByteRows& x, int64_t row, int64_t first, int32_t* sums) {
  __m256i pairs[kCount][kVectors];
  for (auto& of_row : pairs) {
    for (__m256i& sum : of_row) sum = _mm256_setzero_si256();
  }
  const int8_t* codes = panel + first * 4;
  for (int64_t i = 0; i < x.in(); i += 4, codes += kPanel * 4) {
    __m256i four[kCount];
    for (int r = 0; r < kCount; ++r) {
      int64_t words;
      std::memcpy(&words, x.words(row + r) + i, 8);
      four[r] = _mm256_set1_epi64x(words);
    }
    for (int64_t v = 0; v < kVectors; ++v) {
      const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + v * 16));
      const __m256i wide = _mm256_cvtepi8_epi16(bytes);
      for (int r = 0; r < kCount; ++r) {
        pairs[r][v] = _mm256_add_epi32(pairs[r][v], _mm256_madd_epi16(wide, four[r]));
      }
    }
  }
  for (int r = 0; r < kCount; ++r) {
    for (int64_t v = 0; v < kVectors; v += 2) {
      const __m256i both = _mm256_permute4x64_epi64(_mm256_hadd_epi32(pairs[r][v], pairs[r][v + 1]), 0xD8);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + (row + r) * kPanel + first + v * 4), both);
    }
  }
}

}  // namespace

void ProductAvx2(std::span<const int8_t* const> panels, const ByteRows& x, int32_t* sums) {
  for (const int8_t* const panel : panels) {
    for (int64_t first = 0; first < kPanel; first += kVectors * 4) {
      int64_t row = 0;
      for (; row + kRows <= x.rows(); row += kRows) Block<kRows>(panel, x, row, first, sums);
      for (; row < x.rows(); ++row) Block<1>(panel, x, row, first, sums);
    }
    sums += x.padded_rows() * kPanel;
  }
}

}  // namespace purekv::int8_product

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#else

namespace purekv::int8_product {
void ProductAvx2(std::span<const int8_t* const>, const ByteRows&, int32_t*) {
  PUREKV_CHECK(false, "no AVX2");
}
}  // namespace purekv::int8_product

#endif
