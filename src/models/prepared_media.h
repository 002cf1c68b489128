// One video or image on its way to the vision tower: which frames, cut into which tiles, how many tokens.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/matrix.h"
#include "media/frame_stream.h"
#include "media/patches.h"
#include "media/sampling.h"
#include "media/tiling.h"
#include "purekv/media.h"

namespace purekv {

// How many frames, and their size in pixels after resizing.
struct FrameShape {
  int64_t count = 0;
  int64_t height = 0;
  int64_t width = 0;
};

// What the tower sees as one picture or clip: some of the medium's frames, and the patches that they make. A family
// that cuts a large image into pieces gives each its frame in the medium's stream, and its tile.
struct Tile {
  FrameRange frames;  // of PreparedMedia::source; one alone for several slices: a still that is shown in each
  Grid grid;          // in patches
  bool still() const { return frames.count == 1 && grid.t > 1; }
};

// An image whose tiles, behind a first one that shows all of it, are put together again as one map of patches
// (LLaVA-OneVision's "anyres", arXiv 2408.03326).
struct Mosaic {
  TileGrid tiles;  // behind the first
  Size covered;    // rows and columns of the map, in its middle, that show the image and not what surrounds it
  Size cells;      // that these are scaled to: a token each
};

// Of a tile's patches to the tokens that they become: slices, rows and columns.
using CellsOfPatches = std::function<Grid(const Grid& patches, bool video)>;

// What a connector has made of a medium.
struct EmbeddedMedia {
  Matrix<float> rows;               // [tokens, decoder hidden]
  std::vector<Matrix<float>> deep;  // further sets of as many (MediaFeatures::deep)
};

// One video or image whose frames have been chosen; they are decoded and resized when the tower asks for them.
struct PreparedMedia {
  MediaSource::Kind kind = MediaSource::Kind::kVideo;
  std::string path;
  FrameShape frames;
  std::shared_ptr<FrameStream> source;  // of these frames; null where no tower and no viewer will ask for them
  std::vector<Tile> tiles;              // at least one, of patches in the same number of rows and columns
  std::optional<Mosaic> mosaic;
  int64_t tokens = 0;  // visual ones
  double sample_fps = 2.0;
  // Of a video: when each slice of `grid()` is, in seconds, where its prompt says so; empty: as sample_fps has it.
  std::vector<double> slice_seconds{};
  // Visual embeddings that need no tower any more (read again, or made up to measure speed).
  std::shared_ptr<const EmbeddedMedia> embedded;

  bool is_video() const { return kind != MediaSource::Kind::kImage; }
  // The tiles one after another, as one: slices of all, rows and columns of each.
  Grid grid() const;
};

// Visual tokens of a grid whose patches are merged `merge` x `merge`. Throws Error (kUsage) naming the grid when it
// does not fit.
int64_t MergedTokens(const Grid& grid, int64_t merge);

// Throws Error (kUsage): `what`, a file or a field, was given to a model that reads text alone.
[[noreturn]] void RefuseMedia(const Message& what);

}  // namespace purekv
