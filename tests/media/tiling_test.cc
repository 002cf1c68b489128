// Tiles of large images: cases of the published processors, and properties over all sizes.
#include "media/tiling.h"

#include <gtest/gtest.h>

#include <cmath>
#include <utility>

namespace purekv {
namespace {

TEST(NearestTiles, AsInternVlCutsThem) {
  const struct {
    Size image;
    TileGrid grid;
  } cases[] = {{{448, 448}, {1, 1}},   {{224, 224}, {1, 1}},   {{480, 640}, {3, 4}},   {{600, 800}, {3, 4}},
               {{720, 1280}, {2, 4}},  {{1080, 1920}, {2, 4}}, {{1920, 1080}, {4, 2}}, {{2160, 3840}, {2, 4}},
               {{1000, 1000}, {3, 3}}, {{896, 896}, {2, 2}},   {{300, 900}, {1, 3}},   {{100, 2000}, {1, 12}},
               {{1344, 448}, {3, 1}},  {{400, 1000}, {2, 5}},  {{633, 634}, {1, 1}},   {{1800, 2400}, {3, 4}}};
  for (const auto& one : cases) {
    EXPECT_EQ(NearestTiles(one.image, 448, 1, 12), one.grid) << one.image.height << " x " << one.image.width;
  }
  // 634 x 634 has just more than half the pixels of two tiles a side: 4 take the place of 1.
  EXPECT_EQ(NearestTiles({634, 634}, 448, 1, 12), (TileGrid{2, 2}));
}

TEST(NearestTiles, StaysWithinItsBoundsAndNearestOfAll) {
  for (const auto& [least, most] : {std::pair<int64_t, int64_t>{1, 12}, {1, 1}, {3, 7}, {6, 6}}) {
    for (int64_t height = 10; height < 2000; height += 137) {
      for (int64_t width = 10; width < 2000; width += 119) {
        const TileGrid grid = NearestTiles({height, width}, 56, least, most);
        ASSERT_GE(grid.count(), least);
        ASSERT_LE(grid.count(), most);
        const auto off = [&](int64_t rows, int64_t columns) {
          return std::abs(static_cast<double>(width) / static_cast<double>(height) -
                          static_cast<double>(columns) / static_cast<double>(rows));
        };
        for (int64_t rows = 1; rows <= most; ++rows) {
          for (int64_t columns = 1; rows * columns <= most; ++columns) {
            if (rows * columns < least) continue;
            ASSERT_LE(off(grid.rows, grid.columns), off(rows, columns));
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace purekv
