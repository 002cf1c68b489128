// Number format conversions against exact arithmetic, over every 16-bit value and the ties between them.
#include "base/bfloat16.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

namespace purekv {
namespace {

// The nearest representable value by search: independent of the bit tricks under test.
template <class Half>
Half NearestBySearch(float x, Half (*from_bits)(uint16_t)) {
  uint16_t best = 0;
  double best_error = std::numeric_limits<double>::infinity();
  for (uint32_t bits = 0; bits < 0x8000u; ++bits) {
    const auto candidate = static_cast<double>(ToFloat(from_bits(static_cast<uint16_t>(bits))));
    if (std::isnan(candidate) || std::isinf(candidate)) continue;
    const double error = std::fabs(candidate - std::fabs(static_cast<double>(x)));
    if (error < best_error || (error == best_error && (bits & 1u) == 0)) {
      best_error = error;
      best = static_cast<uint16_t>(bits);
    }
  }
  return from_bits(static_cast<uint16_t>(best | (std::signbit(x) ? 0x8000u : 0u)));
}

TEST(BF16, RoundTripsEveryValue) {
  for (uint32_t bits = 0; bits <= 0xffffu; ++bits) {
    const BF16 value{static_cast<uint16_t>(bits)};
    const float x = ToFloat(value);
    if (std::isnan(x)) {
      EXPECT_TRUE(std::isnan(ToFloat(ToBF16(x)))) << bits;
    } else {
      EXPECT_EQ(ToBF16(x).bits, bits);
    }
  }
}

TEST(F16, RoundTripsEveryValue) {
  for (uint32_t bits = 0; bits <= 0xffffu; ++bits) {
    const F16 value{static_cast<uint16_t>(bits)};
    const float x = ToFloat(value);
    if (std::isnan(x)) {
      EXPECT_TRUE(std::isnan(ToFloat(ToF16(x)))) << bits;
    } else {
      EXPECT_EQ(ToF16(x).bits, bits);
    }
  }
}

TEST(F16, DecodesByDefinition) {
  for (uint32_t bits = 0; bits < 0x7c00u; ++bits) {
    const int exponent = static_cast<int>(bits >> 10);
    const double mantissa = bits & 0x3ffu;
    const double expected = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    EXPECT_EQ(static_cast<double>(ToFloat(F16{static_cast<uint16_t>(bits)})), expected) << bits;
  }
}

TEST(F16, TiesGoToEvenAndNeighboursDoNot) {
  for (uint32_t bits = 0; bits < 0x7bffu; ++bits) {
    const float low = ToFloat(F16{static_cast<uint16_t>(bits)});
    const float high = ToFloat(F16{static_cast<uint16_t>(bits + 1)});
    const float middle = low + (high - low) / 2;  // exact in binary32
    EXPECT_EQ(ToF16(middle).bits, (bits & 1u) != 0 ? bits + 1 : bits) << bits;
    EXPECT_EQ(ToF16(std::nextafter(middle, low)).bits, bits);
    EXPECT_EQ(ToF16(std::nextafter(middle, high)).bits, bits + 1);
  }
  EXPECT_EQ(ToF16(65519.996F).bits, 0x7bff);  // the largest finite value is 65504
  EXPECT_EQ(ToF16(65520.0F).bits, 0x7c00);
  EXPECT_EQ(ToF16(-1e30F).bits, 0xfc00);
}

TEST(BF16, TiesGoToEvenAndNeighboursDoNot) {
  for (uint32_t bits = 0; bits < 0x7f7fu; ++bits) {
    const float low = ToFloat(BF16{static_cast<uint16_t>(bits)});
    const float high = ToFloat(BF16{static_cast<uint16_t>(bits + 1)});
    const float middle = low + (high - low) / 2;
    EXPECT_EQ(ToBF16(middle).bits, (bits & 1u) != 0 ? bits + 1 : bits) << bits;
    EXPECT_EQ(ToBF16(std::nextafter(middle, low)).bits, bits);
    EXPECT_EQ(ToBF16(std::nextafter(middle, high)).bits, bits + 1);
  }
  EXPECT_EQ(ToBF16(std::numeric_limits<float>::infinity()).bits, 0x7f80);
  EXPECT_EQ(ToBF16(std::numeric_limits<float>::max()).bits, 0x7f80);
}

TEST(BF16, AgreesWithASearch) {
  const auto from_bits = [](uint16_t bits) { return BF16{bits}; };
  for (const float x : {0.0F, -0.0F, 1.0F / 3, -2.71828F, 1e-39F, 1e-45F, 3.1e38F, -7.5e-12F}) {
    EXPECT_EQ(ToBF16(x).bits, (NearestBySearch<BF16>(x, +from_bits)).bits) << x;
  }
}

}  // namespace
}  // namespace purekv
