// PanelBF16: products of bf16 pairs (VDPBF16PS) for 1 .. 8 rows.
#include <algorithm>

#include "base/error.h"
#include "kernels/few_rows.h"

#if defined(__x86_64__)

#include <immintrin.h>

// See amx_matmul.cc: the instruction set is for this code only, not for inline functions of the headers above.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512bf16")
#endif

namespace purekv {
namespace {

constexpr int64_t kSumStride = 64;
// Lines ahead of the current one that are asked for. The hardware's own prefetch stops at each page.
constexpr int64_t kAheadBytes = 4096;

// kRows rows times kVectors x 16 outputs of a panel `width` wide. kChains independent sums per result hide the
// instruction's latency (6 cycles) when there are few results.
template <int kRows, int kVectors, int kChains, bool kAhead = true>
void Columns(const uint32_t* x, int64_t stride, const char* w, int64_t pairs, int64_t width, bool first, float* sums) {
  __m512 acc[kChains][kRows][kVectors];
  for (int chain = 0; chain < kChains; ++chain) {
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) acc[chain][r][v] = _mm512_setzero_ps();
    }
  }
  const int64_t step = width * 4;
  int64_t p = 0;
  for (; p + kChains <= pairs; p += kChains) {
    for (int chain = 0; chain < kChains; ++chain) {
      const char* const row = w + (p + chain) * step;
      for (int v = 0; v < kVectors; ++v) {
        if (kAhead) _mm_prefetch(row + kAheadBytes + v * 64, _MM_HINT_T0);
        const auto weights = (__m512bh)_mm512_loadu_si512(row + v * 64);
        for (int r = 0; r < kRows; ++r) {
          const auto pair = (__m512bh)_mm512_set1_epi32(static_cast<int>(x[r * stride + p + chain]));
          acc[chain][r][v] = _mm512_dpbf16_ps(acc[chain][r][v], pair, weights);
        }
      }
    }
  }
  for (; p < pairs; ++p) {
    for (int v = 0; v < kVectors; ++v) {
      const auto weights = (__m512bh)_mm512_loadu_si512(w + p * step + v * 64);
      for (int r = 0; r < kRows; ++r) {
        const auto pair = (__m512bh)_mm512_set1_epi32(static_cast<int>(x[r * stride + p]));
        acc[0][r][v] = _mm512_dpbf16_ps(acc[0][r][v], pair, weights);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      __m512 sum = acc[0][r][v];
      for (int chain = 1; chain < kChains; ++chain) sum = _mm512_add_ps(sum, acc[chain][r][v]);
      float* const to = sums + r * kSumStride + v * 16;
      _mm512_storeu_ps(to, first ? sum : _mm512_add_ps(sum, _mm512_loadu_ps(to)));
    }
  }
}

template <int kRows, int kVectors>
void AllColumns(const uint32_t* x, int64_t stride, const char* w, int64_t pairs, int64_t width, bool first,
                float* sums) {
  constexpr int kResults = kRows * kVectors;
  constexpr int kChains = kResults <= 4 ? 4 : kResults <= 8 ? 2 : 1;
  int64_t out = 0;
  for (; out + 16 * kVectors <= width; out += 16 * kVectors) {
    Columns<kRows, kVectors, kChains>(x, stride, w + out * 4, pairs, width, first, sums + out);
  }
  for (; out < width; out += 16) Columns<kRows, 1, 1>(x, stride, w + out * 4, pairs, width, first, sums + out);
}

// kRows rows of a panel that the caches have, each with the sums of AllColumns<1, 4> (width 64) or AllColumns<1, 2>:
// four chains, whoever is beside it. A vector of outputs at a time, so that their sums fit the registers.
template <int kRows>
void CachedColumns(const uint32_t* x, int64_t stride, const char* w, int64_t pairs, int64_t width, bool first,
                   float* sums) {
  const int64_t whole = width == 64 ? 64 : width / 32 * 32;
  int64_t out = 0;
  for (; out < whole; out += 16) {
    Columns<kRows, 1, 4, false>(x, stride, w + out * 4, pairs, width, first, sums + out);
  }
  for (; out < width; out += 16) {
    Columns<kRows, 1, 1, false>(x, stride, w + out * 4, pairs, width, first, sums + out);
  }
}

// kPanels panels of 32 outputs side by side: the hardware follows one stream per page that is being read, and one alone
// does not keep memory busy (1 row: 0.80 of a plain read with one, 0.90 with four). For 3 and 4 rows, tiles (AMX) over
// two panels were no faster, and four panels in two passes over their halves slower (0.63 instead of 0.76).
template <int kRows, int kPanels>
int64_t SideBySide(const uint32_t* x, int64_t stride, const char* w, int64_t panel_bytes, int64_t pairs, bool first,
                   float* sums, int64_t panel_sums) {
  constexpr int64_t kStep = 128;
  __m512 acc[kPanels][kRows][2];
  for (auto& panel : acc) {
    for (auto& row : panel) row[0] = row[1] = _mm512_setzero_ps();
  }
  for (int64_t p = 0; p < pairs; ++p) {
    __m512bh pair[kRows];
    for (int r = 0; r < kRows; ++r) pair[r] = (__m512bh)_mm512_set1_epi32(static_cast<int>(x[r * stride + p]));
    for (int panel = 0; panel < kPanels; ++panel) {
      const char* const row = w + panel * panel_bytes + p * kStep;
      for (int v = 0; v < 2; ++v) {
        _mm_prefetch(row + kAheadBytes + v * 64, _MM_HINT_T0);
        const auto weights = (__m512bh)_mm512_loadu_si512(row + v * 64);
        for (int r = 0; r < kRows; ++r) acc[panel][r][v] = _mm512_dpbf16_ps(acc[panel][r][v], pair[r], weights);
      }
    }
  }
  for (int panel = 0; panel < kPanels; ++panel) {
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < 2; ++v) {
        float* const to = sums + panel * panel_sums + r * kSumStride + v * 16;
        _mm512_storeu_ps(to, first ? acc[panel][r][v] : _mm512_add_ps(acc[panel][r][v], _mm512_loadu_ps(to)));
      }
    }
  }
  return kPanels;
}

}  // namespace

