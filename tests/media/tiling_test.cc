// Tiles of large images: cases of the published processors, and properties over all sizes.
#include "media/tiling.h"

#include <gtest/gtest.h>

#include <cmath>
#include <utility>
#include <vector>

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

std::vector<Size> Pinpoints() {
  std::vector<Size> canvases;
  for (int64_t i = 1; i <= 6; ++i) {
    for (int64_t j = 1; j <= 6; ++j) canvases.push_back({384 * i, 384 * j});
  }
  return canvases;
}

TEST(BestCanvas, AsLlavaOneVisionLaysThemOut) {
  const struct {
    Size image, canvas, fitted, map;
  } cases[] = {
      {{384, 384}, {384, 384}, {384, 384}, {27, 27}},         {{480, 640}, {768, 768}, {576, 768}, {40, 54}},
      {{640, 480}, {768, 768}, {768, 576}, {54, 40}},         {{720, 1280}, {768, 1536}, {768, 1366}, {54, 96}},
      {{1080, 1920}, {1152, 1920}, {1080, 1920}, {75, 135}},  {{1920, 1080}, {1920, 1152}, {1920, 1080}, {135, 75}},
      {{899, 1024}, {1152, 1152}, {1012, 1152}, {71, 81}},    {{2160, 3840}, {1536, 2304}, {1296, 2304}, {92, 162}},
      {{100, 1000}, {384, 1152}, {116, 1152}, {9, 81}},       {{1000, 100}, {1152, 384}, {1152, 116}, {81, 9}},
      {{2304, 2304}, {2304, 2304}, {2304, 2304}, {162, 162}}, {{200, 3000}, {384, 2304}, {154, 2304}, {11, 162}},
      {{336, 1008}, {384, 1152}, {384, 1152}, {27, 81}}};
  const std::vector<Size> canvases = Pinpoints();
  for (const auto& one : cases) {
    const Size canvas = BestCanvas(one.image, canvases);
    EXPECT_EQ(canvas, one.canvas) << one.image.height << " x " << one.image.width;
    EXPECT_EQ(FitInto(one.image, canvas), one.fitted) << one.image.height << " x " << one.image.width;
    const Size map{27 * canvas.height / 384, 27 * canvas.width / 384};
    EXPECT_EQ(Unpadded(one.image, map), one.map) << one.image.height << " x " << one.image.width;
  }
}

TEST(BestCanvas, FitsInsideWhateverTheShape) {
  const std::vector<Size> canvases = Pinpoints();
  for (int64_t height = 1; height < 5000; height += 331) {
    for (int64_t width = 1; width < 5000; width += 353) {
      const Size canvas = BestCanvas({height, width}, canvases);
      const Size fitted = FitInto({height, width}, canvas);
      EXPECT_TRUE(fitted.height >= 1 && fitted.height <= canvas.height);
      EXPECT_TRUE(fitted.width >= 1 && fitted.width <= canvas.width);
      EXPECT_TRUE(fitted.height == canvas.height || fitted.width == canvas.width);
    }
  }
}

}  // namespace
}  // namespace purekv
