// Products with integer codes: x in integers times a panel of codes, and panels back as rows of numbers. Plain loops
// that any processor runs, AVX2, and AVX-512 with VNNI.
#pragma once

#include <cstdint>
#include <span>

#include "base/any_matrix.h"
#include "base/memory.h"
#include "kernels/code_panels.h"

namespace purekv {

// Rows of x as integers: X = round(x * 32512 / m), ties to even, m = max |x| over kGroup inputs of the row, so that
// x = X * m / 32512 within m / 65024. That is 15 bits: an input a thousand times its neighbours leaves them 5 bits, and
// the sum over all is as exact as it was (docs/weights.md). Also as two bytes, X = 256 high + low, low in -128 .. 127.
class IntegerRows {
 public:
  static constexpr int64_t kGroup = 128;
  static constexpr float kLargest = 32512;

  // x [rows, in], f32 or bf16; sum_group: inputs of one of Sum() (16, 32, 64 or 128). perm: order of the inputs wanted,
  // or empty. Uses `scratch` until it is used again. An infinite or NaN input makes the scale of its group NaN.
  IntegerRows(AnyMatrixView x, std::span<const int32_t> perm, int64_t sum_group, Buffer& scratch);

  int64_t rows() const { return rows_; }
  int64_t in() const { return in_; }  // padded to whole blocks of CodePanels with zeros
  const int16_t* values(int64_t row) const { return values_ + row * in_; }
  const int8_t* high(int64_t row) const { return high_ + row * in_; }
  const int8_t* low(int64_t row) const { return low_ + row * in_; }
  const float* scales(int64_t row) const { return scales_ + row * (in_ / kGroup); }  // m / 32512
  // Of the X of the sum_group that begins at input `first`.
  int32_t Sum(int64_t row, int64_t first) const { return sums_[(row * in_ + first) / sum_group_]; }

 private:
  int64_t rows_, in_, sum_group_;
  int16_t* values_;
  int8_t *high_, *low_;
  float* scales_;
  int32_t* sums_;
};

// sums[r * 32 + o] = sum over all inputs of row r of x times output o of the panel. Integers are exact within a group;
// the groups' sums are added in f32 in the order of the inputs, so that a row's bits do not depend on other rows.
void PanelProduct(const CodePanels& weights, int64_t panel, const IntegerRows& x, float* sums);
// Which of its forms runs: "avx512_vnni", "avx2", "portable".
const char* PanelProductName();

// One panel as signed bytes [quads of inputs][32 outputs][4], round(value / scale) with a scale for each of its 32
// outputs, values at most 127 scales; a scale of 0: zeros. `out` holds a multiple of 32 inputs.
void ExpandPanel(const CodePanels& weights, int64_t panel, const float* scales, int8_t* out);

// One block of a panel as a panel of amx_matmul.h, [pairs of inputs][32 outputs][2] bf16: the bits that ExpandRows
// gives. For levels with AVX2 and above.
void ExpandBlockBF16(const CodePanels& weights, int64_t panel, int64_t block, char* out);

// Whether codes are multiplied with VNNI at the level in use.
bool UseVnni();

// Rows [first, first + count) as f32 or bf16, dense [count][in], inputs in stored order: the numbers that the codes
// stand for, rounded to `dtype`; of kW8C the codes themselves, to be multiplied by row_scales() afterwards. On the
// calling thread.
void ExpandRows(const CodePanels& weights, int64_t first, int64_t count, Dtype dtype, void* out);

}  // namespace purekv
