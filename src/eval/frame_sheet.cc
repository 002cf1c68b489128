#include "eval/frame_sheet.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "media/jpeg_writer.h"
#include "media/thumbnail.h"
#include "models/slice_pictures.h"

namespace purekv {
namespace {

constexpr int64_t kMostPixels = 16'000'000;  // of a sheet: browsers show it without a second thought
constexpr int64_t kMostTiles = 100'000;
constexpr int kQuality = 70;

}  // namespace

FrameSheet MakeFrameSheet(const std::vector<PreparedMedia>& media, const TokenLayout& layout, int64_t side) {
  FrameSheet sheet;
  const std::vector<SliceFrame> frames = SliceFrames(media, layout);
  int64_t height = 1;
  int64_t width = 1;
  for (const SliceFrame& slice : frames) {
    sheet.cells.push_back({slice.rows, slice.columns});
    height = std::max(height, media[static_cast<size_t>(slice.item)].frames.height);
    width = std::max(width, media[static_cast<size_t>(slice.item)].frames.width);
  }
  const auto tiles = static_cast<int64_t>(frames.size());
  if (tiles < 1 || tiles > kMostTiles) Fail("a sheet of ", tiles, " frames: 1 to ", kMostTiles, " can be drawn");
  const double fit = std::sqrt(static_cast<double>(kMostPixels) / static_cast<double>(tiles));
  const double scale =
      std::min(1.0, std::min(static_cast<double>(side), fit) / static_cast<double>(std::max(height, width)));
  sheet.tile_height = std::max<int64_t>(1, std::llround(static_cast<double>(height) * scale));
  sheet.tile_width = std::max<int64_t>(1, std::llround(static_cast<double>(width) * scale));
  sheet.per_row = std::max<int64_t>(1, std::llround(std::sqrt(static_cast<double>(tiles))));
  const int64_t rows = (tiles + sheet.per_row - 1) / sheet.per_row;
  const int64_t stride = sheet.per_row * sheet.tile_width * 3;
  std::vector<uint8_t> rgb(static_cast<size_t>(rows * sheet.tile_height * stride));
  Frames from;
  for (int64_t i = 0; i < tiles; ++i) {
    const SliceFrame& slice = frames[static_cast<size_t>(i)];
    media[static_cast<size_t>(slice.item)].source->Read(slice.frame, 1, &from);
    uint8_t* const to = rgb.data() + static_cast<size_t>(i / sheet.per_row * sheet.tile_height * stride +
                                                         i % sheet.per_row * sheet.tile_width * 3);
    Shrink(from.rgb.data(), from.height, from.width, to, sheet.tile_height, sheet.tile_width, stride);
  }
  sheet.jpeg = EncodeJpeg(rgb, rows * sheet.tile_height, sheet.per_row * sheet.tile_width, kQuality);
  return sheet;
}

nlohmann::ordered_json SheetJson(const FrameSheet& sheet) {
  return {{"tile", {sheet.tile_height, sheet.tile_width}}, {"per_row", sheet.per_row}, {"cells", sheet.cells}};
}

}  // namespace purekv
