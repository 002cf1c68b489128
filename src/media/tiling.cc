#include "media/tiling.h"

#include <cmath>
#include <limits>

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

}  // namespace purekv
