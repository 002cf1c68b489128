#include "base/quant_matrix.h"

#include <vector>

namespace purekv {

void QuantValues(const QuantLayout& layout, int64_t in, const uint8_t* codes, const float* numbers,
                 const uint8_t* bytes, float* out) {
  const auto signed_code = [codes](int64_t i) { return static_cast<float>(static_cast<int8_t>(codes[i])); };
  const auto code = [codes](int64_t i) { return static_cast<float>(codes[i]); };
  constexpr int64_t kSuper = QuantLayout::kSuper;
  switch (layout.storage) {
    case QuantStorage::kW8C:
      for (int64_t i = 0; i < in; ++i) out[i] = numbers[0] * signed_code(i);
      return;
    case QuantStorage::kW8G:
      for (int64_t i = 0; i < in; ++i) out[i] = numbers[i / layout.group] * signed_code(i);
      return;
    case QuantStorage::kW4G:
      for (int64_t i = 0; i < in; ++i) {  // the bracket is exact
        const float moved = code(i) - static_cast<float>(bytes[i / layout.group]) * 0.0625F;
        out[i] = numbers[i / layout.group] * moved;
      }
      return;
    case QuantStorage::kW4M:
      for (int64_t i = 0; i < in; ++i) {  // the product is exact, here and below: fused or not is the same
        const float* const group = numbers + i / layout.group * 2;
        out[i] = group[0] * code(i) + group[1];
      }
      return;
    case QuantStorage::kW4K:
      for (int64_t i = 0; i < in; ++i) {
        const float* const super = numbers + i / kSuper * 2;
        const uint8_t* const group = bytes + i / kSuper * 16 + i % kSuper / 32;
        out[i] = super[0] * static_cast<float>(group[0]) * code(i) - super[1] * static_cast<float>(group[8]);
      }
      return;
    case QuantStorage::kW8K:
      for (int64_t i = 0; i < in; ++i) {
        const auto group = static_cast<float>(static_cast<int8_t>(bytes[i / 16]));
        out[i] = numbers[i / kSuper] * group * signed_code(i);
      }
      return;
  }
}

void QuantMatrix::Read(int64_t first, int64_t count, float* out) const {
  static thread_local std::vector<uint8_t> codes, bytes;
  static thread_local std::vector<float> numbers, stored;
  codes.resize(static_cast<size_t>(in_));
  bytes.resize(static_cast<size_t>(layout_.bytes(in_)));
  numbers.resize(static_cast<size_t>(layout_.numbers(in_)));
  const std::span<const int32_t> order = perm();
  if (!order.empty()) stored.resize(static_cast<size_t>(in_));
  for (int64_t row = first; row < first + count; ++row, out += in_) {
    ReadCodes(row, codes.data(), numbers.data(), bytes.data());
    QuantValues(layout_, in_, codes.data(), numbers.data(), bytes.data(), order.empty() ? out : stored.data());
    for (size_t i = 0; i < order.size(); ++i) out[order[i]] = stored[i];
  }
}

}  // namespace purekv
