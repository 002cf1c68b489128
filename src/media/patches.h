// Pixels to patches: normalisation, and an order in which the patches that become one visual token lie together.
#pragma once

#include <array>
#include <cstdint>

#include "base/matrix.h"
#include "purekv/media.h"

namespace purekv {

// Patch rows of one image or video: t temporal slices of h x w patches.
struct Grid {
  int64_t t = 0;
  int64_t h = 0;
  int64_t w = 0;
  int64_t patches() const { return t * h * w; }
  bool operator==(const Grid&) const = default;
};

struct PatchSpec {
  int64_t patch_size = 14;          // pixels per side
  int64_t temporal_patch_size = 2;  // frames that one patch spans
  int64_t merge_size = 2;           // patches per side of a block, whose rows lie one after another; 1: raster order
  std::array<float, 3> mean{};
  std::array<float, 3> std{};
  // Of one patch.
  int64_t values() const { return 3 * temporal_patch_size * patch_size * patch_size; }
};

// Grid of `count` frames of height x width (multiples of patch_size * merge_size); a count that temporal_patch_size
// does not divide is padded with the last frame.
Grid GridOf(const Frames& frames, const PatchSpec& spec);

// Rows ordered (t, block row, block column, row in block, column in block), columns (channel, frame in slice, y, x):
// [grid.patches(), 3 * temporal_patch_size * patch_size^2], value (x / 255 - mean) / std. `slices` first..first+count
// of the grid.
void WritePatches(const Frames& frames, const PatchSpec& spec, int64_t first_slice, int64_t slice_count,
                  MatrixView<float> out);

}  // namespace purekv
