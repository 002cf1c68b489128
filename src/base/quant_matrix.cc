#include "base/quant_matrix.h"

#include <vector>

namespace purekv {

namespace {

// out[i] = of(code) over the next `count` codes.
template <class Code, class Of>
void Group(const uint8_t* codes, int64_t count, float* out, const Of& of) {
  for (int64_t i = 0; i < count; ++i) out[i] = of(static_cast<float>(static_cast<Code>(codes[i])));
}

}  // namespace

// A group at a time, so that the loop inside is one that compilers make vectors of.
void QuantValues(const QuantLayout& layout, int64_t in, const uint8_t* codes, const float* numbers,
                 const uint8_t* bytes, float* out) {
  constexpr int64_t kSuper = QuantLayout::kSuper;
  const int64_t group = layout.storage == QuantStorage::kW8C ? in : layout.group;
  for (int64_t first = 0; first < in; first += group) {
    const int64_t g = first / group;
    const uint8_t* const from = codes + first;
    float* const to = out + first;
    switch (layout.storage) {
      case QuantStorage::kW8C:
      case QuantStorage::kW8G:
        Group<int8_t>(from, group, to, [scale = numbers[g]](float code) { return scale * code; });
        break;
      case QuantStorage::kW4G: {  // the bracket is exact
        const float zero = static_cast<float>(bytes[g]) * 0.0625F;
        Group<uint8_t>(from, group, to, [scale = numbers[g], zero](float code) { return scale * (code - zero); });
        break;
      }
      case QuantStorage::kW4M:  // the product is exact, here and below: fused or not is the same
        Group<uint8_t>(from, group, to,
                       [scale = numbers[2 * g], add = numbers[2 * g + 1]](float code) { return scale * code + add; });
        break;
      case QuantStorage::kW4K: {
        const float* const super = numbers + first / kSuper * 2;
        const uint8_t* const of_group = bytes + first / kSuper * 16 + first % kSuper / 32;
        const float scale = super[0] * static_cast<float>(of_group[0]);
        const float low = super[1] * static_cast<float>(of_group[8]);
        Group<uint8_t>(from, group, to, [scale, low](float code) { return scale * code - low; });
        break;
      }
      case QuantStorage::kW8K: {
        const float scale = numbers[first / kSuper] * static_cast<float>(static_cast<int8_t>(bytes[g]));
        Group<int8_t>(from, group, to, [scale](float code) { return scale * code; });
        break;
      }
    }
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
