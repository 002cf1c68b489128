// Matrix-vector products: 1 .. kMatrixVectorRows rows of x, weights read once, at memory speed.
#pragma once

#include <cstdint>

#include "base/any_matrix.h"
#include "kernels/packed_weights.h"

namespace purekv {

// Weights in panels of `width` outputs (16, 32, 48 or 64). Inputs are cut into blocks of `block_in`; inside a block one
// panel lies behind the other; inside a panel f32 [inputs][width] or bf16 [pairs of inputs][width][2]. Both AMX panels
// and oneDNN's layouts are of this form (the latter with one block).
struct WeightPanels {
  const void* data = nullptr;
  Dtype dtype = Dtype::kF32;
  int64_t in = 0;  // padded to whole blocks: inputs from the layer's own on are zeros
  int64_t out = 0;
  int64_t width = 0;
  int64_t block_in = 0;

  int64_t panels() const { return (out + width - 1) / width; }
};

// x W^T through the epilogue. bf16 panels need CpuLevel::kAvx512Bf16.
void MultiplyFewRows(AnyMatrixView x, const WeightPanels& weights, const Epilogue& epilogue);

// The same with plain rows [out, in] of weights, f32 or bf16; x of f32 or bf16.
void MultiplyFewRows(AnyMatrixView x, const void* weights, Dtype dtype, int64_t out, const Epilogue& epilogue);

// PanelBF16 with each row's sums as they are for that row alone.
void PanelBF16AsAlone(const uint32_t* x, int64_t stride, int64_t rows, const void* panel, int64_t pairs, int64_t width,
                      bool first, float* sums);

// The same of any number of rows, added, of a panel of 32 outputs that the caches have. A row's sums are those that it
// has alone.
void AddCachedPanelBF16(const uint32_t* x, int64_t stride, int64_t rows, const void* panel, int64_t pairs, float* sums);

// One block of one panel: sums[r * 64 + o] = or += sum over the block's inputs. AVX512-BF16 (few_rows_bf16.cc).
// x: pairs of inputs, row stride in pairs.
void PanelBF16(const uint32_t* x, int64_t stride, int64_t rows, const void* panel, int64_t pairs, int64_t width,
               bool first, float* sums);
// The same for the first panels of `count` that lie panel_bytes apart, 32 outputs each, as many as go side by side
// (their number is returned; 0: take them one by one). Panel i's sums at sums + i * panel_sums.
int64_t PanelsBF16(const uint32_t* x, int64_t stride, int64_t rows, const void* panels, int64_t panel_bytes,
                   int64_t count, int64_t pairs, bool first, float* sums, int64_t panel_sums);

}  // namespace purekv
