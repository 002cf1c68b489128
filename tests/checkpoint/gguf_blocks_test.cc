#include "checkpoint/gguf_blocks.h"

#include <gmock/gmock.h>

#include <bit>
#include <cmath>
#include <cstring>

#include "checkpoint/gguf.h"
#include "support/arrays.h"
#include "support/gguf_writer.h"

namespace purekv {
namespace {

constexpr GgmlType kReadable[] = {GgmlType::kF32,  GgmlType::kF16,  GgmlType::kBF16, GgmlType::kQ8_0,
                                  GgmlType::kQ4_0, GgmlType::kQ4_1, GgmlType::kQ5_0, GgmlType::kQ5_1,
                                  GgmlType::kQ4_K, GgmlType::kQ5_K, GgmlType::kQ6_K};

std::vector<float> Expand(GgmlType type, std::string_view blocks) {
  const auto count = blocks.size() / static_cast<size_t>(GgmlBlockBytes(type));
  std::vector<float> values(count * static_cast<size_t>(GgmlBlockElements(type)));
  ExpandGgml(type, std::as_bytes(std::span(blocks)), values);
  return values;
}

std::string FromHex(std::string_view hex) {
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16));
  }
  return bytes;
}

TEST(GgufBlocks, EveryBitIsThatOfTheReference) {
  const auto file = GgufFile::Open(PUREKV_TEST_DATA "/reference/gguf/blocks.gguf");
  const Array<float> expected = ReadFloatArray(PUREKV_TEST_DATA "/reference/gguf/values.npy");
  ASSERT_EQ(file->tensors().size(), std::size(kReadable));
  size_t at = 0;
  for (const GgufTensor& tensor : file->tensors()) {
    const auto bytes = file->Bytes(tensor);
    const std::vector<float> values = Expand(tensor.type, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    ASSERT_LE(at + values.size(), expected.data.size());
    size_t wrong = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      if (std::bit_cast<uint32_t>(values[i]) == std::bit_cast<uint32_t>(expected.data[at + i])) continue;
      if (++wrong <= 3) ADD_FAILURE() << tensor.name << "[" << i << "]: " << values[i] << ", " << expected.data[at + i];
    }
    EXPECT_EQ(wrong, 0u) << tensor.name;
    at += values.size();
  }
  EXPECT_EQ(at, expected.data.size());
}

// The codes are all different, so that a wrong order cannot pass.
TEST(GgufBlocks, EveryCodeLandsInItsPlace) {
  std::string q8 = GgufWriter::Bits(ToF16(0.5f).bits);
  for (int i = 0; i < 32; ++i) q8 += static_cast<char>(i == 0 ? -128 : i * 4);
  const std::vector<float> eight = Expand(GgmlType::kQ8_0, q8);
  EXPECT_EQ(eight[0], -64.0f);
  for (size_t i = 1; i < 32; ++i) EXPECT_EQ(eight[i], 2.0f * static_cast<float>(i));

  std::string q4 = GgufWriter::Bits(ToF16(2.0f).bits);
  for (int i = 0; i < 16; ++i) q4 += static_cast<char>(i | (15 - i) << 4);
  const std::vector<float> four = Expand(GgmlType::kQ4_0, q4);
  for (size_t i = 0; i < 16; ++i) {
    EXPECT_EQ(four[i], 2.0f * (static_cast<float>(i) - 8));
    EXPECT_EQ(four[16 + i], 2.0f * (7 - static_cast<float>(i)));
  }

  std::string q5 = GgufWriter::Bits(ToF16(1.0f).bits) + GgufWriter::Bits(ToF16(100.0f).bits) +
                   GgufWriter::Bits(uint32_t{0xffff0000});  // the last 16 have the fifth bit
  for (int i = 0; i < 16; ++i) q5 += static_cast<char>(i | i << 4);
  const std::vector<float> five = Expand(GgmlType::kQ5_1, q5);
  for (size_t i = 0; i < 32; ++i) EXPECT_EQ(five[i], 100.0f + static_cast<float>(i));
}

