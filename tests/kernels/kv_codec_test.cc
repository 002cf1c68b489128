// Encoded keys and values: the bound of their error, the twin, the layout, on every instruction set.
#include "kernels/kv_codec.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "base/bfloat16.h"
#include "base/cpu.h"
#include "testing.h"

namespace purekv {
namespace {

std::vector<std::byte> Rows(const std::vector<float>& x, KvFormat format) {
  std::vector<std::byte> rows(x.size() * DtypeSize(ElementDtype(format)));
  for (size_t i = 0; i < x.size(); ++i) {
    if (format == KvFormat::kF32) {
      reinterpret_cast<float*>(rows.data())[i] = x[i];
    } else {
      reinterpret_cast<BF16*>(rows.data())[i] = ToBF16(x[i]);
    }
  }
  return rows;
}

std::vector<float> Numbers(const std::vector<std::byte>& rows, KvFormat format) {
  std::vector<float> x(rows.size() / DtypeSize(ElementDtype(format)));
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] = format == KvFormat::kF32 ? reinterpret_cast<const float*>(rows.data())[i]
                                    : ToFloat(reinterpret_cast<const BF16*>(rows.data())[i]);
  }
  return x;
}

// Channels of very different size, some constant, some far from 0 (a key's bias), rows of zeros.
std::vector<float> Hard(int64_t count, int64_t dim, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<size_t>(count * dim));
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t d = 0; d < dim; ++d) {
      float value = normal(random);
      if (d % 7 == 1) value = 200 + 0.01F * value;
      if (d % 7 == 2) value = 3;
      if (d % 7 == 3) value *= 1e-6F;
      if (d % 7 == 4) value *= 5000;
      if (i % 11 == 5) value = 0;
      x[static_cast<size_t>(i * dim + d)] = value;
    }
  }
  return x;
}

std::vector<KvSide> Sides() {
  std::vector<KvSide> sides;
  for (const KvFormat format : {KvFormat::kF32, KvFormat::kBF16}) {
    for (const int64_t dim : {128, 64, 80, 20, 7}) {
      for (const int bits : {8, 4, 2, 0}) {
        for (const KvGroupAxis axis : {KvGroupAxis::kToken, KvGroupAxis::kChannel}) {
          for (const int64_t group : {8, 32}) {
            KvSide side({bits, axis, group}, format, dim);
            sides.push_back(side);
            for (int64_t channel = 0; channel < dim; channel += 1 + channel % 3) {
              side.channels.push_back(static_cast<int16_t>(channel));
            }
            sides.push_back(side);
          }
        }
      }
    }
  }
  return sides;
}

struct Encoded {
  std::vector<std::byte> bytes, decoded;
};

Encoded Through(const KvSide& side, const std::vector<std::byte>& rows, int64_t count, bool reference) {
  Encoded out;
  // A guard behind the last byte that may be written.
  out.bytes.assign(static_cast<size_t>(side.Bytes(count)) + 1, std::byte{0x5a});
  EXPECT_TRUE(reference ? reference::EncodeEntries(side, rows.data(), count, out.bytes.data())
                        : EncodeEntries(side, rows.data(), count, out.bytes.data()));
  EXPECT_EQ(out.bytes.back(), std::byte{0x5a});
  out.bytes.pop_back();
  out.decoded.resize(rows.size());
  if (reference) {
    reference::DecodeEntries(side, out.bytes.data(), 0, count, out.decoded.data());
  } else {
    DecodeEntries(side, out.bytes.data(), 0, count, out.decoded.data());
  }
  return out;
}

