#include "models/slice_pictures.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <utility>

#include "media/jpeg_writer.h"
#include "media/thumbnail.h"

namespace purekv {
namespace {

constexpr int kQuality = 70;

}  // namespace

std::vector<SliceFrame> SliceFrames(const std::vector<PreparedMedia>& media, const TokenLayout& layout) {
  std::map<std::pair<int32_t, int32_t>, std::array<int64_t, 2>> cells;
  std::map<int32_t, int64_t> slices;  // by item: those that tokens know, whatever the tower's patches have
  for (const TokenRecord& token : layout) {
    if (token.kind == TokenRecord::Kind::kText) continue;
    slices[token.item] = std::max<int64_t>(slices[token.item], token.slice + 1);
    auto& grid = cells[{token.item, token.slice}];
    grid[0] = std::max<int64_t>(grid[0], token.row + 1);
    grid[1] = std::max<int64_t>(grid[1], token.column + 1);
  }
  std::vector<SliceFrame> frames;
  for (const auto& [slice, grid] : cells) {
    const PreparedMedia& one = media.at(static_cast<size_t>(slice.first));
    const int64_t of_item = slices.at(slice.first);
    const int64_t per_slice = (one.frames.count + of_item - 1) / of_item;
    // What a map of tiles covers is the image, which the first tile shows.
    const int64_t frame = one.mosaic ? 0 : std::min(slice.second * per_slice, one.frames.count - 1);
    frames.push_back({slice.first, frame, grid[0], grid[1]});
  }
  return frames;
}

std::vector<std::string> SliceJpegs(const std::vector<PreparedMedia>& media, const TokenLayout& layout, int64_t side) {
  std::vector<std::string> jpegs;
  if (std::any_of(media.begin(), media.end(), [](const auto& one) { return one.source == nullptr; })) return jpegs;
  Frames from;
  std::vector<uint8_t> rgb;
  for (const SliceFrame& one : SliceFrames(media, layout)) {
    media[static_cast<size_t>(one.item)].source->Read(one.frame, 1, &from);
    const double scale =
        std::min(1.0, static_cast<double>(side) / static_cast<double>(std::max(from.height, from.width)));
    const auto scaled = [&](int64_t length) {
      return std::max<int64_t>(1, std::llround(static_cast<double>(length) * scale));
    };
    const int64_t height = scaled(from.height), width = scaled(from.width);
    rgb.resize(static_cast<size_t>(height * width * 3));
    Shrink(from.rgb.data(), from.height, from.width, rgb.data(), height, width, width * 3);
    jpegs.push_back(EncodeJpeg(rgb, height, width, kQuality));
  }
  return jpegs;
}

}  // namespace purekv
