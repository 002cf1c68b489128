// GIF, of an animation the first frame. FFmpeg's decoder gives colours; this file hands it that frame alone, without
// what FFmpeg and Pillow treat differently: transparency (its colour is kept: image.cc) and the canvas around the
// frame.
#include <algorithm>
#include <array>
#include <vector>

#include "base/error.h"
#include "media/image_formats.h"

namespace purekv {
namespace {

using Bytes = std::span<const std::byte>;

constexpr size_t kScreenBytes = 13;  // signature and logical screen
constexpr size_t kImageBytes = 10;   // separator and image descriptor

class Reader {
 public:
  Reader(Bytes bytes, const std::string& path) : bytes_(bytes), path_(path) {}

  uint8_t Byte(size_t at) const {
    if (at >= bytes_.size()) Fail(path_, ": a truncated GIF");
    return std::to_integer<uint8_t>(bytes_[at]);
  }
  int64_t Short(size_t at) const { return Byte(at) | Byte(at + 1) << 8; }
  // Behind data of blocks, each with its length before it, up to one of length 0.
  size_t SkipBlocks(size_t at) const {
    while (const size_t length = Byte(at)) at += 1 + length;
    return at + 1;
  }
  // Bytes of a palette whose flags these are.
  static size_t PaletteBytes(uint8_t flags) { return (flags & 0x80) == 0 ? 0 : size_t{3} << ((flags & 7) + 1); }

 private:
  Bytes bytes_;
  const std::string& path_;
};

}  // namespace

Frames DecodeGif(Bytes bytes, const std::string& path) {
  const Reader in(bytes, path);
  const size_t global = Reader::PaletteBytes(in.Byte(10));
  size_t at = kScreenBytes + global;
  size_t background = 0;  // Pillow's canvas holds colour 0, or the transparent one
  while (in.Byte(at) != ',') {
    if (in.Byte(at) == ';') Fail(path, ": no picture in this GIF");
    if (in.Byte(at) != '!') Fail(path, ": a damaged GIF: an unknown block at byte ", at);
    const bool control = in.Byte(at + 1) == 0xf9 && in.Byte(at + 2) >= 4;
    if (control && (in.Byte(at + 3) & 1) != 0) background = in.Byte(at + 6);
    at = in.SkipBlocks(at + 2);
  }
  const int64_t x = in.Short(at + 1);
  const int64_t y = in.Short(at + 3);
  const int64_t width = in.Short(at + 5);
  const int64_t height = in.Short(at + 7);
  CheckPictureSize(height, width, path);
  const size_t local = Reader::PaletteBytes(in.Byte(at + 9));
  if (global + local == 0) Fail(path, ": a GIF without colours");
  const size_t colours = local > 0 ? at + kImageBytes : kScreenBytes;
  const size_t end = in.SkipBlocks(at + kImageBytes + local + 1);
  // Pillow's canvas grows to what the frame needs.
  const int64_t canvas_height = std::max(in.Short(8), y + height);
  const int64_t canvas_width = std::max(in.Short(6), x + width);
  CheckPictureSize(canvas_height, canvas_width, path);

  // The frame as a picture of its own, at the origin of a screen of its size.
  const Bytes head = bytes.first(kScreenBytes + global);
  const Bytes image = bytes.subspan(at, end - at);
  std::vector<std::byte> alone(head.begin(), head.end());
  alone.insert(alone.end(), image.begin(), image.end());
  alone.push_back(std::byte{';'});
  std::copy_n(image.begin() + 5, 4, alone.begin() + 6);
  std::fill_n(alone.begin() + static_cast<std::ptrdiff_t>(head.size()) + 1, 4, std::byte{0});
  const FramePtr frame = DecodeStill(AV_CODEC_ID_GIF, alone, path);
  if (frame->width != width || frame->height != height) Fail(path, ": its GIF header lies about its size");
  Frames picture = ToRgb(*frame, Alpha::kDropped, path);
  if (canvas_height == height && canvas_width == width) return picture;

  std::array<uint8_t, 3> outside{};
  if (background * 3 < std::max(global, local)) {
    for (size_t c = 0; c < 3; ++c) outside[c] = in.Byte(colours + background * 3 + c);
  }
  Frames canvas = NewPicture(canvas_height, canvas_width, path);
  for (size_t i = 0; i < canvas.rgb.size(); ++i) canvas.rgb[i] = outside[i % 3];
  for (int64_t row = 0; row < height; ++row) {
    std::copy_n(picture.rgb.data() + row * width * 3, width * 3,
                canvas.rgb.data() + ((y + row) * canvas_width + x) * 3);
  }
  return canvas;
}

}  // namespace purekv
