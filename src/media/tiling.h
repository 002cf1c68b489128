// Into which tiles of one size a large image is cut: pure arithmetic, equal to Python's.
#pragma once

#include <cstdint>
#include <span>

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

// An image scaled into a canvas, one side filling it, the other at most (LLaVA's "anyres", arXiv 2408.03326).
Size FitInto(const Size& image, const Size& canvas);

// The canvas that holds most of the image's pixels when it is scaled into it, at most as many as it has; of equal ones
// that with the least left over, then the earliest. There is one at least.
Size BestCanvas(const Size& image, std::span<const Size> canvases);

// Of a map of `canvas` features, what the image covers when it lay in the middle of it: `map` less what is cut evenly
// from both ends of one side.
Size Unpadded(const Size& image, const Size& map);

// Of each tile, row by row, the `taken` x `taken` pixels of its top left. whole: [grid.rows * side, grid.columns *
// side, 3]; tiles: [grid.count(), taken, taken, 3].
void CutTiles(const uint8_t* whole, const TileGrid& grid, int64_t side, int64_t taken, uint8_t* tiles);

}  // namespace purekv
