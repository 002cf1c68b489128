// The forms of code_kernels.h for AVX2 (with FMA and F16C) and for AVX-512 with VNNI, for that file alone.
#pragma once

#include <cstdint>

#include "kernels/code_kernels.h"

namespace purekv::code_kernels {

#if defined(__x86_64__)
constexpr bool kHasAvx2 = true;
#else
constexpr bool kHasAvx2 = false;
#endif

// Below this the factor 32512 / m would be infinite; such inputs are zeros to f32 sums.
constexpr float kSmallest = 1e-30F;

struct RoundedRow {
  int16_t* values;
  int8_t *high, *low;
  float* scales;
};

// As IntegerRows: x [in], in a multiple of its group.
void RoundRow(const float* x, int64_t in, const RoundedRow& to);
void RoundRowAvx2(const float* x, int64_t in, const RoundedRow& to);

// Whether the processor has AVX512-VNNI; where it does not, codes are multiplied with AVX2 at every level.
bool HasVnni();

// As PanelProduct.
void ProductAvx2(const CodePanels& weights, int64_t panel, const IntegerRows& x, float* sums);
void ProductVnni(const CodePanels& weights, int64_t panel, const IntegerRows& x, float* sums);

// As ExpandBlockBF16.
void BlockPairsAvx2(const CodePanels& weights, int64_t panel, int64_t block, int8_t* out);
void BlockPairsVnni(const CodePanels& weights, int64_t panel, int64_t block, int8_t* out);

// As ExpandPanel, with 1 / scale of each output, 0 where that is 0.
void PanelBytesAvx2(const CodePanels& weights, int64_t panel, const float* inverse, int8_t* out);
void PanelBytesVnni(const CodePanels& weights, int64_t panel, const float* inverse, int8_t* out);

// One row as ExpandRows in f32, padded to whole blocks.
void ExpandRowAvx2(const CodePanels& weights, int64_t row, float* out);

}  // namespace purekv::code_kernels