TEST(KvCodec, ErrsByHalfAStepAtMost) {
  constexpr int64_t kCount = 64;
  for (const KvSide& side : Sides()) {
    const std::vector<std::byte> rows = Rows(Hard(kCount, side.head_dim, 3), side.format);
    const std::vector<float> x = Numbers(rows, side.format);
    const std::vector<float> back = Numbers(Through(side, rows, kCount, true).decoded, side.format);
    for (int64_t i = 0; i < kCount; ++i) {
      for (int64_t d = 0; d < side.head_dim; ++d) {
        const auto at = static_cast<size_t>(i * side.head_dim + d);
        const auto held = std::find(side.channels.begin(), side.channels.end(), d);
        if (!side.channels.empty() && held == side.channels.end()) {
          EXPECT_EQ(back[at], 0);
          continue;
        }
        if (side.bits == 0) {
          EXPECT_EQ(back[at], x[at]);
          continue;
        }
        // The group's extremes, found anew.
        float least = std::numeric_limits<float>::infinity(), most = -least;
        const int64_t place = side.channels.empty() ? d : held - side.channels.begin();
        for (int64_t k = 0; k < side.group; ++k) {
          int64_t other = i * side.head_dim + d;
          if (side.by_channel()) {
            other = (i / side.group * side.group + k) * side.head_dim + d;
          } else {
            const int64_t member = place / side.group * side.group + k;
            if (member >= side.width()) continue;
            other = i * side.head_dim + (side.channels.empty() ? member : side.channels[static_cast<size_t>(member)]);
          }
          least = std::min(least, x[static_cast<size_t>(other)]);
          most = std::max(most, x[static_cast<size_t>(other)]);
        }
        const float lo = ToFloat(F16{FloorF16(least)});
        const float step = ToFloat(F16{CeilF16((most - lo) / static_cast<float>((1 << side.bits) - 1))});
        const float ulp =
            std::max(std::fabs(x[at]), std::fabs(back[at])) * (side.format == KvFormat::kF32 ? 0x1p-22F : 0x1p-8F);
        EXPECT_LE(std::fabs(back[at] - x[at]), step / 2 * 1.00001F + ulp)
            << side.bits << " bits, entry " << i << ", channel " << d << ", between " << least << " and " << most;
      }
    }
  }
}

TEST(KvCodec, EqualsItsTwinOnEveryLevel) {
  constexpr int64_t kCount = 96;
  testing::ForEachCpuLevel([&](CpuLevel level) {
    for (const KvSide& side : Sides()) {
      const std::vector<std::byte> rows = Rows(Hard(kCount, side.head_dim, 4), side.format);
      const Encoded want = Through(side, rows, kCount, true);
      const Encoded got = Through(side, rows, kCount, false);
      ASSERT_EQ(got.bytes, want.bytes) << CpuLevelName(level) << ", " << side.bits << " bits, " << side.head_dim;
      ASSERT_EQ(got.decoded, want.decoded) << CpuLevelName(level) << ", " << side.bits << " bits, " << side.head_dim;
      // Any stretch of it.
      const auto row = static_cast<size_t>(side.head_dim) * DtypeSize(ElementDtype(side.format));
      for (const auto& [first, count] : {std::pair{5, 1}, std::pair{31, 34}, std::pair{95, 1}}) {
        std::vector<std::byte> some(static_cast<size_t>(count) * row);
        DecodeEntries(side, got.bytes.data(), first, count, some.data());
        EXPECT_TRUE(
            std::equal(some.begin(), some.end(), want.decoded.begin() + first * static_cast<std::ptrdiff_t>(row)));
      }
    }
  });
}

