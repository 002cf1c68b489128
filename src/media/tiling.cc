#include "media/tiling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/error.h"

namespace purekv {

TileGrid NearestTiles(const Size& image, int64_t side, int64_t least, int64_t most) {
  PUREKV_CHECK(least >= 1 && least <= most && image.height >= 1 && image.width >= 1, least, " .. ", most);
  const double shape = static_cast<double>(image.width) / static_cast<double>(image.height);
  const double pixels = static_cast<double>(image.width) * static_cast<double>(image.height);
  TileGrid best;
  double nearest = std::numeric_limits<double>::infinity();
  // By count, then by columns: the order in which the reference comes to them decides ties.
  for (int64_t count = least; count <= most; ++count) {
    for (int64_t columns = 1; columns <= count; ++columns) {
      if (count % columns != 0) continue;
      const TileGrid grid{count / columns, columns};
      const double off = std::abs(shape - static_cast<double>(columns) / static_cast<double>(grid.rows));
      const bool tied = off == nearest && pixels > 0.5 * static_cast<double>(side * side * count);
      if (off < nearest || tied) {
        nearest = off;
        best = grid;
      }
    }
  }
  return best;
}

Size FitInto(const Size& image, const Size& canvas) {
  const double wide = static_cast<double>(canvas.width) / static_cast<double>(image.width);
  const double high = static_cast<double>(canvas.height) / static_cast<double>(image.height);
  const auto scaled = [](int64_t side, double scale, int64_t most) {
    return std::clamp<int64_t>(static_cast<int64_t>(std::ceil(static_cast<double>(side) * scale)), 1, most);
  };
  if (wide < high) return {scaled(image.height, wide, canvas.height), canvas.width};
  return {canvas.height, scaled(image.width, high, canvas.width)};
}

Size BestCanvas(const Size& image, std::span<const Size> canvases) {
  PUREKV_CHECK(!canvases.empty(), "no canvas");
  Size best;
  int64_t most = -1, least_left = 0;
  for (const Size& canvas : canvases) {
    const double scale = std::min(static_cast<double>(canvas.width) / static_cast<double>(image.width),
                                  static_cast<double>(canvas.height) / static_cast<double>(image.height));
    const auto height = static_cast<int64_t>(static_cast<double>(image.height) * scale);
    const auto width = static_cast<int64_t>(static_cast<double>(image.width) * scale);
    const int64_t held = std::min(height * width, image.height * image.width);
    const int64_t left = canvas.height * canvas.width - held;
    if (held > most || (held == most && left < least_left)) {
      best = canvas;
      most = held;
      least_left = left;
    }
  }
  return best;
}

Size Unpadded(const Size& image, const Size& map) {
  const auto ratio = [](int64_t a, int64_t b) { return static_cast<double>(a) / static_cast<double>(b); };
  // As Python: int(round(side * scale, 7)).
  const auto scaled = [](int64_t side, double scale) {
    return static_cast<int64_t>(std::round(static_cast<double>(side) * scale * 1e7) / 1e7);
  };
  const auto cut = [](int64_t side, int64_t covered) { return side - 2 * ((side - covered) / 2); };
  if (ratio(image.width, image.height) > ratio(map.width, map.height)) {
    return {cut(map.height, scaled(image.height, ratio(map.width, image.width))), map.width};
  }
  return {map.height, cut(map.width, scaled(image.width, ratio(map.height, image.height)))};
}

void CutTiles(const uint8_t* whole, const TileGrid& grid, int64_t side, int64_t taken, uint8_t* tiles) {
  const int64_t stride = grid.columns * side * 3, row_bytes = taken * 3;
  for (int64_t tile = 0; tile < grid.count(); ++tile) {
    const uint8_t* from = whole + tile / grid.columns * side * stride + tile % grid.columns * side * 3;
    for (int64_t y = 0; y < taken; ++y, from += stride, tiles += row_bytes) std::copy_n(from, row_bytes, tiles);
  }
}

}  // namespace purekv
