// The forms of code_kernels.h for AVX2 (with FMA and F16C), for that file alone.
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

// As PanelProduct.
void ProductAvx2(const CodePanels& weights, int64_t panel, const IntegerRows& x, float* sums);

// One row as ExpandRows in f32, padded to whole blocks.
void ExpandRowAvx2(const CodePanels& weights, int64_t row, float* out);

}  // namespace purekv::code_kernels
