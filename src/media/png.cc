// PNG, and of an animated PNG the first frame: FFmpeg's decoder, lossless, so equal to Pillow.
#include <string_view>

#include "base/error.h"
#include "media/image_formats.h"

namespace purekv {
namespace {

constexpr size_t kHeaderBytes = 33;  // signature and IHDR

int64_t BigEndian32(const uint8_t* p) {
  return uint32_t{p[0]} << 24 | uint32_t{p[1]} << 16 | uint32_t{p[2]} << 8 | uint32_t{p[3]};
}

}  // namespace

Frames DecodePng(std::span<const std::byte> bytes, const std::string& path) {
  if (bytes.size() < kHeaderBytes) Fail(path, ": a truncated PNG");
  const auto* data = reinterpret_cast<const uint8_t*>(bytes.data());
  const int64_t width = BigEndian32(data + 16);
  const int64_t height = BigEndian32(data + 20);
  CheckPictureSize(height, width, path);
  // FFmpeg returns what there is of a file that breaks off; the closing chunk tells.
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (text.rfind("IEND") == std::string_view::npos) Fail(path, ": a truncated PNG");
  const FramePtr frame = DecodeStill(AV_CODEC_ID_PNG, bytes, path);
  if (frame->width != width || frame->height != height) Fail(path, ": its PNG header lies about its size");
  // Colour type 6, colour with alpha; 16-bit grey with alpha (type 4) Pillow opens as such too, 8-bit grey with alpha
  // not. (Of 16-bit grey pictures Pillow 13 makes min(x, 255), which shows white; not followed.)
  const bool has_alpha = data[25] == 6 || (data[25] == 4 && data[24] == 16);
  return ToRgb(*frame, has_alpha ? Alpha::kOnWhite : Alpha::kDropped, path);
}

}  // namespace purekv
