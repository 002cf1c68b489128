#include "kernels/amx_matmul.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

#if defined(__x86_64__)

#include <immintrin.h>

// From here on for AMX, in this file alone: a flag for the whole file would compile inline functions of shared headers
// for it too, and the linker might pick those for everybody.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("amx-tile,amx-bf16,avx512f"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("amx-tile,amx-bf16,avx512f")
#endif

namespace purekv::amx {
namespace {

#include "kernels/amx_tiles-inl.h"

// sums[32][32] (+)= panel of x times panel of weights, `steps` steps. Brings `lines` lines of memory from `ahead` on
// into the L2 cache with each step, and weights that are due two steps later into L1. At 512 x 3584 -> 9472 on one
// core: 0.98 TFLOP/s without both, 1.11 with the first, 1.22 with both; asking for x ahead too added nothing. All
// operands in L2 give 1.75, in L1 2.2 (the tiles alone).
inline void MultiplyPanels(const char* x, const char* w, int64_t steps, bool first, float* sums, const char* ahead,
                           int64_t lines) {
  constexpr int kRow = 128;  // bytes of a row of sums, and of a pair of inputs of a weight panel
  float* const lower = sums + 16 * 32;
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
  for (int64_t step = 0; step < steps; ++step) {
    _tile_loadd(6, w, kRow);
    _tile_loadd(4, x, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, w + 64, kRow);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, x + 1024, 64);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
    for (int64_t i = 0; i < kStepBytes; i += 64) _mm_prefetch(w + 2 * kStepBytes + i, _MM_HINT_T0);
    for (int64_t i = 0; i < lines; ++i) _mm_prefetch(ahead + i * 64, _MM_HINT_T1);
    ahead += lines * 64;
    x += kStepBytes;
    w += kStepBytes;
  }
  _tile_stored(0, sums, kRow);
  _tile_stored(1, sums + 16, kRow);
  _tile_stored(2, lower, kRow);
  _tile_stored(3, lower + 16, kRow);
}

}  // namespace

void PackRowPanel(const BF16* x, int64_t rows, int64_t stride, int64_t in, int64_t panel, int64_t panels,
                  char* packed) {
  for (int64_t block = 0; block < in; block += kBlockIn) {
    char* const to = packed + PanelOffset(panel, panels, block, in);
    const int64_t end = std::min(in, block + kBlockIn);
    for (int64_t r = 0; r < kPanel; ++r) {
      char* const row_to = to + r * 64;
      const int64_t row = panel * kPanel + r;
      const BF16* const from = x + row * stride;
      int64_t i = block;
      for (; i + kPanel <= end && row < rows; i += kPanel) {
        _mm512_storeu_si512(row_to + (i - block) / kPanel * kStepBytes, _mm512_loadu_si512(from + i));
      }
      for (; i < end; i += kPanel) {
        char* const tail = row_to + (i - block) / kPanel * kStepBytes;
        _mm512_storeu_si512(tail, _mm512_setzero_si512());
        if (row < rows) std::memcpy(tail, from + i, static_cast<size_t>(std::min(kPanel, end - i)) * sizeof(BF16));
      }
    }
  }
}

void PackWeightPanel(const BF16* w, int64_t rows, int64_t in, int64_t panel, int64_t panels, char* packed) {
  for (int64_t block = 0; block < in; block += kBlockIn) {
    char* const to = packed + PanelOffset(panel, panels, block, in);
    const int64_t end = std::min(in, block + kBlockIn);
    for (int64_t i = block; i < RoundUp(end, kPanel); i += 2) {
      BF16* const pair = reinterpret_cast<BF16*>(to + (i - block) / 2 * kPanel * 4);
      if (rows >= kPanel && i + 1 < end) {
        for (int64_t r = 0; r < kPanel; ++r) std::memcpy(pair + 2 * r, w + r * in + i, 2 * sizeof(BF16));
        continue;
      }
      for (int64_t r = 0; r < kPanel; ++r) {
        pair[2 * r] = r < rows && i < end ? w[r * in + i] : BF16{0};
        pair[2 * r + 1] = r < rows && i + 1 < end ? w[r * in + i + 1] : BF16{0};
      }
    }
  }
}

void Multiply(const Task& task, Done done, const void* context) {
  const Tiles tiles;
  const int64_t in = RoundUp(task.in, kPanel);
  // While a block's rows pass, the next block's weights come from memory: each row panel asks for its share.
  const int64_t lines = std::max<int64_t>(1, kPanel / task.row_panels);
  for (int64_t block = 0; block < in; block += kBlockIn) {
    const int64_t steps = std::min(kBlockIn, in - block) / kPanel;
    const bool last = block + kBlockIn >= in;
    const char *end = nullptr, *next = nullptr, *expanded = nullptr;
    if (task.weights == nullptr) {
      expanded = task.expand(task.expand_context, task.first, task.count, block);
    } else {
      end = task.weights + PackedBytes(task.weight_panels, in);
      next = last ? task.weights + PanelOffset(task.first + task.count, task.weight_panels, 0, in)
                  : task.weights + PanelOffset(task.first, task.weight_panels, block + kBlockIn, in);
    }
    for (int64_t row = 0; row < task.row_panels; ++row) {
      const char* const x = task.x + PanelOffset(row, task.row_panels, block, in);
      for (int64_t p = 0; p < task.count; ++p) {
        float* const sums = task.sums + (row * task.count + p) * kPanel * kPanel;
        if (expanded != nullptr) {
          MultiplyPanels(x, expanded + p * steps * kStepBytes, steps, block == 0, sums, expanded, 0);
        } else {
          const char* const w = task.weights + PanelOffset(task.first + p, task.weight_panels, block, in);
          const char* ahead = next + (p * task.row_panels + row) * lines * steps * 64;
          MultiplyPanels(x, w, steps, block == 0, sums, std::min(ahead, end - 64),
                         ahead + lines * steps * 64 <= end ? lines : 0);
        }
        if (last) done(context, row, task.first + p, sums);
      }
    }
  }
}

}  // namespace purekv::amx

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#else  // not x86-64: the level does not exist, nothing calls these

namespace purekv::amx {
void PackRowPanel(const BF16*, int64_t, int64_t, int64_t, int64_t, int64_t, char*) {
  PUREKV_CHECK(false, "no AMX");
}
void PackWeightPanel(const BF16*, int64_t, int64_t, int64_t, int64_t, char*) {
  PUREKV_CHECK(false, "no AMX");
}
void Multiply(const Task&, Done, const void*) {
  PUREKV_CHECK(false, "no AMX");
}
}  // namespace purekv::amx

#endif
