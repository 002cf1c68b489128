// Bytes times bytes on AVX-512 with VNNI and on AMX.
#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "kernels/int8_product_x86.h"

#if defined(__x86_64__)

#include <cpuid.h>

#include "kernels/x86_int8_begin-inl.h"

namespace purekv::int8_product {
namespace {

#include "kernels/amx_tiles-inl.h"

constexpr int64_t kPanel = CodePanels::kPanel;
constexpr int64_t kQuad = kPanel * 4;  // bytes of a quad of inputs of a panel

// VPDPBUSD wants one operand without sign: codes get 128 more, which 128 times the sum of X undoes.
template <int kRows>
void VnniBlock(const int8_t* panel, const ByteRows& x, int64_t row, int32_t* sums) {
  const __m512i sign = _mm512_set1_epi8(static_cast<char>(0x80));
  __m512i left[kRows], right[kRows];  // 16 outputs each
  for (int r = 0; r < kRows; ++r) left[r] = right[r] = _mm512_setzero_si512();
  for (int64_t i = 0; i < x.in(); i += 4) {
    const int8_t* const codes = panel + i * kPanel;
    const __m512i first = _mm512_xor_si512(_mm512_loadu_si512(codes), sign);
    const __m512i second = _mm512_xor_si512(_mm512_loadu_si512(codes + 64), sign);
    for (int r = 0; r < kRows; ++r) {
      int32_t quad;
      std::memcpy(&quad, x.bytes(row + r) + i, 4);
      const __m512i four = _mm512_set1_epi32(quad);
      left[r] = _mm512_dpbusd_epi32(left[r], first, four);
      right[r] = _mm512_dpbusd_epi32(right[r], second, four);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    const __m512i too_much = _mm512_set1_epi32(128 * x.sum(row + r));
    int32_t* const to = sums + (row + r) * kPanel;
    _mm512_storeu_si512(to, _mm512_sub_epi32(left[r], too_much));
    _mm512_storeu_si512(to + 16, _mm512_sub_epi32(right[r], too_much));
  }
}

// sums[32][32] (+)= 32 rows of x times a panel, `inputs` inputs (a multiple of 64).
void TileBlock(const int8_t* x, int64_t stride, const int8_t* codes, int64_t inputs, bool first, int32_t* sums) {
  constexpr int kRow = kPanel * 4;  // bytes of a row of sums
  int32_t* const lower = sums + 16 * kPanel;
  if (first) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, sums, kRow);
    _tile_loadd(1, sums + 16, kRow);
    _tile_loadd(2, lower, kRow);
    _tile_loadd(3, lower + 16, kRow);
  }
  for (int64_t i = 0; i < inputs; i += 64) {
    const int8_t* const quads = codes + i * kPanel;
    _tile_loadd(6, quads, kQuad);
    _tile_loadd(4, x + i, stride);
    _tile_dpbssd(0, 4, 6);
    _tile_loadd(7, quads + 64, kQuad);
    _tile_dpbssd(1, 4, 7);
    _tile_loadd(5, x + 16 * stride + i, stride);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
  }
  _tile_stored(0, sums, kRow);
  _tile_stored(1, sums + 16, kRow);
  _tile_stored(2, lower, kRow);
  _tile_stored(3, lower + 16, kRow);
}

}  // namespace

bool HasAmxInt8() {
  static const bool has = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & (1U << 25)) != 0;
  }();
  return has;
}

void ProductVnni(std::span<const int8_t* const> panels, const ByteRows& x, int32_t* sums) {
  for (const int8_t* const panel : panels) {
    int64_t row = 0;
    for (; row + 8 <= x.rows(); row += 8) VnniBlock<8>(panel, x, row, sums);
    for (; row + 2 <= x.rows(); row += 2) VnniBlock<2>(panel, x, row, sums);
    for (; row < x.rows(); ++row) VnniBlock<1>(panel, x, row, sums);
    sums += x.padded_rows() * kPanel;
  }
}

// Blocks of inputs, as amx_matmul.h has them: 32 rows of a block (16 KB) stay in the L1 cache while the panels pass by.
void ProductAmx(std::span<const int8_t* const> panels, const ByteRows& x, int32_t* sums) {
  constexpr int64_t kBlockIn = 512;
  const int64_t of_panel = x.padded_rows() * kPanel;
  const Tiles tiles;
  for (int64_t block = 0; block < x.in(); block += kBlockIn) {
    const int64_t inputs = std::min(kBlockIn, x.in() - block);
    for (int64_t row = 0; row < x.padded_rows(); row += kPanel) {
      int32_t* to = sums + row * kPanel;
      for (const int8_t* const panel : panels) {
        TileBlock(x.bytes(row) + block, x.stride(), panel + block * kPanel, inputs, block == 0, to);
        to += of_panel;
      }
    }
  }
}

}  // namespace purekv::int8_product

#include "kernels/x86_int8_end-inl.h"

#else

namespace purekv::int8_product {
bool HasAmxInt8() {
  return false;
}
void ProductVnni(std::span<const int8_t* const>, const ByteRows&, int32_t*) {
  PUREKV_CHECK(false, "no VNNI");
}
void ProductAmx(std::span<const int8_t* const>, const ByteRows&, int32_t*) {
  PUREKV_CHECK(false, "no AMX");
}
}  // namespace purekv::int8_product

#endif
