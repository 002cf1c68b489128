// Integers of compressed-tensors. "pack-quantized": X.weight_packed I32 [out, ceil(in*b/32)], inputs in order in each
// word, X.weight_shape I64 [2] = out, in, X.weight_scale; asymmetric: X.weight_zero_point, packed along outputs, or as
// bytes in early files; X.weight_g_idx where inputs were ordered. "int-quantized": X.weight I8 [out, in].
#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "checkpoint/quantised_layer.h"

namespace purekv {
namespace {

constexpr int64_t kMostDimension = int64_t{1} << 31;

int64_t WordsFor(int64_t codes, int bits) {
  return (codes * bits + 31) / 32;
}

// The schemes of the configuration that layers of such tensors may have. Of another method's nothing is known.
std::vector<const WeightScheme*> SchemesOf(const LayerParts& parts, bool packed) {
  static const WeightScheme kUnknown;
  if (parts.config().method != QuantMethod::kCompressedTensors) return {&kUnknown};
  std::vector<const WeightScheme*> schemes;
  for (const WeightScheme& scheme : parts.config().schemes) {
    const bool fits = packed || scheme.bits.value_or(8) == 8;
    if (scheme.packed.value_or(packed) == packed && !scheme.floats.value_or(false) && fits) schemes.push_back(&scheme);
  }
  if (schemes.empty()) {
    Fail(parts.Where(parts.main()), ": no group of ", parts.config().where, ".config_groups is ",
         packed ? "pack-quantized" : "int-quantized with 8 bits");
  }
  return schemes;
}

template <class Says>
bool All(const std::vector<const WeightScheme*>& schemes, Says&& says) {
  return std::all_of(schemes.begin(), schemes.end(), [&](const WeightScheme* scheme) { return says(*scheme); });
}

// Zero points, however stored. Half the range without a tensor of them.
class ZeroPoints {
 public:
  // scale_block: outputs that share a scale. groups: a row's.
  ZeroPoints(const LayerParts& parts, const std::string& what, int64_t out, int64_t groups, int64_t outputs_per_scale,
             int bits, bool packed, bool must)
      : groups_(groups), outputs_(outputs_per_scale), bits_(bits) {
    if (!must && !parts.Find("weight_zero_point")) return;
    if (packed) {
      tensor_ = parts.Need("weight_zero_point", {"I32", "I8"});
    } else {
      tensor_ = parts.Need("weight_zero_point", {"I8"});
    }
    bytes_ = tensor_->dtype == "I8";
    if (!bytes_) {
      parts.CheckShape("weight_zero_point", what, {WordsFor(out, bits), groups});
      return;
    }
    const Shape& scales =
        parts.Need(parts.Find("weight_scale_inv") ? "weight_scale_inv" : "weight_scale", {"F16", "BF16", "F32"}).shape;
    if (tensor_->shape != scales) parts.CheckShape("weight_zero_point", what, scales);
  }

  int32_t At(int64_t row, int64_t g) const {
    const int32_t half = 1 << (bits_ - 1);
    if (!tensor_) return half;
    if (bytes_)
      return half + std::to_integer<int8_t>(tensor_->bytes[static_cast<size_t>(row / outputs_ * groups_ + g)]);
    const int64_t per_word = 32 / bits_;
    const uint32_t word = WordAt(*tensor_, row / per_word * groups_ + g);
    return static_cast<int32_t>((word >> (bits_ * (row % per_word))) & ((1U << bits_) - 1));
  }
  template <class Good>
  bool All(int64_t rows, Good&& good) const {
    for (int64_t row = 0; row < rows && tensor_; ++row) {
      for (int64_t g = 0; g < groups_; ++g) {
        if (!good(At(row, g))) return false;
      }
    }
    return true;
  }
  const std::optional<RawTensor>& tensor() const { return tensor_; }

 private:
  std::optional<RawTensor> tensor_;
  bool bytes_ = false;
  int64_t groups_, outputs_;
  int bits_;
};

class RowsInOrder : public CodeRows {
 public:
  RowsInOrder(RawTensor codes, Scales scales, ZeroPoints zeros, int64_t out, int64_t in,
              const std::array<int64_t, 2>& block, int bits)
      : CodeRows(out, in, in / block[1], bits, std::move(scales)),
        codes_(std::move(codes)),
        zeros_(std::move(zeros)),
        outputs_(block[0]) {
    further = {this->scales().tensor().bytes};
    if (zeros_.tensor()) further.push_back(zeros_.tensor()->bytes);
  }

  void Scaling(int64_t row, float* to_scales, int32_t* to_zeros) const final {
    for (int64_t g = 0; g < groups(); ++g) {
      to_scales[g] = scales().At(row / outputs_ * groups() + g);
      to_zeros[g] = zeros_.At(row, g);
    }
  }
  bool Symmetric() const final {
    return zeros_.All(rows(), [this](int32_t zero) { return zero == 1 << (bits() - 1); });
  }
  bool ZerosInRange() const final {
    return zeros_.All(rows(), [this](int32_t zero) { return zero >= 0 && zero < 1 << bits(); });
  }

 protected:
  const RawTensor& codes() const { return codes_; }

 private:
  RawTensor codes_;
  ZeroPoints zeros_;
  int64_t outputs_;  // that share a scale
};

class PackedRows final : public RowsInOrder {
 public:
  using RowsInOrder::RowsInOrder;

  void Codes(int64_t row, uint8_t* to) const override {
    if (order.empty()) return Unpack(row, to);
    static thread_local std::vector<uint8_t> unordered;
    unordered.resize(order.size());
    Unpack(row, unordered.data());
    for (size_t i = 0; i < order.size(); ++i) to[i] = unordered[static_cast<size_t>(order[i])];
  }

