// Into which tiles of one size a large image is cut: pure arithmetic, equal to Python's.
#pragma once

#include <cstdint>

#include "media/sampling.h"

namespace purekv {

struct TileGrid {
  int64_t rows = 1;
  int64_t columns = 1;
  int64_t count() const { return rows * columns; }
  bool operator==(const TileGrid&) const = default;
};

// The grid of least to most tiles of side x side pixels whose shape is nearest to the image's (InternVL's dynamic
// tiling, arXiv 2404.16821, section 3.2): least | width / height - columns / rows |; of equal ones the grid with more
// tiles, while the image has more than half their pixels. 1 <= least <= most.
TileGrid NearestTiles(const Size& image, int64_t side, int64_t least, int64_t most);

}  // namespace purekv
