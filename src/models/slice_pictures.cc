#include "models/slice_pictures.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "media/jpeg_writer.h"
#include "media/thumbnail.h"

namespace purekv {
namespace {

constexpr int kQuality = 70;

}  // namespace

std::vector<Slice> SlicesOf(const TokenLayout& layout) {
  std::map<std::pair<int32_t, int32_t>, Slice> slices;
  for (const TokenRecord& token : layout) {
    if (token.kind == TokenRecord::Kind::kText) continue;
    Slice& one = slices[{token.item, token.slice}];
    one.item = token.item;
    one.slice = token.slice;
    one.rows = std::max<int64_t>(one.rows, token.row + 1);
    one.columns = std::max<int64_t>(one.columns, token.column + 1);
  }
  std::vector<Slice> list;
  list.reserve(slices.size());
  for (const auto& [place, slice] : slices) list.push_back(slice);
  return list;
}

std::vector<SliceFrame> SliceFrames(const std::vector<PreparedMedia>& media, const TokenLayout& layout) {
  const std::vector<Slice> slices = SlicesOf(layout);
  std::map<int32_t, int64_t> count;  // by item: those that tokens know, whatever the tower's patches have
  for (const Slice& one : slices) count[one.item] = std::max<int64_t>(count[one.item], one.slice + 1);
  std::vector<SliceFrame> frames;
  for (const Slice& slice : slices) {
    const PreparedMedia& one = media.at(static_cast<size_t>(slice.item));
    const int64_t of_item = count.at(slice.item);
    const int64_t per_slice = (one.frames.count + of_item - 1) / of_item;
    // What a map of tiles covers is the image, which the first tile shows.
    frames.push_back({slice, one.mosaic ? 0 : std::min(slice.slice * per_slice, one.frames.count - 1)});
  }
  return frames;
}

std::vector<std::vector<std::string>> SliceJpegs(const std::vector<PreparedMedia>& media, const TokenLayout& layout,
                                                 int64_t side) {
  std::vector<std::vector<std::string>> jpegs(media.size());
  Frames from;
  std::vector<uint8_t> rgb;
  for (const SliceFrame& one : SliceFrames(media, layout)) {
    const auto& source = media[static_cast<size_t>(one.item)].source;
    if (source == nullptr) continue;
    source->Read(one.frame, 1, &from);
    const double scale =
        std::min(1.0, static_cast<double>(side) / static_cast<double>(std::max(from.height, from.width)));
    const auto scaled = [&](int64_t length) {
      return std::max<int64_t>(1, std::llround(static_cast<double>(length) * scale));
    };
    const int64_t height = scaled(from.height), width = scaled(from.width);
    rgb.resize(static_cast<size_t>(height * width * 3));
    Shrink(from.rgb.data(), from.height, from.width, rgb.data(), height, width, width * 3);
    jpegs[static_cast<size_t>(one.item)].push_back(EncodeJpeg(rgb, height, width, kQuality));
  }
  return jpegs;
}

}  // namespace purekv
