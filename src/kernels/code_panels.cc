#include "kernels/code_panels.h"

#include <cstring>

#include "base/bfloat16.h"
#include "base/error.h"

namespace purekv {
namespace {

uint16_t ScaleBits(float scale, Dtype dtype) {
  return dtype == Dtype::kF16 ? ToF16(scale).bits : ToBF16(scale).bits;
}

}  // namespace

int64_t CodePanels::BytesOf(int64_t rows, int64_t in, const QuantLayout& layout) {
  CodePanels panels;
  panels.Measure(rows, in, layout);
  const int64_t scales = layout.storage == QuantStorage::kW8C ? panels.panels() * kPanel : 0;
  return panels.panels() * panels.panel_bytes_ + kBehind + scales * static_cast<int64_t>(sizeof(float));
}

void CodePanels::Measure(int64_t rows, int64_t in, const QuantLayout& layout) {
  PUREKV_CHECK(rows > 0 && in > 0, rows, " x ", in);
  if (layout.storage != QuantStorage::kW8C) {
    const bool super = layout.storage == QuantStorage::kW4K || layout.storage == QuantStorage::kW8K;
    const int64_t unit = super ? QuantLayout::kSuper : layout.group;
    PUREKV_CHECK(kBlock % unit == 0 && in % unit == 0, in, " inputs in groups of ", unit);
    PUREKV_CHECK(layout.scales != Dtype::kF32, StorageName(layout.storage), " with f32 scales");
  }
  rows_ = rows;
  in_ = in;
  layout_ = layout;
  last_ = (in - (blocks() - 1) * kBlock + 31) / 32 * 32;
  block_bytes_ = BytesOfBlock(kBlock);
  panel_bytes_ = (blocks() - 1) * block_bytes_ + BytesOfBlock(last_);
}

CodePanels::CodePanels(int64_t rows, int64_t in, const QuantLayout& layout) {
  Measure(rows, in, layout);
  if (layout.storage == QuantStorage::kW8C) row_scales_.assign(static_cast<size_t>(panels() * kPanel), 0.0F);
  data_.Resize(static_cast<size_t>(panels() * panel_bytes_ + kBehind));
  std::memset(data_.data(), 0, data_.size());
}

void CodePanels::SetRow(int64_t row, const uint8_t* codes, const float* numbers, const uint8_t* bytes) {
  const int64_t lane = row % kPanel;
  const bool halves = layout_.four_bits();
  if (layout_.storage == QuantStorage::kW8C) row_scales_[static_cast<size_t>(row)] = numbers[0];
  for (int64_t block = 0; block < blocks(); ++block) {
    auto* const to = const_cast<uint8_t*>(Block(row / kPanel, block));
    const int64_t wide = inputs(block), count = std::min(kBlock, in_ - block * kBlock);
    uint8_t padded[kBlock] = {};
    std::memcpy(padded, codes + block * kBlock, static_cast<size_t>(count));
    const int64_t step = halves ? 8 : 4;
    for (int64_t i = 0; i < wide; i += step) {
      uint8_t word[4];
      for (int64_t j = 0; j < 4; ++j) {
        const int code = halves ? padded[i + j] | padded[i + 4 + j] << 4 : padded[i + j];
        word[j] = static_cast<uint8_t>(code);
      }
      std::memcpy(to + (i / step * kPanel + lane) * 4, word, 4);
    }
    // Groups divide what is there: a block has its own numbers and bytes, whole.
    const int64_t block_numbers = Numbers(kBlock), block_bytes = layout_.bytes(kBlock);
    for (int64_t i = 0; i < Numbers(wide); ++i) {
      const uint16_t bits = ScaleBits(numbers[block * block_numbers + i], layout_.scales);
      std::memcpy(to + numbers_at(wide) + (i * kPanel + lane) * 2, &bits, 2);
    }
    for (int64_t i = 0; i < layout_.bytes(wide); ++i) {
      to[bytes_at(wide) + i * kPanel + lane] = bytes[block * block_bytes + i];
    }
  }
}

}  // namespace purekv
