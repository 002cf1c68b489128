// The values are computed in the order of ggml's dequantize_row_* (ggml-quants.c), which is also that of the gguf
// package: the product of the scales first, then the code, then what is added. All products are exact in f32 (11 bits
// of a scale, at most 7 of a second one, at most 6 of a code), so that a compiler that fuses them changes nothing; what
// is added costs the one rounding. Only the signs of zeros depend on the order.
#include "checkpoint/gguf_blocks.h"

#include <cstring>

#include "base/bfloat16.h"
#include "base/error.h"

namespace purekv {
namespace {

struct TypeFacts {
  GgmlType type;
  const char* name;
  int64_t elements;
  int64_t bytes;
};
constexpr TypeFacts kTypes[] = {
    {GgmlType::kF32, "F32", 1, 4},
    {GgmlType::kF16, "F16", 1, 2},
    {GgmlType::kQ4_0, "Q4_0", 32, 18},
    {GgmlType::kQ4_1, "Q4_1", 32, 20},
    {GgmlType::kQ5_0, "Q5_0", 32, 22},
    {GgmlType::kQ5_1, "Q5_1", 32, 24},
    {GgmlType::kQ8_0, "Q8_0", 32, 34},
    {GgmlType::kQ8_1, "Q8_1", 32, 36},
    {GgmlType::kQ2_K, "Q2_K", 256, 84},
    {GgmlType::kQ3_K, "Q3_K", 256, 110},
    {GgmlType::kQ4_K, "Q4_K", 256, 144},
    {GgmlType::kQ5_K, "Q5_K", 256, 176},
    {GgmlType::kQ6_K, "Q6_K", 256, 210},
    {GgmlType::kQ8_K, "Q8_K", 256, 292},
    {GgmlType::kIQ2_XXS, "IQ2_XXS", 256, 66},
    {GgmlType::kIQ2_XS, "IQ2_XS", 256, 74},
    {GgmlType::kIQ3_XXS, "IQ3_XXS", 256, 98},
    {GgmlType::kIQ1_S, "IQ1_S", 256, 50},
    {GgmlType::kIQ4_NL, "IQ4_NL", 32, 18},
    {GgmlType::kIQ3_S, "IQ3_S", 256, 110},
    {GgmlType::kIQ2_S, "IQ2_S", 256, 82},
    {GgmlType::kIQ4_XS, "IQ4_XS", 256, 136},
    {GgmlType::kI8, "I8", 1, 1},
    {GgmlType::kI16, "I16", 1, 2},
    {GgmlType::kI32, "I32", 1, 4},
    {GgmlType::kI64, "I64", 1, 8},
    {GgmlType::kF64, "F64", 1, 8},
    {GgmlType::kIQ1_M, "IQ1_M", 256, 56},
    {GgmlType::kBF16, "BF16", 1, 2},
    {GgmlType::kTQ1_0, "TQ1_0", 256, 54},
    {GgmlType::kTQ2_0, "TQ2_0", 256, 66},
    {GgmlType::kMXFP4, "MXFP4", 32, 17},
};

constexpr const TypeFacts* Find(GgmlType type) {
  for (const TypeFacts& facts : kTypes) {
    if (facts.type == type) return &facts;
  }
  return nullptr;
}

// One function per format: a block of the file (any alignment) to its values.
struct F32Block {
  static constexpr size_t kElements = 1;
  float value;
  void Expand(float* out) const { out[0] = value; }
};
struct F16Block {
  static constexpr size_t kElements = 1;
  F16 value;
  void Expand(float* out) const { out[0] = ToFloat(value); }
};
struct BF16Block {
  static constexpr size_t kElements = 1;
  BF16 value;
  void Expand(float* out) const { out[0] = ToFloat(value); }
};

struct Q8_0Block {
  static constexpr size_t kElements = 32;
  F16 scale;
  int8_t codes[32];
  void Expand(float* out) const {
    const float d = ToFloat(scale);
    for (size_t i = 0; i < 32; ++i) out[i] = static_cast<float>(codes[i]) * d;
  }
};

// Two codes a byte: the low halves are the first 16 values, the high halves the last.
struct Q4_0Block {
  static constexpr size_t kElements = 32;
  F16 scale;
  uint8_t codes[16];
  void Expand(float* out) const {
    const float d = ToFloat(scale);
    for (size_t i = 0; i < 16; ++i) {
      out[i] = static_cast<float>((codes[i] & 15) - 8) * d;
      out[16 + i] = static_cast<float>((codes[i] >> 4) - 8) * d;
    }
  }
};
struct Q4_1Block {
  static constexpr size_t kElements = 32;
  F16 scale, least;
  uint8_t codes[16];
  void Expand(float* out) const {
    const float d = ToFloat(scale);
    const float m = ToFloat(least);
    for (size_t i = 0; i < 16; ++i) {
      out[i] = static_cast<float>(codes[i] & 15) * d + m;
      out[16 + i] = static_cast<float>(codes[i] >> 4) * d + m;
    }
  }
};

// The fifth bit of value i is bit i of `high`, which lies at a multiple of two only.
struct FiveBits {
  uint8_t high[4];
  uint8_t codes[16];
  // codes of the first 16 and of the last 16 values
  void Unpack(int (&first)[16], int (&last)[16]) const {
    uint32_t bits;
    std::memcpy(&bits, high, sizeof(bits));
    for (size_t i = 0; i < 16; ++i) {
      first[i] = (codes[i] & 15) | static_cast<int>(((bits >> i) & 1) << 4);
      last[i] = (codes[i] >> 4) | static_cast<int>(((bits >> (16 + i)) & 1) << 4);
    }
  }
};
struct Q5_0Block {
  static constexpr size_t kElements = 32;
  F16 scale;
  FiveBits five;
  void Expand(float* out) const {
    const float d = ToFloat(scale);
    int first[16], last[16];
    five.Unpack(first, last);
    for (size_t i = 0; i < 16; ++i) {
      out[i] = static_cast<float>(first[i] - 16) * d;
      out[16 + i] = static_cast<float>(last[i] - 16) * d;
    }
  }
};
struct Q5_1Block {
  static constexpr size_t kElements = 32;
  F16 scale, least;
  FiveBits five;
  void Expand(float* out) const {
    const float d = ToFloat(scale);
    const float m = ToFloat(least);
    int first[16], last[16];
    five.Unpack(first, last);
    for (size_t i = 0; i < 16; ++i) {
      out[i] = static_cast<float>(first[i]) * d + m;
      out[16 + i] = static_cast<float>(last[i]) * d + m;
    }
  }
};

// Scale and minimum of eight parts of 32 values, six bits each: those of parts 0 to 3 are the low six bits of bytes 0
// to 3 and 4 to 7; of parts 4 to 7 bytes 8 to 11 have four bits each, and the two bits above are the spare ones of 0
// to 7.
struct KScales {
  F16 scale, least;
  uint8_t packed[12];
  float Scale(size_t part) const {
    const int code = part < 4 ? packed[part] & 63 : (packed[part + 4] & 15) | ((packed[part - 4] >> 6) << 4);
    return ToFloat(scale) * static_cast<float>(code);
  }
  float Least(size_t part) const {
    const int code = part < 4 ? packed[part + 4] & 63 : (packed[part + 4] >> 4) | ((packed[part] >> 6) << 4);
    return ToFloat(least) * static_cast<float>(code);
  }
};
struct Q4_KBlock {
  static constexpr size_t kElements = 256;
  KScales scales;
  uint8_t codes[128];  // 32 bytes: the low halves are one part, the high halves the next
  void Expand(float* out) const {
    for (size_t part = 0; part < 8; ++part) {
      const float d = scales.Scale(part);
      const float m = scales.Least(part);
      const uint8_t* from = codes + 32 * (part / 2);
      const int shift = part % 2 == 0 ? 0 : 4;
      for (size_t i = 0; i < 32; ++i) out[32 * part + i] = d * static_cast<float>((from[i] >> shift) & 15) - m;
    }
  }
};
struct Q5_KBlock {
  static constexpr size_t kElements = 256;
  KScales scales;
  uint8_t high[32];    // bit p of byte i: the fifth bit of value i of part p
  uint8_t codes[128];  // as Q4_K
  void Expand(float* out) const {
    for (size_t part = 0; part < 8; ++part) {
      const float d = scales.Scale(part);
      const float m = scales.Least(part);
      const uint8_t* from = codes + 32 * (part / 2);
      const int shift = part % 2 == 0 ? 0 : 4;
      for (size_t i = 0; i < 32; ++i) {
        const int code = ((from[i] >> shift) & 15) | (((high[i] >> part) & 1) << 4);
        out[32 * part + i] = d * static_cast<float>(code) - m;
      }
    }
  }
};
// Two halves of 128 values; of each half, value 32 t + i has its low four bits in byte 32 (t % 2) + i of `low` (in the
// high half of the byte for t = 2, 3) and its high two in bits 2 t, 2 t + 1 of byte i of `high`. A scale per 16 values.
struct Q6_KBlock {
  static constexpr size_t kElements = 256;
  uint8_t low[128];
  uint8_t high[64];
  int8_t scales[16];
  F16 scale;
  void Expand(float* out) const {
    const float d = ToFloat(scale);
    for (size_t part = 0; part < 16; ++part) {
      const size_t half = part / 8;
      const size_t t = part % 8 / 2;
      const size_t begin = part % 2 * 16;
      const uint8_t* from = low + 64 * half + 32 * (t % 2) + begin;
      const uint8_t* from_high = high + 32 * half + begin;
      const int shift = t < 2 ? 0 : 4;
      const int shift_high = static_cast<int>(2 * t);
      const float ds = d * static_cast<float>(scales[part]);
      for (size_t i = 0; i < 16; ++i) {
        const int code = ((from[i] >> shift) & 15) | (((from_high[i] >> shift_high) & 3) << 4);
        out[16 * part + i] = ds * static_cast<float>(code - 32);
      }
    }
  }
};

template <class Block>
void ExpandAll(const std::byte* from, std::span<float> out) {
  for (size_t i = 0; i < out.size(); i += Block::kElements) {
    Block block;
    std::memcpy(&block, from + i / Block::kElements * sizeof(Block), sizeof(Block));
    block.Expand(out.data() + i);
  }
}

using Expander = void (*)(const std::byte*, std::span<float>);

template <GgmlType type, class Block>
constexpr Expander Of() {
  static_assert(Find(type)->bytes == sizeof(Block) && Find(type)->elements == Block::kElements);
  return &ExpandAll<Block>;
}

// nullptr: not readable.
Expander ExpanderOf(GgmlType type) {
  switch (type) {
    case GgmlType::kF32:
      return Of<GgmlType::kF32, F32Block>();
    case GgmlType::kF16:
      return Of<GgmlType::kF16, F16Block>();
    case GgmlType::kBF16:
      return Of<GgmlType::kBF16, BF16Block>();
    case GgmlType::kQ8_0:
      return Of<GgmlType::kQ8_0, Q8_0Block>();
    case GgmlType::kQ4_0:
      return Of<GgmlType::kQ4_0, Q4_0Block>();
    case GgmlType::kQ4_1:
      return Of<GgmlType::kQ4_1, Q4_1Block>();
    case GgmlType::kQ5_0:
      return Of<GgmlType::kQ5_0, Q5_0Block>();
    case GgmlType::kQ5_1:
      return Of<GgmlType::kQ5_1, Q5_1Block>();
    case GgmlType::kQ4_K:
      return Of<GgmlType::kQ4_K, Q4_KBlock>();
    case GgmlType::kQ5_K:
      return Of<GgmlType::kQ5_K, Q5_KBlock>();
    case GgmlType::kQ6_K:
      return Of<GgmlType::kQ6_K, Q6_KBlock>();
    default:
      return nullptr;
  }
}

}  // namespace

const char kGgmlReadableNames[] = "F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q4_K Q5_K Q6_K";

std::string GgmlTypeName(GgmlType type) {
  const TypeFacts* facts = Find(type);
  return facts != nullptr ? facts->name : "unknown";
}

int64_t GgmlBlockElements(GgmlType type) {
  const TypeFacts* facts = Find(type);
  return facts != nullptr ? facts->elements : 0;
}

int64_t GgmlBlockBytes(GgmlType type) {
  const TypeFacts* facts = Find(type);
  return facts != nullptr ? facts->bytes : 0;
}

bool GgmlReadable(GgmlType type) {
  return ExpanderOf(type) != nullptr;
}

void ExpandGgml(GgmlType type, std::span<const std::byte> blocks, std::span<float> out) {
  const Expander expand = ExpanderOf(type);
  const auto elements = static_cast<size_t>(GgmlBlockElements(type));
  const auto bytes = static_cast<size_t>(GgmlBlockBytes(type));
  PUREKV_CHECK(expand != nullptr && elements > 0 && bytes > 0, GgmlTypeName(type), " is not readable");
  PUREKV_CHECK(
      out.size() % elements == 0 && blocks.size() % bytes == 0 && blocks.size() / bytes == out.size() / elements,
      blocks.size(), " bytes to ", out.size(), " numbers of ", GgmlTypeName(type));
  expand(blocks.data(), out);
}

}  // namespace purekv
