#include "models/tiled_preprocessor.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "base/error.h"
#include "media/frame_stream.h"
#include "media/resize.h"
#include "media/tiling.h"

namespace purekv {
namespace {

// The tiles row by row, side x side pixels each, then the thumbnail.
Frames CutUp(const Frames& image, const TileGrid& grid, int64_t side, bool thumbnail) {
  const int64_t bytes = side * side * 3;
  Frames tiles{grid.count() + (thumbnail ? 1 : 0), side, side, {}};
  tiles.rgb.resize(static_cast<size_t>(tiles.count * bytes));
  std::vector<uint8_t> whole(static_cast<size_t>(grid.count() * bytes));
  ResizePillow(image.rgb.data(), image.height, image.width, whole.data(), grid.rows * side, grid.columns * side, 0);
  CutTiles(whole.data(), grid, side, side, tiles.rgb.data());
  if (thumbnail) {
    ResizePillow(image.rgb.data(), image.height, image.width, tiles.rgb.data() + grid.count() * bytes, side, side, 0);
  }
  return tiles;
}

}  // namespace

TiledPreprocessor::TiledPreprocessor(const TilingConfig& tiling, FixedPreprocessorConfig pictures)
    : Preprocessor(pictures.pictures.patches), tiling_(tiling), pictures_(std::move(pictures)), videos_(pictures_) {}

PreparedMedia TiledPreprocessor::Load(const MediaSource& source, const MediaOptions& options, int64_t images,
                                      const FrameProgress& progress) const {
  if (source.kind != MediaSource::Kind::kImage) return videos_.Load(source, options, images, progress);
  videos_.CheckOptions(options);
  const Frames image = ReadImage(source.path);
  pictures_.pictures.framing.Check(source.path, image.height, image.width);
  const TileGrid grid = NearestTiles({image.height, image.width}, tiling_.side, tiling_.least, tiling_.most);
  PreparedMedia media;
  media.kind = source.kind;
  media.path = source.path;
  media.source = StreamOf(CutUp(image, grid, tiling_.side, tiling_.thumbnail && grid.count() > 1));
  media.sample_fps = 0;
  media.frames = {media.source->count(), tiling_.side, tiling_.side};
  const Grid patches{1, tiling_.side / this->patches().patch_size, tiling_.side / this->patches().patch_size};
  for (int64_t i = 0; i < media.frames.count; ++i) media.tiles.push_back({{i, 1}, patches});
  media.tokens = media.frames.count * pictures_.cells(patches, false).patches();
  return media;
}

}  // namespace purekv
