#include "models/anyres_preprocessor.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "base/error.h"
#include "media/frame_stream.h"
#include "media/resize.h"
#include "media/tiling.h"

namespace purekv {
namespace {

// The image in the middle of a black canvas. [canvas.height, canvas.width, 3]
std::vector<uint8_t> OnCanvas(const Frames& image, const Size& canvas) {
  const Size fitted = FitInto({image.height, image.width}, canvas);
  std::vector<uint8_t> scaled(static_cast<size_t>(fitted.height * fitted.width * 3));
  ResizePillow(image.rgb.data(), image.height, image.width, scaled.data(), fitted.height, fitted.width);
  std::vector<uint8_t> whole(static_cast<size_t>(canvas.height * canvas.width * 3), 0);
  const int64_t top = (canvas.height - fitted.height) / 2, left = (canvas.width - fitted.width) / 2;
  for (int64_t y = 0; y < fitted.height; ++y) {
    std::copy_n(scaled.data() + y * fitted.width * 3, fitted.width * 3,
                whole.data() + ((top + y) * canvas.width + left) * 3);
  }
  return whole;
}

}  // namespace

AnyresPreprocessor::AnyresPreprocessor(AnyresConfig anyres, const PictureSpec& pictures, FixedPreprocessorConfig videos)
    : Preprocessor(pictures.patches), anyres_(std::move(anyres)), pictures_(pictures), videos_(std::move(videos)) {}

Mosaic AnyresPreprocessor::MosaicOf(const Size& image, const std::string& path) const {
  const Size canvas = BestCanvas(image, anyres_.canvases);
  const Size& tile = pictures_.framing.resized;
  Mosaic mosaic;
  mosaic.tiles = {canvas.height / tile.height, canvas.width / tile.width};
  mosaic.covered = Unpadded(image, {mosaic.tiles.rows * side(), mosaic.tiles.columns * side()});
  mosaic.cells = mosaic.covered;
  const auto [rows, columns] = std::pair(mosaic.covered.height, mosaic.covered.width);
  if (rows < 1 || columns < 1) {
    Fail(path, ": an image of ", image.height, " x ", image.width,
         " pixels is too narrow: no patch of its tiles is left");
  }
  const double ratio =
      std::sqrt(static_cast<double>(rows * columns) / static_cast<double>(anyres_.most_tiles * side() * side()));
  if (ratio > 1.1) {
    const auto scaled = [&](int64_t cells) {
      return std::max<int64_t>(1, static_cast<int64_t>(std::floor(static_cast<double>(cells) / ratio)));
    };
    mosaic.cells = {scaled(rows), scaled(columns)};
  }
  return mosaic;
}

PreparedMedia AnyresPreprocessor::Load(const MediaSource& source, const MediaOptions& options, int64_t images,
                                       const FrameProgress& progress) const {
  if (source.kind != MediaSource::Kind::kImage) return videos_.Load(source, options, images, progress);
  videos_.CheckOptions(options);
  const Frames image = ReadImage(source.path);
  Framing framing = pictures_.framing;
  framing.Check(source.path, image.height, image.width);
  PreparedMedia media;
  media.kind = source.kind;
  media.path = source.path;
  media.sample_fps = 0;
  const bool alone = images == 1;
  if (alone) {
    framing.square.reset();
    media.mosaic = MosaicOf({image.height, image.width}, source.path);
  }
  const int64_t taken = framing.size.height;
  Frames tiles{1 + (alone ? media.mosaic->tiles.count() : 0), taken, taken, {}};
  tiles.rgb.resize(static_cast<size_t>(tiles.count * taken * taken * 3));
  framing.Apply(image.rgb.data(), image.height, image.width, tiles.rgb.data(), 0);
  if (alone) {
    const TileGrid& grid = media.mosaic->tiles;
    const int64_t tile = framing.resized.height;
    const std::vector<uint8_t> whole = OnCanvas(image, {grid.rows * tile, grid.columns * tile});
    CutTiles(whole.data(), grid, tile, taken, tiles.rgb.data() + taken * taken * 3);
  }
  media.frames = {tiles.count, taken, taken};
  for (int64_t i = 0; i < tiles.count; ++i) media.tiles.push_back({{i, 1}, {1, side(), side()}});
  media.source = StreamOf(std::move(tiles));
  media.tokens = TokensOf(media);
  return media;
}

int64_t AnyresPreprocessor::TokensOf(const PreparedMedia& medium) const {
  if (medium.is_video()) return Preprocessor::TokensOf(medium);
  const Grid grid = medium.grid();
  const int64_t first = side() * side();
  if (grid.h != side() || grid.w != side() || (grid.t > 1) != medium.mosaic.has_value()) {
    FailUsage("a grid of ", grid.t, "x", grid.h, "x", grid.w, " patches: this model sees ", side(), "x", side(),
              " in an image, and in each tile of one that is put together again");
  }
  if (!medium.mosaic) return first;
  const Size& cells = medium.mosaic->cells;
  const int64_t most = (grid.t - 1) * first;
  if (cells.height < 1 || cells.width < 1 || cells.height > most || cells.width > most / cells.height) {
    FailUsage("a map of ", cells.height, " x ", cells.width, " tokens: ", grid.t - 1, " tiles of ", side(), " x ",
              side(), " patches do not make it");
  }
  return first + cells.height * cells.width;
}

Message AnyresPreprocessor::FewerTokens() const {
  return videos_.FewerTokens();
}

}  // namespace purekv
