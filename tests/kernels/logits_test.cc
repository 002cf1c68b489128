// Rows of logits against plain loops on every instruction set.
#include "kernels/logits.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kernels/testing.h"

namespace purekv {
namespace {

using testing::ForEachTarget;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
const std::vector<int64_t> kSizes = {1, 2, 7, 15, 16, 17, 33, 1023, 1024, 1025, 2047, 4111, 49152, 151936};

std::vector<float> Row(std::mt19937& random, int64_t size, float spread) {
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> row(static_cast<size_t>(size));
  for (float& x : row) x = normal(random);
  return row;
}

TEST(Logits, TheFirstOfTheLargest) {
  std::mt19937 random(3);
  for (const int64_t size : kSizes) {
    std::vector<float> row = Row(random, size, 5);
    const auto at = [&] { return static_cast<size_t>(random() % row.size()); };
    for (int i = 0; i < 20; ++i) {
      if (i > 0) row[at()] = row[at()] = static_cast<float>(30 + i);  // twice, if there are two places
      if (i == 15) row[at()] = kInfinity;
      if (i == 17) row[at()] = -kInfinity;
      ForEachTarget([&] { EXPECT_EQ(IndexOfLargest(row), reference::IndexOfLargest(row)) << size << ", " << i; });
    }
    const std::vector<float> least(row.size(), -kInfinity);
    ForEachTarget([&] { EXPECT_EQ(IndexOfLargest(least), 0); });
  }
}

TEST(Logits, NotANumberShowsWhereverItIs) {
  std::mt19937 random(4);
  for (const int64_t size : kSizes) {
    const std::vector<float> row = Row(random, size, 5);
    for (const size_t at : {size_t{0}, row.size() / 2, row.size() - 1, static_cast<size_t>(random() % row.size())}) {
      for (const float sign : {1.0F, -1.0F}) {
        std::vector<float> damaged = row;
        damaged[at] = std::copysign(std::numeric_limits<float>::quiet_NaN(), sign);
        ForEachTarget([&] { EXPECT_EQ(IndexOfLargest(damaged), -1) << size << ", " << at; });
      }
    }
  }
  EXPECT_EQ(IndexOfLargest({}), -1);
}

TEST(Logits, SumsOfExponentials) {
  std::mt19937 random(5);
  for (const int64_t size : kSizes) {
    for (const float spread : {0.0F, 0.1F, 5.0F, 200.0F}) {
      std::vector<float> row = Row(random, size, spread);
      if (size > 2) row[static_cast<size_t>(size / 2)] = -kInfinity;
      const float largest = row[static_cast<size_t>(reference::IndexOfLargest(row))];
      const double want = reference::SumOfExps(row, largest);
      ForEachTarget([&] { EXPECT_NEAR(SumOfExps(row, largest), want, 2e-6 * want) << size << ", " << spread; });
    }
  }
}

}  // namespace
}  // namespace purekv
