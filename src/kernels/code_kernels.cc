// The portable forms, and the choice between them and those of code_kernels_x86.h.
#include "kernels/code_kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/bfloat16.h"
#include "base/cpu.h"
#include "base/error.h"
#include "kernels/code_kernels_x86.h"
#include "kernels/elementwise.h"

namespace purekv {
namespace {

constexpr int64_t kPanel = CodePanels::kPanel;
constexpr int64_t kBlock = CodePanels::kBlock;

bool UseAvx2() {
  return code_kernels::kHasAvx2 && Cpu() >= CpuLevel::kAvx2;
}

int64_t RoundUp(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// One block's numbers and bytes of one output.
class BlockScales {
 public:
  BlockScales(const CodePanels& weights, int64_t panel, int64_t block, int64_t output)
      : dtype_(weights.layout().scales),
        numbers_(weights.Block(panel, block) + weights.numbers_at(weights.inputs(block)) + output * 2),
        bytes_(weights.Block(panel, block) + weights.bytes_at(weights.inputs(block)) + output) {}
  float Number(int64_t i) const {
    uint16_t bits;
    std::memcpy(&bits, numbers_ + i * kPanel * 2, 2);
    return dtype_ == Dtype::kF16 ? ToFloat(F16{bits}) : ToFloat(BF16{bits});
  }
  uint8_t Byte(int64_t i) const { return bytes_[i * kPanel]; }

 private:
  Dtype dtype_;
  const uint8_t *numbers_, *bytes_;
};

// Code of input i of a block, signed ones as numbers.
int Code(bool four_bits, const uint8_t* block, int64_t i, int64_t output) {
  if (!four_bits) return static_cast<int8_t>(block[(i / 4 * kPanel + output) * 4 + i % 4]);
  const uint8_t byte = block[(i / 8 * kPanel + output) * 4 + i % 4];
  return i % 8 < 4 ? byte & 15 : byte >> 4;
}

// What `exact`, the sum of codes times X over group g of a block, adds to an output; sum_of_x: of the group's X.
float GroupSum(const QuantLayout& layout, const BlockScales& scales, int64_t g, int32_t exact, int32_t sum_of_x,
               float factor) {
  const auto sum = static_cast<float>(exact);
  switch (layout.storage) {
    case QuantStorage::kW8C:
      return sum * factor;
    case QuantStorage::kW8G:
      return sum * (scales.Number(g) * factor);
    case QuantStorage::kW4G:
      return static_cast<float>(16 * exact - scales.Byte(g) * sum_of_x) * (scales.Number(g) * (factor * 0.0625F));
    case QuantStorage::kW4M:
      return sum * (scales.Number(2 * g) * factor) + static_cast<float>(sum_of_x) * (scales.Number(2 * g + 1) * factor);
    case QuantStorage::kW4K:
      return sum * (scales.Number(0) * static_cast<float>(scales.Byte(g)) * factor) -
             static_cast<float>(scales.Byte(8 + g) * sum_of_x) * (scales.Number(1) * factor);
    case QuantStorage::kW8K:
      return sum * (scales.Number(0) * static_cast<float>(static_cast<int8_t>(scales.Byte(g))) * factor);
  }
  __builtin_unreachable();
}

void PortableProduct(const CodePanels& weights, int64_t panel, const IntegerRows& x, float* sums) {
  const QuantLayout& layout = weights.layout();
  const bool channels = layout.storage == QuantStorage::kW8C;
  const int64_t group = channels ? IntegerRows::kGroup : layout.group;
  std::fill_n(sums, x.rows() * kPanel, 0.0F);
  for (int64_t b = 0; b < weights.blocks(); ++b) {
    const uint8_t* const block = weights.Block(panel, b);
    for (int64_t r = 0; r < x.rows(); ++r) {
      const int16_t* const values = x.values(r) + b * kBlock;
      for (int64_t g = 0; g * group < weights.inputs(b); ++g) {
        int32_t exact[kPanel] = {};
        for (int64_t i = g * group; i < std::min((g + 1) * group, weights.inputs(b)); ++i) {
          for (int64_t o = 0; o < kPanel; ++o) exact[o] += Code(layout.four_bits(), block, i, o) * values[i];
        }
        const int64_t first = b * kBlock + g * group;
        const float factor = x.scales(r)[first / IntegerRows::kGroup];
        for (int64_t o = 0; o < kPanel; ++o) {
          sums[r * kPanel + o] +=
              GroupSum(layout, BlockScales(weights, panel, b, o), g, exact[o], x.Sum(r, first), factor);
        }
      }
    }
  }
  for (int64_t i = 0; i < x.rows() * kPanel && channels; ++i) {
    sums[i] *= weights.row_scales()[panel * kPanel + i % kPanel];
  }
}

void PortableRow(const CodePanels& weights, int64_t row, float* out) {
  const QuantLayout& layout = weights.layout();
  uint8_t codes[kBlock], bytes[kBlock];
  float numbers[kBlock];
  for (int64_t b = 0; b < weights.blocks(); ++b, out += kBlock) {
    const uint8_t* const block = weights.Block(row / kPanel, b);
    const BlockScales scales(weights, row / kPanel, b, row % kPanel);
    const int64_t inputs = weights.inputs(b);
    for (int64_t i = 0; i < inputs; ++i)
      codes[i] = static_cast<uint8_t>(Code(layout.four_bits(), block, i, row % kPanel));
    if (layout.storage == QuantStorage::kW8C) {
      for (int64_t i = 0; i < inputs; ++i) out[i] = static_cast<float>(static_cast<int8_t>(codes[i]));
      continue;
    }
    for (int64_t i = 0; i < layout.numbers(inputs); ++i) numbers[i] = scales.Number(i);
    for (int64_t i = 0; i < layout.bytes(inputs); ++i) bytes[i] = scales.Byte(i);
    QuantValues(layout, inputs, codes, numbers, bytes, out);
  }
}

}  // namespace

bool UseVnni() {
  return Cpu() >= CpuLevel::kAvx512 && code_kernels::HasVnni();
}

IntegerRows::IntegerRows(AnyMatrixView x, std::span<const int32_t> perm, int64_t sum_group, Buffer& scratch)
    : rows_(x.rows), in_(RoundUp(x.cols, kBlock)), sum_group_(sum_group) {
  PUREKV_CHECK(perm.empty() || static_cast<int64_t>(perm.size()) == x.cols, perm.size(), " of ", x.cols);
  const auto count = static_cast<size_t>(rows_ * in_);
  const size_t groups = count / static_cast<size_t>(kGroup), sums = count / static_cast<size_t>(sum_group);
  const size_t bytes = count * 4 + groups * sizeof(float) + sums * sizeof(int32_t) + static_cast<size_t>(in_) * 8;
  if (scratch.size() < bytes) scratch.Resize(bytes);
  auto* at = static_cast<char*>(scratch.data());
  const auto take = [&at](size_t size) {
    char* const from = at;
    at += size;
    return from;
  };
  auto* const floats = reinterpret_cast<float*>(take(static_cast<size_t>(in_) * 4));
  auto* const ordered = reinterpret_cast<float*>(take(static_cast<size_t>(in_) * 4));
  scales_ = reinterpret_cast<float*>(take(groups * sizeof(float)));
  sums_ = reinterpret_cast<int32_t*>(take(sums * sizeof(int32_t)));
  values_ = reinterpret_cast<int16_t*>(take(count * 2));
  high_ = reinterpret_cast<int8_t*>(take(count));
  low_ = reinterpret_cast<int8_t*>(take(count));
  for (int64_t r = 0; r < rows_; ++r) {
    ToFloats(x.Rows(r, 1).data, x.dtype, x.cols, floats);
    float* row = floats;
    if (!perm.empty()) {
      for (size_t i = 0; i < perm.size(); ++i) ordered[i] = floats[perm[i]];
      row = ordered;
    }
    std::fill(row + x.cols, row + in_, 0.0F);
    const code_kernels::RoundedRow to{values_ + r * in_, high_ + r * in_, low_ + r * in_, scales_ + r * (in_ / kGroup)};
    if (UseAvx2()) {
      code_kernels::RoundRowAvx2(row, in_, to);
    } else {
      code_kernels::RoundRow(row, in_, to);
    }
    auto* const row_sums = sums_ + r * (in_ / sum_group);
    for (int64_t g = 0; g < in_ / sum_group; ++g) {
      int32_t sum = 0;
      for (int64_t i = g * sum_group; i < (g + 1) * sum_group; ++i) sum += to.values[i];
      row_sums[g] = sum;
    }
  }
}

namespace code_kernels {

void RoundRow(const float* x, int64_t in, const RoundedRow& to) {
  for (int64_t g = 0; g < in; g += IntegerRows::kGroup) {
    float most = 0;
    bool finite = true;
    for (int64_t i = g; i < g + IntegerRows::kGroup; ++i) {
      most = std::max(most, std::abs(x[i]));
      finite &= std::isfinite(x[i]);
    }
    to.scales[g / IntegerRows::kGroup] =
        finite ? most / IntegerRows::kLargest : std::numeric_limits<float>::quiet_NaN();
    const float factor = finite && most >= kSmallest ? IntegerRows::kLargest / most : 0.0F;
    for (int64_t i = g; i < g + IntegerRows::kGroup; ++i) {
      const int value = finite ? static_cast<int>(std::nearbyint(x[i] * factor)) : 0;
      to.values[i] = static_cast<int16_t>(value);
      const int high = (value + 128) >> 8;
      to.high[i] = static_cast<int8_t>(high);
      to.low[i] = static_cast<int8_t>(value - 256 * high);
    }
  }
}

}  // namespace code_kernels

void PanelProduct(const CodePanels& weights, int64_t panel, const IntegerRows& x, float* sums) {
  if (UseVnni()) return code_kernels::ProductVnni(weights, panel, x, sums);
  if (UseAvx2()) return code_kernels::ProductAvx2(weights, panel, x, sums);
  PortableProduct(weights, panel, x, sums);
}

void ExpandPanel(const CodePanels& weights, int64_t panel, const float* scales, int8_t* out) {
  float inverse[kPanel];
  for (int64_t o = 0; o < kPanel; ++o) inverse[o] = scales[o] > 0 ? 1 / scales[o] : 0.0F;
  if (UseVnni()) return code_kernels::PanelBytesVnni(weights, panel, inverse, out);
  if (UseAvx2()) return code_kernels::PanelBytesAvx2(weights, panel, inverse, out);
  std::vector<float> row(static_cast<size_t>(weights.blocks() * kBlock));
  for (int64_t o = 0; o < kPanel; ++o) {
    PortableRow(weights, panel * kPanel + o, row.data());
    for (int64_t i = 0; i < RoundUp(weights.in(), 32); ++i) {
      const float value = std::nearbyint(row[static_cast<size_t>(i)] * inverse[o]);
      out[(i / 4 * kPanel + o) * 4 + i % 4] = static_cast<int8_t>(value);
    }
  }
}

void ExpandBlockBF16(const CodePanels& weights, int64_t panel, int64_t block, char* out) {
  auto* const bytes = reinterpret_cast<int8_t*>(out);
  if (UseVnni()) return code_kernels::BlockPairsVnni(weights, panel, block, bytes);
  code_kernels::BlockPairsAvx2(weights, panel, block, bytes);
}

const char* PanelProductName() {
  return UseVnni() ? "avx512_vnni" : UseAvx2() ? "avx2" : "portable";
}

void ExpandRows(const CodePanels& weights, int64_t first, int64_t count, Dtype dtype, void* out) {
  PUREKV_CHECK(dtype != Dtype::kF16, DtypeName(dtype));
  static thread_local Buffer floats;
  const auto in = static_cast<size_t>(weights.in());
  const size_t padded = static_cast<size_t>(weights.blocks() * kBlock) * sizeof(float);
  if (floats.size() < padded) floats.Resize(padded);
  auto* const row = static_cast<float*>(floats.data());
  for (int64_t i = 0; i < count; ++i) {
    if (UseAvx2()) {
      code_kernels::ExpandRowAvx2(weights, first + i, row);
    } else {
      PortableRow(weights, first + i, row);
    }
    char* const to = static_cast<char*>(out) + static_cast<size_t>(i) * in * DtypeSize(dtype);
    if (dtype == Dtype::kF32) {
      std::memcpy(to, row, in * sizeof(float));
    } else {
      auto* const rounded = reinterpret_cast<BF16*>(to);
      for (size_t k = 0; k < in; ++k) rounded[k] = ToBF16(row[k]);
    }
  }
}

}  // namespace purekv
