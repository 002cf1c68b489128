// Weights as integer codes in panels of 32 outputs: the order in which all kernels of codes read them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/memory.h"
#include "base/quant_matrix.h"

namespace purekv {

// A panel is its inputs in blocks of 256, one behind the other, and panels follow each other whole: a thread that takes
// some outputs reads memory from one end to the other. (Blocks of all panels side by side, as AMX tiles want bf16, gave
// 9.0 to 11.6 GB/s a core with 4 bits, whole panels 12.6 to 14.5.) A block is
//   4 bits  [32 octets of inputs][32 outputs][4 bytes]; byte j has input 8t + j in its low half, 8t + 4 + j above
//   8 bits  [64 quads of inputs][32 outputs][4] signed bytes
// and behind the codes numbers u16 (f16 or bf16) and bytes, in the order of QuantMatrix::ReadCodes, [..][32 outputs]
// each. Outputs and inputs behind the last are zeros. kW8C has its scales apart.
class CodePanels {
 public:
  static constexpr int64_t kPanel = 32;   // outputs
  static constexpr int64_t kBlock = 256;  // inputs

  CodePanels() = default;
  CodePanels(int64_t rows, int64_t in, const QuantLayout& layout);

  int64_t rows() const { return rows_; }
  int64_t in() const { return in_; }
  const QuantLayout& layout() const { return layout_; }
  int64_t panels() const { return (rows_ + kPanel - 1) / kPanel; }
  int64_t blocks() const { return (in_ + kBlock - 1) / kBlock; }
  int64_t code_bytes() const { return layout_.four_bits() ? kBlock * kPanel / 2 : kBlock * kPanel; }
  // Where in a block numbers [numbers(256)][32] and bytes [bytes(256)][32] lie.
  int64_t numbers_at() const { return code_bytes(); }
  int64_t bytes_at() const { return code_bytes() + block_numbers_ * kPanel * 2; }
  int64_t block_bytes() const { return block_bytes_; }
  size_t bytes() const { return data_.allocated() + row_scales_.capacity() * sizeof(float); }

  const uint8_t* Block(int64_t panel, int64_t block) const {
    return static_cast<const uint8_t*>(data_.data()) + (panel * blocks() + block) * block_bytes_;
  }
  // kW8C: [panels * 32], zeros behind the last row.
  const float* row_scales() const { return row_scales_.data(); }

  // One row, as QuantMatrix::ReadCodes gives it. Rows may be set from several threads.
  void SetRow(int64_t row, const uint8_t* codes, const float* numbers, const uint8_t* bytes);

 private:
  int64_t rows_ = 0;
  int64_t in_ = 0;
  QuantLayout layout_;
  int64_t block_bytes_ = 0, block_numbers_ = 0;
  Buffer data_;
  std::vector<float> row_scales_;
};

}  // namespace purekv
