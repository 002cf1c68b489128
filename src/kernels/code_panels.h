// Weights as integer codes in panels of 32 outputs: the order in which all kernels of codes read them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/memory.h"
#include "base/quant_matrix.h"

namespace purekv {

// A panel is its inputs in blocks of 256, one behind the other, and panels follow each other whole: a thread that takes
// some outputs reads memory from one end to the other, where blocks of all panels side by side, as AMX tiles want bf16,
// would end before a prefetch 4 KB ahead is of use. A block is
//   4 bits  [32 octets of inputs][32 outputs][4 bytes]; byte j has input 8t + j in its low half, 8t + 4 + j above
//   8 bits  [64 quads of inputs][32 outputs][4] signed bytes
// the last block as many inputs as there are left, in a multiple of 32; and behind the codes numbers u16 (f16 or bf16)
// and bytes, in the order of QuantMatrix::ReadCodes, [..][32 outputs] each. Outputs and inputs behind the last are
// zeros. kW8C has its scales apart. 3 KB may be read behind the last panel.
class CodePanels {
 public:
  static constexpr int64_t kPanel = 32;   // outputs
  static constexpr int64_t kBlock = 256;  // inputs

  CodePanels() = default;
  CodePanels(int64_t rows, int64_t in, const QuantLayout& layout);

  // What they take, without making them.
  static int64_t BytesOf(int64_t rows, int64_t in, const QuantLayout& layout);

  int64_t rows() const { return rows_; }
  int64_t in() const { return in_; }
  const QuantLayout& layout() const { return layout_; }
  int64_t panels() const { return (rows_ + kPanel - 1) / kPanel; }
  int64_t blocks() const { return (in_ + kBlock - 1) / kBlock; }
  // Inputs of a block, with those of zeros behind the last.
  int64_t inputs(int64_t block) const { return block + 1 < blocks() ? kBlock : last_; }
  // Where in a block of so many inputs numbers [numbers(inputs)][32] and bytes [bytes(inputs)][32] lie.
  int64_t numbers_at(int64_t inputs) const { return layout_.four_bits() ? inputs * kPanel / 2 : inputs * kPanel; }
  int64_t bytes_at(int64_t inputs) const { return numbers_at(inputs) + Numbers(inputs) * kPanel * 2; }
  size_t bytes() const { return data_.allocated() + row_scales_.capacity() * sizeof(float); }

  static constexpr int64_t kBehind = 3072;  // what a step of 128 inputs reads too much behind 32

  const uint8_t* Block(int64_t panel, int64_t block) const {
    return static_cast<const uint8_t*>(data_.data()) + panel * panel_bytes_ + block * block_bytes_;
  }
  // kW8C: [panels * 32], zeros behind the last row.
  const float* row_scales() const { return row_scales_.data(); }

  // One row, as QuantMatrix::ReadCodes gives it. Rows may be set from several threads.
  void SetRow(int64_t row, const uint8_t* codes, const float* numbers, const uint8_t* bytes);

 private:
  // Of a block: kW8C has its scales apart.
  int64_t Numbers(int64_t inputs) const { return layout_.storage == QuantStorage::kW8C ? 0 : layout_.numbers(inputs); }
  // All but the data.
  void Measure(int64_t rows, int64_t in, const QuantLayout& layout);
  int64_t BytesOfBlock(int64_t inputs) const { return bytes_at(inputs) + layout_.bytes(inputs) * kPanel; }

  int64_t rows_ = 0;
  int64_t in_ = 0;
  QuantLayout layout_;
  int64_t last_ = 0;  // inputs of the last block
  int64_t block_bytes_ = 0, panel_bytes_ = 0;
  Buffer data_;
  std::vector<float> row_scales_;
};

}  // namespace purekv
