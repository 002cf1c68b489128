// GPTQ's matrices: X.qweight I32 [in*bits/32, out], X.qzeros I32 [in/G, out*bits/32], X.scales [in/G, out] and, where
// inputs were quantised in another order, X.g_idx I32 [in]. A word holds neighbouring inputs in order; of zero points
// neighbouring outputs. The first version of the format stores zero points minus one, by subtracting it from whole
// words, so that adding it to whole words, carries included, gives back what was there (GPTQModel).
#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "checkpoint/quantised_layer.h"

namespace purekv {
namespace {

int64_t PerWord(int bits) {
  return 32 / bits;
}

class GptqRows final : public BlockedRows {
 public:
  // zeros: nullopt: half the range.
  GptqRows(const LayerParts& parts, const RawTensor& codes, std::optional<RawTensor> zeros, int64_t in, int64_t groups,
           int bits)
      : BlockedRows(codes.shape[1], in, groups, bits, Scales(parts.NeedScales("scales"), parts.Where("scales"))),
        codes_(codes),
        zeros_(std::move(zeros)) {
    if (parts.config().zeros_less_one) add_ = bits == 4 ? 0x11111111U : 0x01010101U;
    further = {scales().tensor().bytes};
    if (zeros_) further.push_back(zeros_->bytes);
    if (!parts.Find("g_idx")) return;
    order = GroupOrder(parts, "g_idx", in, groups);
    further.push_back(parts.Find("g_idx")->bytes);
  }

  void Scaling(int64_t row, float* to_scales, int32_t* to_zeros) const override {
    for (int64_t g = 0; g < groups(); ++g) {
      to_scales[g] = scales().At(g * rows() + row);
      to_zeros[g] = Zero(row, g);
    }
  }
  // Files with zero points whose every one is the middle are as good as those that say so.
  bool Symmetric() const override {
    if (!zeros_) return true;
    for (int64_t row = 0; row < rows(); ++row) {
      for (int64_t g = 0; g < groups(); ++g) {
        if (Zero(row, g) != 1 << (bits() - 1)) return false;
      }
    }
    return true;
  }

 private:
  int32_t Zero(int64_t row, int64_t g) const {
    if (!zeros_) return 1 << (bits() - 1);
    const int64_t per_word = PerWord(bits());
    const uint32_t word = WordAt(*zeros_, g * (rows() / per_word) + row / per_word) + add_;
    return static_cast<int32_t>((word >> (bits() * (row % per_word))) & ((1U << bits()) - 1));
  }

  void Unpack(int64_t first, int64_t count, uint8_t* codes, int64_t stride) const override {
    const int64_t per_word = PerWord(bits());
    for (int64_t k = 0; k < in(); k += per_word) {
      const int64_t from = k / per_word * rows() + first;
      for (int64_t o = 0; o < count; ++o) {
        const uint32_t word = WordAt(codes_, from + o);
        if (bits() == 4) {
          const uint64_t eight = SpreadCodes(word);
          std::memcpy(codes + o * stride + k, &eight, sizeof(eight));
        } else {
          std::memcpy(codes + o * stride + k, &word, sizeof(word));
        }
      }
    }
  }

  RawTensor codes_;
  std::optional<RawTensor> zeros_;
  uint32_t add_ = 0;
};

// As the configuration has it, else as zero points or the list of groups betray it.
int BitsOf(const LayerParts& parts, const RawTensor& codes) {
  if (parts.scheme().bits) return *parts.scheme().bits;
  const int64_t out = codes.shape[1];
  const auto zeros = parts.Find("qzeros");
  const auto groups_of = parts.Find("g_idx");
  for (const int bits : {4, 8}) {
    if (zeros && zeros->shape.size() == 2 && zeros->shape[1] * PerWord(bits) == out) return bits;
    if (groups_of && groups_of->shape == Shape{codes.shape[0] * PerWord(bits)}) return bits;
  }
  Fail(parts.Where("qweight"), ": neither ", parts.config().where,
       ".bits nor X.qzeros nor X.g_idx tells whether it has 4 or 8 bits");
}

}  // namespace

Shape GptqShape(const LayerParts& parts) {
  const RawTensor codes = parts.NeedMatrix("qweight", {"I32"});
  return {codes.shape[1], codes.shape[0] * PerWord(BitsOf(parts, codes))};
}

std::string GptqFault(const LayerParts& parts, const Shape& expected) {
  const int bits = BitsOf(parts, parts.NeedMatrix("qweight", {"I32"}));
  return parts.ShapeText("qweight", LayerParts::Sizes("gptq", expected[1], expected[0], bits),
                         {expected[1] / PerWord(bits), expected[0]});
}

QuantisedLayer OpenGptq(const LayerParts& parts) {
  const RawTensor codes = parts.NeedMatrix("qweight", {"I32"});
  const int bits = BitsOf(parts, codes);
  const int64_t out = codes.shape[1], in = codes.shape[0] * PerWord(bits);
  const std::string what = LayerParts::Sizes("gptq", in, out, bits);
  const int64_t group = parts.GroupOfInputsFirst(what, in, out);
  std::optional<RawTensor> zeros;
  if (!parts.scheme().symmetric.value_or(false)) {
    zeros = parts.Need("qzeros", {"I32"});
    // Outputs that fill no whole word cannot be told from a wrong shape.
    if (out % PerWord(bits) != 0) {
      Fail(parts.Where("qweight"), " has ", out, " outputs; ", PerWord(bits), " share a word of X.qzeros");
    }
    parts.CheckShape("qzeros", StrCat(what, " in groups of ", group), {in / group, out / PerWord(bits)});
  }
  return ReadCodes("gptq", std::make_unique<const GptqRows>(parts, codes, std::move(zeros), in, in / group, bits));
}

}  // namespace purekv
