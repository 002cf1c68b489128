// Products of bf16 tiles on AMX, with both matrices in packed order. Only on processors of CpuLevel::kAmxBf16.
#pragma once

#include <cstdint>

#include "base/bfloat16.h"

namespace purekv::amx {

// Inputs are cut into blocks of kBlockIn (the last one shorter, a multiple of 32), and inside a block rows of x and
// outputs into panels of 32. A panel is its block's inputs, 32 at a time ("step", 2 KB):
//   x: two tiles of [16 rows][32 inputs];   weights: [16 pairs of inputs][32 outputs][2].
// So a panel of 256 inputs (16 KB) stays in the L1 cache while panels of the other matrix pass by, and neighbouring
// panels are neighbours in memory. Panels that hold all inputs were slower (1.00 instead of 1.15 TFLOP/s at 4096^3):
// a power of two between panels makes them fight for the same sets of the L2 cache.
constexpr int64_t kPanel = 32;
constexpr int64_t kBlockIn = 256;
constexpr int64_t kStepBytes = 2048;

constexpr int64_t RoundUp(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}
constexpr int64_t Panels(int64_t n) {
  return RoundUp(n, kPanel) / kPanel;
}
// Bytes of `panels` panels of `in` inputs.
constexpr int64_t PackedBytes(int64_t panels, int64_t in) {
  return panels * (RoundUp(in, kPanel) / kPanel) * kStepBytes;
}
// Where a panel's part in the block that begins at input `first_in` lies.
constexpr int64_t PanelOffset(int64_t panel, int64_t panels, int64_t first_in, int64_t in) {
  const int64_t left = RoundUp(in, kPanel) - first_in;
  return PackedBytes(panels, first_in) + panel * PackedBytes(1, left < kBlockIn ? left : kBlockIn);
}

// Packs panel `panel` of x: rows [32 panel, 32 panel + 32), those from `rows` on are zeros. x: row stride in elements.
void PackRowPanel(const BF16* x, int64_t rows, int64_t stride, int64_t in, int64_t panel, int64_t panels, char* packed);
// Packs panel `panel` of the weights from its first row `w` (dense rows of `in`), `rows` of 32 present.
void PackWeightPanel(const BF16* w, int64_t rows, int64_t in, int64_t panel, int64_t panels, char* packed);

// Panels [first, first + count) of the block of inputs that begins at input `first_in`, made when they are needed: one
// behind the other, PackedBytes(1, inputs of the block) each.
using Expand = const char* (*)(const void* context, int64_t first, int64_t count, int64_t first_in);

struct Task {
  const char* x = nullptr;        // packed, row_panels
  const char* weights = nullptr;  // packed, weight_panels; or null:
  Expand expand = nullptr;
  const void* expand_context = nullptr;
  int64_t row_panels = 0;
  int64_t weight_panels = 0;
  int64_t in = 0;
  int64_t first = 0;  // panels of the weights this task takes
  int64_t count = 0;
  float* sums = nullptr;  // scratch and result: [row_panels][count][32][32]
};

// All sums of the task's panels, over all inputs, in an order that depends on `in` only. `done(context, row_panel,
// weight_panel, sums)` is called with each finished block of 32 x 32.
using Done = void (*)(const void* context, int64_t row_panel, int64_t weight_panel, const float* sums);
void Multiply(const Task& task, Done done, const void* context);

}  // namespace purekv::amx
