#include "models/vision_language_model.h"

#include <algorithm>

#include "base/error.h"

namespace purekv {

int64_t MergedTokens(const Grid& grid, int64_t merge) {
  constexpr int64_t kMost = 1 << 20;  // per side: their product stays far from 2^63
  if (grid.t < 1 || grid.h < 1 || grid.w < 1 || grid.h % merge != 0 || grid.w % merge != 0 ||
      std::max({grid.t, grid.h, grid.w}) > kMost) {
    FailUsage("a grid of ", grid.t, "x", grid.h, "x", grid.w, " patches: height and width must be multiples of ", merge,
              ", all sides from 1 to ", kMost);
  }
  return grid.patches() / (merge * merge);
}

void PromptTokens::Append(PromptTokens later) {
  if (later.media_end > 0) media_end = static_cast<int64_t>(ids.size()) + later.media_end;
  ids.insert(ids.end(), later.ids.begin(), later.ids.end());
  layout.insert(layout.end(), later.layout.begin(), later.layout.end());
  positions.insert(positions.end(), later.positions.begin(), later.positions.end());
  next_position = later.next_position;
}

}  // namespace purekv