int64_t PanelsBF16(const uint32_t* x, int64_t stride, int64_t rows, const void* panels, int64_t panel_bytes,
                   int64_t count, int64_t pairs, bool first, float* sums, int64_t panel_sums) {
  const auto* w = static_cast<const char*>(panels);
  const auto run = [&](auto kernel) { return kernel(x, stride, w, panel_bytes, pairs, first, sums, panel_sums); };
  if (rows == 1 && count >= 4) return run(SideBySide<1, 4>);
  if (rows == 2 && count >= 4) return run(SideBySide<2, 4>);
  if (rows == 3 && count >= 2) return run(SideBySide<3, 2>);
  if (rows == 4 && count >= 2) return run(SideBySide<4, 2>);
  return 0;
}

void AddCachedPanelBF16(const uint32_t* x, int64_t stride, int64_t rows, const void* panel, int64_t pairs,
                        float* sums) {
  const auto* w = static_cast<const char*>(panel);
  const auto add = [&]<int kRows>() {
    for (; rows >= kRows; rows -= kRows, x += kRows * stride, sums += kRows * kSumStride) {
      Columns<kRows, 2, 1, false>(x, stride, w, pairs, 32, false, sums);
    }
  };
  add.template operator()<8>();  // 16 sums, two vectors of weights, one of x: of 32 registers
  add.template operator()<4>();
  add.template operator()<2>();
  add.template operator()<1>();
}

void PanelBF16AsAlone(const uint32_t* x, int64_t stride, int64_t rows, const void* panel, int64_t pairs, int64_t width,
                      bool first, float* sums) {
  // The first row brings the panel from memory, in the order that memory likes; the others find it in the caches. One
  // row after the other, eight took 57 ms for what one takes 17 (four layers of Qwen2.5-VL-3B's shape and its head).
  PanelBF16(x, stride, 1, panel, pairs, width, first, sums);
  const auto* w = static_cast<const char*>(panel);
  for (int64_t r = 1; r < rows;) {
    const int64_t count = std::min<int64_t>(4, rows - r);
    const auto run = [&](auto kernel) {
      kernel(x + r * stride, stride, w, pairs, width, first, sums + r * kSumStride);
    };
    if (count == 4) run(CachedColumns<4>);
    if (count == 3) run(CachedColumns<3>);
    if (count == 2) run(CachedColumns<2>);
    if (count == 1) run(CachedColumns<1>);
    r += count;
  }
}

void PanelBF16(const uint32_t* x, int64_t stride, int64_t rows, const void* panel, int64_t pairs, int64_t width,
               bool first, float* sums) {
  const auto* w = static_cast<const char*>(panel);
  const bool wide = width == 64;
  switch (rows) {
    case 1:
      return wide ? AllColumns<1, 4>(x, stride, w, pairs, width, first, sums)
                  : AllColumns<1, 2>(x, stride, w, pairs, width, first, sums);
    case 2:
      return wide ? AllColumns<2, 4>(x, stride, w, pairs, width, first, sums)
                  : AllColumns<2, 2>(x, stride, w, pairs, width, first, sums);
    case 3:
      return wide ? AllColumns<3, 4>(x, stride, w, pairs, width, first, sums)
                  : AllColumns<3, 2>(x, stride, w, pairs, width, first, sums);
    case 4:
      return wide ? AllColumns<4, 4>(x, stride, w, pairs, width, first, sums)
                  : AllColumns<4, 2>(x, stride, w, pairs, width, first, sums);
    case 5:
      return AllColumns<5, 2>(x, stride, w, pairs, width, first, sums);
    case 6:
      return AllColumns<6, 2>(x, stride, w, pairs, width, first, sums);
    case 7:
      return AllColumns<7, 2>(x, stride, w, pairs, width, first, sums);
    case 8:
      return AllColumns<8, 2>(x, stride, w, pairs, width, first, sums);
    default:
      PUREKV_CHECK(false, rows, " rows");
  }
}

}  // namespace purekv

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#else

namespace purekv {
void PanelBF16(const uint32_t*, int64_t, int64_t, const void*, int64_t, int64_t, bool, float*) {
  PUREKV_CHECK(false, "no AVX512-BF16");
}
void PanelBF16AsAlone(const uint32_t*, int64_t, int64_t, const void*, int64_t, int64_t, bool, float*) {
  PUREKV_CHECK(false, "no AVX512-BF16");
}
void AddCachedPanelBF16(const uint32_t*, int64_t, int64_t, const void*, int64_t, float*) {
  PUREKV_CHECK(false, "no AVX512-BF16");
}
}  // namespace purekv

#endif
