// Entries in a basis: the slow twins, what a space keeps, rotation taken out and put back, on every instruction set.
#include "kernels/kv_basis.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "base/bfloat16.h"
#include "kernels/kv_codec.h"
#include "support/random_basis.h"
#include "testing.h"

namespace purekv {
namespace {

using testing::ForEachCpuLevel;

std::vector<float> Normal(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<size_t>(count));
  for (float& one : x) one = normal(random);
  return x;
}

// Pairs of three axes, the last pair not rotated.
RopeSpec Rope(int64_t dim, bool one_axis) {
  RopeSpec rope;
  for (int64_t f = 0; f + 1 < dim / 2; ++f) {
    rope.inv_freq.push_back(std::pow(100.0F, -static_cast<float>(f) / static_cast<float>(dim)));
    rope.axis.push_back(one_axis ? uint8_t{0} : static_cast<uint8_t>(f % 3));
  }
  return rope;
}

std::vector<Position> Places(int64_t count) {
  std::vector<Position> places;
  for (int32_t i = 0; i < count; ++i) places.push_back({i, 7 * i % 11, 3 * i % 5 + 900});
  return places;
}

void Turn(const RopeSpec& rope, const Position& at, double sign, int64_t dim, double* key) {
  const int32_t place[] = {at.t, at.h, at.w};
  for (size_t f = 0; f < rope.inv_freq.size(); ++f) {
    const auto angle = double(float(place[rope.axis[f]]) * rope.inv_freq[f]);
    double& a = key[f];
    double& b = key[f + static_cast<size_t>(dim / 2)];
    const double turned = a * std::cos(angle) - sign * b * std::sin(angle);
    b = b * std::cos(angle) + sign * a * std::sin(angle);
    a = turned;
  }
}

TEST(KvBasis, ProductsAreThoseOfTheSlowTwins) {
  ForEachCpuLevel([](CpuLevel) {
    for (const int64_t dim : {128, 64, 80, 20, 6}) {
      for (const int64_t rank : {dim, dim / 2, int64_t{8}, int64_t{1}}) {
        if (rank > dim) continue;
        const auto basis = RandomBasis(dim, rank, 5);
        for (const int64_t rows : {1, 3, 33}) {
          const std::vector<float> x = Normal(rows * dim, 1);
          std::vector<float> z(static_cast<size_t>(rows * rank)), slow_z(z.size());
          ToBasis(*basis, x.data(), rows, z.data());
          reference::ToBasis(*basis, x.data(), rows, slow_z.data());
          for (size_t i = 0; i < z.size(); ++i) ASSERT_NEAR(z[i], slow_z[i], 2e-5) << dim << " " << rank;
          std::vector<float> back(x.size()), slow(x.size());
          FromBasis(*basis, z.data(), rows, back.data());
          reference::FromBasis(*basis, z.data(), rows, slow.data());
          for (size_t i = 0; i < back.size(); ++i) ASSERT_NEAR(back[i], slow[i], 2e-5) << dim << " " << rank;
        }
      }
    }
  });
}

// k' = R(p) U U^T R(-p) k, in plain loops and double precision.
TEST(KvBasis, KeysAreProjectedBehindTheirRotation) {
  ForEachCpuLevel([](CpuLevel) {
    for (const bool one_axis : {true, false}) {
      for (const KvFormat format : {KvFormat::kF32, KvFormat::kBF16}) {
        for (const int64_t rank : {5, 12, 20}) {
          constexpr int64_t kDim = 20, kCount = 71;
          KvSide side;
          side.format = format;
          side.head_dim = kDim;
          side.basis = RandomBasis(kDim, rank, 9, Rope(kDim, one_axis));
          const auto element = static_cast<int64_t>(DtypeSize(ElementDtype(format)));
          ASSERT_EQ(side.Bytes(kCount), kCount * (rank * element + (one_axis ? 4 : 12)));
          std::vector<float> keys = Normal(kCount * kDim, 3);
          std::vector<std::byte> rows(static_cast<size_t>(kCount * kDim * element));
          for (size_t i = 0; i < keys.size(); ++i) {
            if (format == KvFormat::kF32) {
              reinterpret_cast<float*>(rows.data())[i] = keys[i];
            } else {
              reinterpret_cast<BF16*>(rows.data())[i] = ToBF16(keys[i]);
              keys[i] = ToFloat(ToBF16(keys[i]));
            }
          }
          const std::vector<Position> places = Places(kCount);
          std::vector<std::byte> stored(static_cast<size_t>(side.Bytes(kCount)));
          ASSERT_TRUE(EncodeEntries(side, rows.data(), kCount, stored.data(), places));
          EXPECT_TRUE(EncodedFinite(side, stored.data(), kCount));
          for (const auto& [first, count] :
               {std::pair<int64_t, int64_t>{0, kCount}, {1, 1}, {13, 40}, {kCount - 1, 1}}) {
            std::vector<std::byte> out(static_cast<size_t>(count * kDim * element));
            DecodeEntries(side, stored.data(), first, count, out.data());
            for (int64_t i = 0; i < count; ++i) {
              const Position& at = places[static_cast<size_t>(first + i)];
              std::vector<double> key(kDim), right(kDim, 0.0);
              for (int64_t d = 0; d < kDim; ++d)
                key[static_cast<size_t>(d)] = double(keys[static_cast<size_t>((first + i) * kDim + d)]);
              Turn(side.basis->rope, at, -1, kDim, key.data());
              for (int64_t r = 0; r < rank; ++r) {
                const float* const u = side.basis->vectors.data() + r * kDim;
                double weight = 0;
                for (int64_t d = 0; d < kDim; ++d) weight += double(u[d]) * key[static_cast<size_t>(d)];
                for (int64_t d = 0; d < kDim; ++d) right[static_cast<size_t>(d)] += weight * double(u[d]);
              }
              Turn(side.basis->rope, at, 1, kDim, right.data());
              for (int64_t d = 0; d < kDim; ++d) {
                const auto at_d = static_cast<size_t>(i * kDim + d);
                const float got = format == KvFormat::kF32 ? reinterpret_cast<const float*>(out.data())[at_d]
                                                           : ToFloat(reinterpret_cast<const BF16*>(out.data())[at_d]);
                ASSERT_NEAR(got, right[static_cast<size_t>(d)], format == KvFormat::kF32 ? 3e-5 : 5e-2)
                    << "entry " << first + i << " channel " << d << " rank " << rank;
              }
            }
          }
        }
      }
    }
  });
}

TEST(KvBasis, WhatIsNotFiniteIsRefused) {
  KvSide side;
  side.format = KvFormat::kF32;
  side.head_dim = 8;
  side.basis = RandomBasis(8, 4, 1);
  std::vector<float> rows = Normal(3 * 8, 2);
  std::vector<std::byte> stored(static_cast<size_t>(side.Bytes(3)));
  ASSERT_TRUE(EncodeEntries(side, rows.data(), 3, stored.data()));
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    std::vector<float> one = rows;
    one[13] = bad;
    EXPECT_FALSE(EncodeEntries(side, one.data(), 3, stored.data()));
  }
  ASSERT_TRUE(EncodeEntries(side, rows.data(), 3, stored.data()));
  reinterpret_cast<float*>(stored.data())[11] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_FALSE(EncodedFinite(side, stored.data(), 3));
}

}  // namespace
}  // namespace purekv
