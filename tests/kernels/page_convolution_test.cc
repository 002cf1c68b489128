// The predictor of pages, tile by tile, against its definition as plain loops, at every level of instructions.
#include "kernels/page_convolution.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "support/page_predictor.h"
#include "testing.h"

namespace purekv {
namespace {

using Convolution = PageConvolution;

PageRowsList RandomRows(int64_t width, uint32_t seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> unit(0, 1);
  PageRowsList rows(64, std::vector<float>(size_t(width)));
  for (auto& row : rows) {
    for (float& x : row) x = std::pow(unit(random), 4.0F);
  }
  return rows;
}

// Contributions of all rows and columns, in tiles of so many. [64][width]
PageRowsList InTiles(const Convolution& convolution, const PageRowsList& rows, int64_t tile_rows,
                     int64_t tile_columns) {
  const auto width = int64_t(rows[0].size());
  PageRowsList all(64, std::vector<float>(size_t(width), NAN));
  for (int64_t r = 0; r < 64; r += tile_rows) {
    for (int64_t c = 0; c < width; c += tile_columns) {
      const int64_t high = std::min(tile_rows, 64 - r), wide = std::min(tile_columns, width - c);
      std::vector<float> in(size_t((high + 4) * Convolution::kInputStride), 0.0F);
      for (int64_t i = std::max<int64_t>(0, r - 2); i < std::min<int64_t>(64, r + high + 2); ++i) {
        for (int64_t j = std::max<int64_t>(0, c - 2); j < std::min(width, c + wide + 2); ++j) {
          in[size_t((i - r + 2) * Convolution::kInputStride + j - c + 2)] = rows[size_t(i)][size_t(j)];
        }
      }
      std::vector<float> out(size_t(high * Convolution::kTileColumns), NAN);
      convolution.Run(
          {.row = r, .rows = high, .column = c, .columns = wide, .width = width, .in = in.data(), .out = out.data()});
      for (int64_t i = 0; i < high; ++i) {
        for (int64_t j = 0; j < wide; ++j) {
          all[size_t(r + i)][size_t(c + j)] = out[size_t(i * Convolution::kTileColumns + j)];
        }
      }
    }
  }
  return all;
}

TEST(PageConvolution, IsTheNetworkOfItsDefinition) {
  const Convolution convolution(RandomPredictor(1));
  testing::ForEachCpuLevel([&](CpuLevel level) {
    for (const int64_t width : {1, 2, 3, 17, 63, 64, 65, 130}) {
      if (level == CpuLevel::kReference && width > 65) continue;
      SCOPED_TRACE(width);
      const auto rows = RandomRows(width, uint32_t(width));
      const std::vector<double> want = PlainScores(convolution.weights(), rows);
      const auto all = InTiles(convolution, rows, 8, 64);
      for (size_t c = 0; c < want.size(); ++c) {
        double score = double(convolution.bias());
        for (const auto& row : all) score += double(row[c]) / 64;
        EXPECT_NEAR(score, want[c], 2e-6 * std::max(1.0, std::abs(want[c]))) << c;
      }
    }
  });
}

// Rows and pages farther away, and where tiles begin, change no bit: what makes it possible to keep what is there.
TEST(PageConvolution, TilesSayTheSameBits) {
  const Convolution convolution(RandomPredictor(2));
  testing::ForEachCpuLevel([&](CpuLevel level) {
    const int64_t width = level == CpuLevel::kReference ? 20 : 97;
    auto rows = RandomRows(width, 5);
    const auto all = InTiles(convolution, rows, 8, 64);
    EXPECT_EQ(InTiles(convolution, rows, 3, 11), all);
    EXPECT_EQ(InTiles(convolution, rows, 1, 1), all);
    // One row up: rows 2 .. 60 are what 3 .. 61 were.
    std::rotate(rows.begin(), rows.begin() + 1, rows.end());
    rows.back() = RandomRows(width, 6)[0];
    const auto later = InTiles(convolution, rows, 8, 64);
    for (size_t r = 2; r <= 60; ++r) EXPECT_EQ(later[r], all[r + 1]) << r;
    EXPECT_NE(later[61], all[62]);
    EXPECT_NE(later[1], all[2]);
  });
}

}  // namespace
}  // namespace purekv
