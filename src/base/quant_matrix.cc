#include "base/quant_matrix.h"

#include <vector>

namespace purekv {

void QuantMatrix::Read(int64_t first, int64_t count, float* out) const {
  static thread_local std::vector<uint8_t> codes, zeros;
  static thread_local std::vector<float> scales;
  codes.resize(static_cast<size_t>(in_));
  zeros.assign(static_cast<size_t>(groups()), 0);
  scales.resize(static_cast<size_t>(groups()));
  const std::span<const int32_t> order = perm();
  const int64_t group = layout_.storage == QuantStorage::kW8C ? in_ : layout_.group;
  for (int64_t row = first; row < first + count; ++row, out += in_) {
    ReadCodes(row, codes.data(), scales.data(), zeros.data());
    for (int64_t i = 0; i < in_; ++i) {
      const auto g = static_cast<size_t>(i / group);
      const float value = QuantValue(layout_.storage, codes[static_cast<size_t>(i)], scales[g], zeros[g]);
      out[order.empty() ? i : order[static_cast<size_t>(i)]] = value;
    }
  }
}

}  // namespace purekv
