#include "eval/frame_sheet.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "base/error.h"
#include "media/jpeg_writer.h"

namespace purekv {
namespace {

constexpr int64_t kMostPixels = 16'000'000;  // of a sheet: browsers show it without a second thought
constexpr int64_t kMostTiles = 100'000;
constexpr int kQuality = 70;

// Means of the pixels under each pixel of the tile.
void Shrink(const uint8_t* from, int64_t height, int64_t width, uint8_t* to, int64_t to_height, int64_t to_width,
            int64_t stride) {
  for (int64_t y = 0; y < to_height; ++y) {
    const int64_t top = y * height / to_height;
    const int64_t bottom = std::max(top + 1, (y + 1) * height / to_height);
    for (int64_t x = 0; x < to_width; ++x) {
      const int64_t left = x * width / to_width;
      const int64_t right = std::max(left + 1, (x + 1) * width / to_width);
      std::array<int64_t, 3> sum{};
      for (int64_t row = top; row < bottom; ++row) {
        for (int64_t column = left; column < right; ++column) {
          for (size_t c = 0; c < 3; ++c) sum[c] += from[static_cast<size_t>((row * width + column) * 3) + c];
        }
      }
      const int64_t count = (bottom - top) * (right - left);
      for (size_t c = 0; c < 3; ++c) {
        to[static_cast<size_t>(y * stride + x * 3) + c] = static_cast<uint8_t>((sum[c] + count / 2) / count);
      }
    }
  }
}

}  // namespace

FrameSheet MakeFrameSheet(const std::vector<PreparedMedia>& media, const TokenLayout& layout, int64_t side) {
  FrameSheet sheet;
  std::vector<std::pair<int64_t, int64_t>> frames;  // item, frame
  std::map<std::pair<int32_t, int32_t>, std::array<int64_t, 2>> cells;
  std::map<int32_t, int64_t> slices;  // by item: those that tokens know, whatever the tower's patches have
  for (const TokenRecord& token : layout) {
    if (token.kind == TokenRecord::Kind::kText) continue;
    slices[token.item] = std::max<int64_t>(slices[token.item], token.slice + 1);
    auto& grid = cells[{token.item, token.slice}];
    grid[0] = std::max<int64_t>(grid[0], token.row + 1);
    grid[1] = std::max<int64_t>(grid[1], token.column + 1);
  }
  int64_t height = 1;
  int64_t width = 1;
  for (const auto& [slice, grid] : cells) {
    const PreparedMedia& one = media.at(static_cast<size_t>(slice.first));
    const int64_t of_item = slices.at(slice.first);
    const int64_t per_slice = (one.frames.count + of_item - 1) / of_item;
    // What a map of tiles covers is the image, which the first tile shows.
    const int64_t frame = one.mosaic ? 0 : std::min(slice.second * per_slice, one.frames.count - 1);
    frames.emplace_back(slice.first, frame);
    sheet.cells.push_back(grid);
    height = std::max(height, one.frames.height);
    width = std::max(width, one.frames.width);
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
    const auto& [item, frame] = frames[static_cast<size_t>(i)];
    media[static_cast<size_t>(item)].source->Read(frame, 1, &from);
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