TEST(GgufBlocks, PublishedExamples) {
  EXPECT_EQ(Expand(GgmlType::kQ8_0, FromHex("4c22ae300c42e1f257133a771c349546a4ef227f61dd9ed7701b7b481ebe2c9bf7c9"))[1],
            0.590332031f);
  const std::vector<float> four = Expand(GgmlType::kQ4_0, FromHex("6aa85cbaba9ac0416c794359d65fa7638625"));
  EXPECT_EQ(four[0], -0.137939453f);
  EXPECT_EQ(four[16], 0.10345459f);
  const std::string k4 = FromHex("d1114d1cd5d3ce4309b24cb40f3777a2eb") + std::string(127, '\0');
  EXPECT_EQ(Expand(GgmlType::kQ4_K, k4)[0], 0.126212597f);
  EXPECT_EQ(Expand(GgmlType::kQ4_K, k4)[32], -0.0211362839f);
  const std::string k6 = FromHex("b3") + std::string(127, '\0') + FromHex("94") + std::string(63, '\0') +
                         std::string(1, static_cast<char>(-48)) + std::string(15, '\0') + FromHex("6c0c");
  EXPECT_EQ(Expand(GgmlType::kQ6_K, k6)[0], 0.375686646f);
}

// -0 is what (scale * part's scale) * code gives; another order would give 0.
TEST(GgufBlocks, ZerosHaveTheReferencesSigns) {
  std::string block(210, '\0');  // all codes are 0 - 32, all scales 0
  const uint16_t one = ToF16(1.0f).bits;
  std::memcpy(block.data() + 208, &one, 2);
  for (const float value : Expand(GgmlType::kQ6_K, block)) {
    EXPECT_EQ(value, 0.0f);
    EXPECT_TRUE(std::signbit(value));
  }
}

TEST(GgufBlocks, BlocksMayLieAnywhereAndScalesMayBeAnything) {
  for (const GgmlType type : kReadable) {
    SCOPED_TRACE(GgmlTypeName(type));
    const auto bytes = static_cast<size_t>(GgmlBlockBytes(type));
    std::string blocks;
    for (size_t i = 0; i < 3 * bytes; ++i) blocks += static_cast<char>(i * 37 + 11);
    const std::vector<float> values = Expand(type, blocks);
    const std::string shifted = "x" + blocks;
    const std::vector<float> again = Expand(type, std::string_view(shifted).substr(1));
    EXPECT_EQ(std::memcmp(values.data(), again.data(), values.size() * sizeof(float)), 0);
    for (const float value : Expand(type, std::string(bytes, '\xff'))) EXPECT_TRUE(std::isnan(value) || value == value);
    EXPECT_TRUE(Expand(type, "").empty());
  }
}

TEST(GgufBlocks, TypesThatAreNotReadHaveNamesAndSizes) {
  EXPECT_EQ(GgmlTypeName(GgmlType::kIQ2_XS), "IQ2_XS");
  EXPECT_EQ(GgmlBlockElements(GgmlType::kIQ2_XS), 256);
  EXPECT_EQ(GgmlBlockBytes(GgmlType::kIQ2_XS), 74);
  EXPECT_FALSE(GgmlReadable(GgmlType::kIQ2_XS));
  for (const uint32_t number : {4u, 5u, 31u, 99u, 0xffffffffu}) {
    const auto type = static_cast<GgmlType>(number);
    EXPECT_EQ(GgmlTypeName(type), "unknown");
    EXPECT_EQ(GgmlBlockElements(type), 0);
    EXPECT_EQ(GgmlBlockBytes(type), 0);
    EXPECT_FALSE(GgmlReadable(type));
  }
  std::string names;
  for (const GgmlType type : kReadable) {
    EXPECT_TRUE(GgmlReadable(type));
    names += (names.empty() ? "" : " ") + GgmlTypeName(type);
  }
  EXPECT_EQ(names, kGgmlReadableNames);
}

TEST(GgufBlocksDeathTest, WrongSizesAreABug) {
  std::vector<float> out(32);
  const std::vector<std::byte> bytes(33);
  EXPECT_DEATH(ExpandGgml(GgmlType::kQ8_0, bytes, out), "33 bytes to 32 numbers of Q8_0");
  EXPECT_DEATH(ExpandGgml(GgmlType::kIQ2_XS, bytes, out), "IQ2_XS");
}

}  // namespace
}  // namespace purekv
