// Matrices of floats of 8 bits, X.weight F8_E4M3 [out, in], with scales X.weight_scale per output or one for all
// (compressed-tensors "float-quantized"), or X.weight_scale_inv per block of outputs and inputs ("fp8"). Own storage
// has no such form yet: rows are expanded.
#include <algorithm>
#include <array>
#include <cmath>

#include "base/error.h"
#include "base/threads.h"
#include "checkpoint/quantised_layer.h"

namespace purekv {
namespace {

constexpr float kLargest = 448;

// e4m3: sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinity, and one NaN of each sign.
float E4M3(int code) {
  const int exponent = (code >> 3) & 15, mantissa = code & 7;
  float value = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                              : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  if ((code & 0x7f) == 0x7f) value = NAN;
  return (code & 0x80) != 0 ? -value : value;
}

const std::array<float, 256>& Values() {
  static const std::array<float, 256> kValues = [] {
    std::array<float, 256> values{};
    for (int code = 0; code < 256; ++code) values[static_cast<size_t>(code)] = E4M3(code);
    return values;
  }();
  return kValues;
}

class Fp8Rows final : public RowReader {
 public:
  // block: outputs and inputs that share a scale; the last ones may be cut.
  Fp8Rows(RawTensor codes, std::string where, Scales scales, const std::array<int64_t, 2>& block, std::string format)
      : codes_(std::move(codes)),
        where_(std::move(where)),
        scales_(std::move(scales)),
        block_(block),
        format_(std::move(format)) {}

  void Read(int64_t first, int64_t count, float* out) const override {
    const std::array<float, 256>& values = Values();
    const int64_t in = codes_.shape[1], blocks = (in + block_[1] - 1) / block_[1];
    for (int64_t row = first; row < first + count; ++row, out += in) {
      const std::byte* from = codes_.bytes.data() + row * in;
      for (int64_t g = 0; g < blocks; ++g) {
        const float scale = scales_.At(row / block_[0] * blocks + g);
        for (int64_t k = g * block_[1]; k < std::min(in, (g + 1) * block_[1]); ++k) {
          out[k] = values[std::to_integer<size_t>(from[k])] * scale;
        }
      }
    }
  }
  std::string format() const override { return format_; }

  bool CheckFinite() const override {
    scales_.CheckFinite(kLargest);
    constexpr int64_t kGrain = int64_t{1} << 20;
    ParallelForRanges(static_cast<int64_t>(codes_.bytes.size()), kGrain, [&](int64_t begin, int64_t end) {
      bool bad = false;
      for (int64_t i = begin; i < end; ++i) {
        bad |= (std::to_integer<int>(codes_.bytes[static_cast<size_t>(i)]) & 0x7f) == 0x7f;
      }
      if (bad) Fail(where_, " holds NaN; weights must be finite");
    });
    return true;
  }

 private:
  RawTensor codes_;
  std::string where_;
  Scales scales_;
  std::array<int64_t, 2> block_;
  std::string format_;
};

std::vector<const WeightScheme*> SchemesOf(const LayerParts& parts) {
  std::vector<const WeightScheme*> schemes;
  static const WeightScheme kUnknown;
  if (parts.config().method == QuantMethod::kAwq || parts.config().method == QuantMethod::kGptq) return {&kUnknown};
  for (const WeightScheme& scheme : parts.config().schemes) {
    if (scheme.floats.value_or(true) && !scheme.packed.value_or(false)) schemes.push_back(&scheme);
  }
  if (schemes.empty()) {
    Fail(parts.Where("weight"), ": no group of ", parts.config().where, ".config_groups is float-quantized");
  }
  return schemes;
}

std::string Shared(const std::array<int64_t, 2>& block, int64_t out, int64_t in) {
  if (block[1] < in || (block[0] > 1 && block[0] < out)) return StrCat("blocks of ", block[0], " x ", block[1]);
  return block[0] == 1 ? "a scale per output" : "one scale";
}

}  // namespace

QuantisedLayer OpenFp8(const LayerParts& parts) {
  const RawTensor codes = parts.NeedMatrix("weight", {"F8_E4M3"});
  const int64_t out = codes.shape[0], in = codes.shape[1];
  const std::string part = ScalePart(parts);
  const std::array<int64_t, 2> block =
      ScaleBlock(parts, part, LayerParts::Sizes("fp8", in, out, 8), out, in, SchemesOf(parts));
  const std::string name = parts.method();
  QuantisedLayer layer;
  layer.form = {name, 8, block[1] < in ? block[1] : 0, "fp8"};
  layer.shape = codes.shape;
  Scales scales(parts.NeedScales(part), parts.Where(part));
  layer.further = {scales.tensor().bytes};
  layer.reader =
      std::make_shared<const Fp8Rows>(codes, parts.Where("weight"), std::move(scales), block,
                                      StrCat(name, name == "fp8" ? "" : " fp8", ", ", Shared(block, out, in)));
  return layer;
}

}  // namespace purekv