 private:
  void Unpack(int64_t row, uint8_t* to) const {
    const int64_t per_word = 32 / bits(), words = WordsFor(in(), bits());
    for (int64_t k = 0; k < in(); k += per_word) {
      const uint32_t word = WordAt(codes(), row * words + k / per_word);
      const uint64_t each = bits() == 4 ? SpreadCodes(word) : word;
      std::memcpy(to + k, &each, static_cast<size_t>(std::min(per_word, in() - k)));
    }
  }
};

class ByteRows final : public RowsInOrder {
 public:
  using RowsInOrder::RowsInOrder;

  void Codes(int64_t row, uint8_t* to) const override {
    std::memcpy(to, codes().bytes.data() + row * in(), static_cast<size_t>(in()));
    for (int64_t k = 0; k < in(); ++k) to[k] ^= 0x80;
  }
};

void CheckWholeGroups(const LayerParts& parts, int64_t in, int64_t group) {
  if (in % group != 0) Fail(parts.Where(parts.main()), " has ", in, " inputs, no multiple of the groups of ", group);
}

// Of the widths that the schemes leave open, the first that the shape has; else the first.
int PackedBits(const std::vector<const WeightScheme*>& schemes, const Shape& codes, int64_t out, int64_t in) {
  const auto fits = [&](int bits) { return codes == Shape{out, WordsFor(in, bits)}; };
  for (const WeightScheme* scheme : schemes) {
    for (const int bits : {4, 8}) {
      if (scheme->bits.value_or(bits) == bits && fits(bits)) return bits;
    }
  }
  return schemes.front()->bits.value_or(4);
}

}  // namespace

Shape PackedShape(const LayerParts& parts) {
  parts.NeedMatrix("weight_packed", {"I32"});
  const RawTensor sizes = parts.Need("weight_shape", {"I64", "I32"});
  parts.CheckShape("weight_shape", "a matrix", {2});
  Shape shape;
  for (int64_t i = 0; i < 2; ++i) {
    int64_t size = 0;
    if (sizes.dtype == "I64") {
      std::memcpy(&size, sizes.bytes.data() + 8 * i, sizeof(size));
    } else {
      size = IntAt(sizes, i);
    }
    if (size < 1 || size > kMostDimension) {
      Fail(parts.Where("weight_shape"), " holds ", size, "; outputs and inputs are 1 to ", kMostDimension);
    }
    shape.push_back(size);
  }
  return shape;
}

std::string PackedFault(const LayerParts& parts, const Shape& expected) {
  return StrCat("tensor ", parts.NameInFile("weight_shape"), " holds ", ShapeName(PackedShape(parts)),
                "; the config asks for ", ShapeName(expected));
}

QuantisedLayer OpenPacked(const LayerParts& parts) {
  const RawTensor codes = parts.NeedMatrix("weight_packed", {"I32"});
  const Shape shape = PackedShape(parts);
  const int64_t out = shape[0], in = shape[1];
  std::vector<const WeightScheme*> schemes = SchemesOf(parts, true);
  const int bits = PackedBits(schemes, codes.shape, out, in);
  const std::string what = LayerParts::Sizes("pack-quantized", in, out, bits);
  parts.CheckShape("weight_packed", what, {out, WordsFor(in, bits)});
  std::erase_if(schemes, [&](const WeightScheme* scheme) { return scheme->bits.value_or(bits) != bits; });
  const std::array<int64_t, 2> block = ScaleBlock(parts, "weight_scale", what, out, in, schemes);
  CheckWholeGroups(parts, in, block[1]);
  const int64_t groups = in / block[1];
  const bool asymmetric = All(schemes, [](const WeightScheme& one) { return !one.symmetric.value_or(true); });
  ZeroPoints zeros(parts, what, out, groups, block[0], bits, true, asymmetric);
  auto rows = std::make_unique<PackedRows>(codes, Scales(parts.NeedScales("weight_scale"), parts.Where("weight_scale")),
                                           std::move(zeros), out, in, block, bits);
  const bool ordered = All(schemes, [](const WeightScheme& one) { return one.ordered; });
  if (ordered || parts.Find("weight_g_idx")) {
    rows->order = GroupOrder(parts, "weight_g_idx", in, groups);
    rows->further.push_back(parts.Find("weight_g_idx")->bytes);
  }
  return ReadCodes(parts.method(), std::move(rows));
}

Shape BytesShape(const LayerParts& parts) {
  return parts.NeedMatrix("weight", {"I8", "F8_E4M3"}).shape;
}

QuantisedLayer OpenInt8(const LayerParts& parts) {
  const RawTensor codes = parts.NeedMatrix("weight", {"I8"});
  const int64_t out = codes.shape[0], in = codes.shape[1];
  const std::vector<const WeightScheme*> schemes = SchemesOf(parts, false);
  const std::string what = LayerParts::Sizes("int-quantized", in, out, 8);
  const std::string part = ScalePart(parts);
  const std::array<int64_t, 2> block = ScaleBlock(parts, part, what, out, in, schemes);
  CheckWholeGroups(parts, in, block[1]);
  const bool asymmetric = All(schemes, [](const WeightScheme& one) { return !one.symmetric.value_or(true); });
  ZeroPoints zeros(parts, what, out, in / block[1], block[0], 8, false, asymmetric);
  return ReadCodes(parts.method(),
                   std::make_unique<const ByteRows>(codes, Scales(parts.NeedScales(part), parts.Where(part)),
                                                    std::move(zeros), out, in, block, 8));
}

}  // namespace purekv
