// Matrices of random codes in every form, for the tests of their kernels.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "base/bfloat16.h"
#include "base/quant_matrix.h"
#include "kernels/dense.h"

namespace purekv::testing {

// Random codes.
class RandomCodes final : public QuantMatrix {
 public:
  RandomCodes(std::mt19937& random, int64_t rows, int64_t in, const QuantLayout& layout, bool shuffled = false)
      : QuantMatrix(rows, in, layout),
        codes_(static_cast<size_t>(rows * in)),
        numbers_(static_cast<size_t>(rows * layout.numbers(in))),
        bytes_(static_cast<size_t>(rows * layout.bytes(in))) {
    for (uint8_t& code : codes_) {
      code = static_cast<uint8_t>(layout.four_bits() ? random() % 16 : random() % 255 - 127);
    }
    std::uniform_real_distribution<float> uniform(0.002F, 0.01F);
    for (float& number : numbers_) {
      number = uniform(random) * (random() % 8 == 0 ? -1.0F : 1.0F);
      if (layout.scales == Dtype::kF16) number = ToFloat(ToF16(number));
      if (layout.scales == Dtype::kBF16) number = ToFloat(ToBF16(number));
    }
    const bool six_bits = layout.storage == QuantStorage::kW4K;
    for (uint8_t& byte : bytes_) byte = static_cast<uint8_t>(six_bits ? random() % 64 : random());
    if (!shuffled) return;
    order_.resize(static_cast<size_t>(in));
    std::iota(order_.begin(), order_.end(), 0);
    std::ranges::shuffle(order_, random);
  }

  void ReadCodes(int64_t row, uint8_t* codes, float* numbers, uint8_t* bytes) const override {
    std::copy_n(codes_.begin() + row * in(), in(), codes);
    std::copy_n(numbers_.begin() + row * layout().numbers(in()), layout().numbers(in()), numbers);
    std::copy_n(bytes_.begin() + row * layout().bytes(in()), layout().bytes(in()), bytes);
  }
  std::span<const int32_t> perm() const override { return order_; }
  std::string format() const override { return "random"; }
  WeightRows Rows() const { return {nullptr, Dtype::kF32, rows(), this}; }

 private:
  std::vector<uint8_t> codes_;
  std::vector<float> numbers_;
  std::vector<uint8_t> bytes_;
  std::vector<int32_t> order_;
};

inline const std::vector<QuantLayout>& Layouts() {
  static const std::vector<QuantLayout> all = {
      {QuantStorage::kW8C, 0, Dtype::kF32},    {QuantStorage::kW4G, 32, Dtype::kF16},
      {QuantStorage::kW4G, 64, Dtype::kBF16},  {QuantStorage::kW4G, 128, Dtype::kF16},
      {QuantStorage::kW8G, 32, Dtype::kF16},   {QuantStorage::kW8G, 64, Dtype::kF16},
      {QuantStorage::kW8G, 128, Dtype::kBF16}, {QuantStorage::kW4M, 32, Dtype::kF16},
      {QuantStorage::kW4K, 32, Dtype::kF16},   {QuantStorage::kW8K, 16, Dtype::kF16},
  };
  return all;
}

// The layout for so many inputs; false: they do not divide into its groups.
inline bool For(int64_t in, QuantLayout* layout) {
  if (layout->storage == QuantStorage::kW8C) layout->group = in;
  const bool super = layout->storage == QuantStorage::kW4K || layout->storage == QuantStorage::kW8K;
  return in % (super ? QuantLayout::kSuper : layout->group) == 0;
}

inline std::string Describe(const QuantLayout& layout) {
  return std::string(StorageName(layout.storage)) + " in groups of " + std::to_string(layout.group);
}

}  // namespace purekv::testing
