// AWQ's matrices, version "gemm": X.qweight I32 [in, out/8], X.qzeros I32 [in/G, out/8], X.scales [in/G, out]. Eight
// outputs share a word, in an order that suited a kernel (AutoAWQ's packing_utils.py).
#include <array>
#include <cstring>

#include "base/error.h"
#include "checkpoint/quantised_layer.h"

namespace purekv {
namespace {

constexpr int64_t kPerWord = 8;
// Where in its word output o % 8 lies, in units of 4 bits.
constexpr std::array<int, 8> kPlace = {0, 4, 1, 5, 2, 6, 3, 7};

class AwqRows final : public BlockedRows {
 public:
  AwqRows(const LayerParts& parts, const RawTensor& codes, int64_t in, int64_t out, int64_t groups)
      : BlockedRows(out, in, groups, 4, Scales(parts.NeedScales("scales"), parts.Where("scales"))),
        codes_(codes),
        zeros_(parts.Need("qzeros", {"I32"})) {
    further = {scales().tensor().bytes, zeros_.bytes};
  }

  void Scaling(int64_t row, float* to_scales, int32_t* to_zeros) const override {
    const int shift = 4 * kPlace[static_cast<size_t>(row % kPerWord)];
    for (int64_t g = 0; g < groups(); ++g) {
      to_scales[g] = scales().At(g * rows() + row);
      to_zeros[g] = static_cast<int32_t>((WordAt(zeros_, g * (rows() / kPerWord) + row / kPerWord) >> shift) & 15);
    }
  }
  bool Symmetric() const override { return false; }

 private:
  // A square of 8 inputs and 8 outputs at a time.
  void Unpack(int64_t first, int64_t count, uint8_t* codes, int64_t stride) const override {
    const int64_t words = rows() / kPerWord;
    for (int64_t k = 0; k < in(); k += 8) {
      for (int64_t o = 0; o < count; o += kPerWord) {
        std::array<uint32_t, 8> square{};
        for (int64_t j = 0; j < std::min<int64_t>(8, in() - k); ++j) {
          square[static_cast<size_t>(j)] = WordAt(codes_, (k + j) * words + (first + o) / kPerWord);
        }
        for (size_t i = 0; i < 8; ++i) {
          uint64_t row = 0;
          for (size_t j = 0; j < 8; ++j) row |= uint64_t{(square[j] >> (4 * kPlace[i])) & 15} << (8 * j);
          std::memcpy(codes + (o + static_cast<int64_t>(i)) * stride + k, &row, sizeof(row));
        }
      }
    }
  }

  RawTensor codes_, zeros_;
};

}  // namespace

Shape AwqShape(const LayerParts& parts) {
  const RawTensor codes = parts.NeedMatrix("qweight", {"I32"});
  return {codes.shape[1] * kPerWord, codes.shape[0]};
}

std::string AwqFault(const LayerParts& parts, const Shape& expected) {
  return parts.ShapeText("qweight", LayerParts::Sizes("awq", expected[1], expected[0], 4),
                         {expected[1], expected[0] / kPerWord});
}

QuantisedLayer OpenAwq(const LayerParts& parts) {
  const RawTensor codes = parts.NeedMatrix("qweight", {"I32"});
  const int64_t out = codes.shape[1] * kPerWord, in = codes.shape[0];
  const std::string what = LayerParts::Sizes("awq", in, out, 4);
  const int64_t group = parts.GroupOfInputsFirst(what, in, out);
  parts.Need("qzeros", {"I32"});
  parts.CheckShape("qzeros", StrCat(what, " in groups of ", group), {in / group, out / kPerWord});
  return ReadCodes("awq", std::make_unique<const AwqRows>(parts, codes, in, out, in / group));
}

}  // namespace purekv
