// Many rows of x in 8 bits, one scale a row, times 8-bit codes: integer sums, exact, twice as fast as bf16 where a
// processor has instructions for both.
#pragma once

#include <cstdint>
#include <span>

#include "base/any_matrix.h"
#include "base/memory.h"
#include "kernels/code_panels.h"

namespace purekv {

// Rows of x as integers: X = round(x / s), ties to even, s = max |x| / 127 over the row.
class ByteRows {
 public:
  static constexpr int64_t kMostInputs = 65536;  // 255 * 127 of each fit into 31 bits
  static constexpr int64_t kPadding = 32;        // rows are padded to a multiple with rows of zeros

  // x [rows, in], f32 or bf16. perm: order of the inputs wanted, or empty. Uses `scratch` until it is used again. Split
  // over the threads. A row with an infinite or NaN input has a NaN scale.
  ByteRows(AnyMatrixView x, std::span<const int32_t> perm, Buffer& scratch);

  int64_t rows() const { return rows_; }
  int64_t padded_rows() const { return (rows_ + kPadding - 1) / kPadding * kPadding; }
  // A multiple of 64; inputs behind the last are zeros.
  int64_t in() const { return in_; }
  // From one row to the next, in elements.
  int64_t stride() const { return in_ + 64; }  // no power of two: rows would fight for the same sets of a cache
  // X in the form that Int8Product wants: bytes with VNNI and AMX, else 16 bits.
  const int8_t* bytes(int64_t row) const { return static_cast<const int8_t*>(values_) + row * stride(); }
  const int16_t* words(int64_t row) const { return static_cast<const int16_t*>(values_) + row * stride(); }
  float scale(int64_t row) const { return scales_[row]; }
  int32_t sum(int64_t row) const { return sums_[row]; }  // of X

 private:
  int64_t rows_, in_;
  void* values_;
  float* scales_;
  int32_t* sums_;
};

// sums[(p * x.padded_rows() + r) * 32 + o] = sum over all inputs of X of row r times the code of output o of panels[p].
// A panel: [quads of inputs][32 outputs][4] signed bytes, as CodePanels has them, readable for x.in() inputs, at most
// kMostInputs. Calling thread.
void Int8Product(std::span<const int8_t* const> panels, const ByteRows& x, int32_t* sums);
// Which of its forms runs: "amx_int8", "avx512_vnni", "avx2", "portable".
const char* Int8ProductName();

}  // namespace purekv