TEST(KvCodec, LowerChannelsAndEntriesLieInLowerBits) {
  // One entry, one group: lo 0, step 1.
  std::vector<float> row(8);
  for (size_t i = 0; i < row.size(); ++i) row[i] = static_cast<float>(2 * i + (i > 0));  // 0, 3, 5, 7, ... 15
  const KvSide of_token({4, KvGroupAxis::kToken, 8}, KvFormat::kF32, 8);
  std::vector<uint8_t> bytes(static_cast<size_t>(of_token.Bytes(1)));
  ASSERT_EQ(bytes.size(), 4U + 4U);
  ASSERT_TRUE(EncodeEntries(of_token, row.data(), 1, bytes.data()));
  EXPECT_EQ(std::vector<uint8_t>(bytes.begin(), bytes.begin() + 4), (std::vector<uint8_t>{0x30, 0x75, 0xb9, 0xfd}));
  EXPECT_EQ(std::vector<uint8_t>(bytes.begin() + 4, bytes.end()), (std::vector<uint8_t>{0, 0, 0x00, 0x3c}));
  // One channel of eight entries.
  const KvSide of_channel({4, KvGroupAxis::kChannel, 8}, KvFormat::kF32, 1);
  ASSERT_EQ(of_channel.Bytes(8), 4 + 4);
  ASSERT_TRUE(EncodeEntries(of_channel, row.data(), 8, bytes.data()));
  EXPECT_EQ(std::vector<uint8_t>(bytes.begin(), bytes.begin() + 4), (std::vector<uint8_t>{0x30, 0x75, 0xb9, 0xfd}));
}

TEST(KvCodec, TakesTheBytesThatTheFormulaSays) {
  for (const int bits : {8, 4, 2}) {
    const KvSide keys({bits, KvGroupAxis::kChannel, 32}, KvFormat::kBF16, 128);
    const KvSide values({bits, KvGroupAxis::kToken, 32}, KvFormat::kBF16, 128);
    EXPECT_EQ(keys.Bytes(1024), 1024 * 128 * bits / 8 + 4 * 128 * 1024 / 32);
    EXPECT_EQ(values.Bytes(1024), 1024 * (128 * bits / 8 + 4 * 128 / 32));
  }
  KvSide thin({4, KvGroupAxis::kToken, 32}, KvFormat::kBF16, 128);
  thin.channels.resize(77);
  EXPECT_EQ(thin.Bytes(10), 10 * (39 + 4 * 3));
}

TEST(KvCodec, RefusesWhatF16DoesNotHold) {
  for (const float bad : {65536.0F, -65536.0F, std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    for (const KvGroupAxis axis : {KvGroupAxis::kToken, KvGroupAxis::kChannel}) {
      const KvSide side({4, axis, 32}, KvFormat::kF32, 64);
      std::vector<float> x(64 * 32, 1.0F);
      std::vector<std::byte> out(static_cast<size_t>(side.Bytes(32)));
      EXPECT_TRUE(EncodeEntries(side, x.data(), 32, out.data()));
      x[64 * 17 + 40] = bad;
      EXPECT_FALSE(EncodeEntries(side, x.data(), 32, out.data())) << bad;
      EXPECT_FALSE(reference::EncodeEntries(side, x.data(), 32, out.data())) << bad;
      x[64 * 17 + 40] = 65504;
      EXPECT_TRUE(EncodeEntries(side, x.data(), 32, out.data()));
    }
  }
}

TEST(KvCodec, RoundsF16Outwards) {
  std::mt19937 random(5);
  std::uniform_real_distribution<float> exponent(-26, 16);
  for (int i = 0; i < 100'000; ++i) {
    const float x = std::min(65504.0F, std::exp2(exponent(random))) * (random() % 2 == 0 ? 1 : -1);
    const float below = ToFloat(F16{FloorF16(x)}), above = ToFloat(F16{CeilF16(x)});
    ASSERT_LE(below, x);
    ASSERT_GE(above, x);
    if (below == above) continue;
    const float middle = (below + above) / 2;
    // Nothing lies between the two.
    const float nearest = ToFloat(ToF16(middle));
    ASSERT_TRUE(nearest == below || nearest == above) << x;
  }
  EXPECT_EQ(FloorF16(0), 0);
  EXPECT_EQ(ToFloat(F16{CeilF16(1e-9F)}), 0x1p-24F);
  EXPECT_EQ(ToFloat(F16{FloorF16(-1e-9F)}), -0x1p-24F);
}

}  // namespace
}  // namespace purekv
