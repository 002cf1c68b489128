#include "models/prepared_media.h"

#include <algorithm>

#include "base/error.h"

namespace purekv {

Grid PreparedMedia::grid() const {
  PUREKV_CHECK(!tiles.empty(), path);
  Grid all = tiles.front().grid;
  for (size_t i = 1; i < tiles.size(); ++i) {
    const Grid& one = tiles[i].grid;
    PUREKV_CHECK(one.h == all.h && one.w == all.w, path, ": tile ", i, ": ", one.h, " x ", one.w);
    all.t += one.t;
  }
  return all;
}

int64_t MergedTokens(const Grid& grid, int64_t merge) {
  constexpr int64_t kMost = 1 << 20;  // per side: their product stays far from 2^63
  if (grid.t < 1 || grid.h < 1 || grid.w < 1 || grid.h % merge != 0 || grid.w % merge != 0 ||
      std::max({grid.t, grid.h, grid.w}) > kMost) {
    FailUsage("a grid of ", grid.t, "x", grid.h, "x", grid.w, " patches: height and width must be multiples of ", merge,
              ", all sides from 1 to ", kMost);
  }
  return grid.patches() / (merge * merge);
}

void RefuseMedia(const Message& what) {
  FailUsage(what, ": this model reads text alone: it sees no images or videos");
}

}  // namespace purekv
