#include "media/patches.h"

#include <algorithm>

#include "base/error.h"
#include "base/threads.h"

namespace purekv {
namespace {

constexpr int64_t kChannels = 3;

// Every pixel value is one of 256, so the normalisation is a table. The value is what transformers' fused
// rescale-and-normalise computes in float32, (x - mean * 255) / (std * 255): bit-equal to its pixel_values, and within
// an ulp or two of (x / 255 - mean) / std.
using Table = std::array<std::array<float, 256>, kChannels>;

Table MakeTable(const PatchSpec& spec) {
  Table table;
  for (size_t c = 0; c < kChannels; ++c) {
    const float mean = spec.mean[c] * 255.0f;
    const float std = spec.std[c] * 255.0f;
    PUREKV_CHECK(std != 0, "channel ", c);
    for (size_t x = 0; x < 256; ++x) table[c][x] = (static_cast<float>(x) - mean) / std;
  }
  return table;
}

}  // namespace

Grid GridOf(const Frames& frames, const PatchSpec& spec) {
  const int64_t block = spec.patch_size * spec.merge_size;
  PUREKV_CHECK(block >= 1 && spec.temporal_patch_size >= 1, spec.patch_size, " ", spec.merge_size);
  PUREKV_CHECK(frames.count >= 1 && frames.height >= block && frames.width >= block, frames.count, " frames of ",
               frames.height, " x ", frames.width);
  PUREKV_CHECK(frames.height % block == 0 && frames.width % block == 0, frames.height, " x ", frames.width, ", block ",
               block);
  return {(frames.count + spec.temporal_patch_size - 1) / spec.temporal_patch_size, frames.height / spec.patch_size,
          frames.width / spec.patch_size};
}

void WritePatches(const Frames& frames, const PatchSpec& spec, int64_t first_slice, int64_t slice_count,
                  MatrixView<float> out) {
  const Grid grid = GridOf(frames, spec);
  const int64_t patch = spec.patch_size;
  const int64_t merge = spec.merge_size;
  PUREKV_CHECK(first_slice >= 0 && slice_count >= 0 && first_slice + slice_count <= grid.t, first_slice, "+",
               slice_count, " of ", grid.t);
  PUREKV_CHECK(out.rows == slice_count * grid.h * grid.w, out.rows);
  PUREKV_CHECK(out.cols == kChannels * spec.temporal_patch_size * patch * patch, out.cols);
  PUREKV_CHECK(static_cast<int64_t>(frames.rgb.size()) == frames.count * frames.height * frames.width * kChannels,
               frames.rgb.size());
  const Table table = MakeTable(spec);
  const int64_t row_bytes = frames.width * kChannels;
  const int64_t block_rows = grid.h / merge;
  const int64_t rows_per_block_row = grid.w * merge;  // patch rows one block row yields

  // A table look-up per value, about one a cycle, is already as fast as memory takes the floats: converting and
  // multiplying in vectors would first have to part the three channels.
  ParallelFor(slice_count * block_rows, [&](int64_t task) {
    const int64_t slice = first_slice + task / block_rows;
    const int64_t block_row = task % block_rows;
    int64_t row = task * rows_per_block_row;
    for (int64_t block_column = 0; block_column < grid.w / merge; ++block_column) {
      for (int64_t dy = 0; dy < merge; ++dy) {
        for (int64_t dx = 0; dx < merge; ++dx, ++row) {
          float* to = out.Row(row);
          const int64_t top = (block_row * merge + dy) * patch;
          const int64_t left = (block_column * merge + dx) * patch;
          for (int64_t c = 0; c < kChannels; ++c) {
            const auto& values = table[static_cast<size_t>(c)];
            for (int64_t tp = 0; tp < spec.temporal_patch_size; ++tp) {
              // A last slice that is not full repeats the last frame.
              const int64_t frame = std::min(slice * spec.temporal_patch_size + tp, frames.count - 1);
              const uint8_t* from =
                  frames.rgb.data() + (frame * frames.height + top) * row_bytes + left * kChannels + c;
              for (int64_t y = 0; y < patch; ++y, from += row_bytes) {
                for (int64_t x = 0; x < patch; ++x) *to++ = values[from[x * kChannels]];
              }
            }
          }
        }
      }
    }
  });
}

}  // namespace purekv
