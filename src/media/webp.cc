// WebP: FFmpeg decodes the bitstream (exact by specification); this file finds the first frame, and converts lossy
// pictures to RGB as libwebp, which Pillow uses, does: chroma smoothed in two roundings, fixed-point BT.601.
#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "media/image_formats.h"

namespace purekv {
namespace {

using Bytes = std::span<const std::byte>;

uint32_t Little(Bytes bytes, size_t at, size_t count) {
  uint32_t value = 0;
  for (size_t i = 0; i < count; ++i) value |= std::to_integer<uint32_t>(bytes[at + i]) << (8 * i);
  return value;
}

bool Is(Bytes tag, const char* name) {
  return std::memcmp(tag.data(), name, 4) == 0;
}

// What a file consists of, as far as the first frame needs.
struct Parts {
  Bytes alpha;    // ALPH chunk, header included; empty when there is none
  Bytes picture;  // VP8 or VP8L chunk, header included
  bool lossless = false;
  int64_t canvas_width = 0;  // 0: the picture's own size
  int64_t canvas_height = 0;
  int64_t x = 0;  // of the picture on the canvas
  int64_t y = 0;
};

void Collect(Bytes bytes, Parts* parts, const std::string& path) {
  size_t at = 0;
  while (bytes.size() - at >= 8 && parts->picture.empty()) {
    const Bytes tag = bytes.subspan(at, 4);
    const uint64_t size = Little(bytes, at + 4, 4);
    if (size > bytes.size() - at - 8) Fail(path, ": a truncated WebP");
    const Bytes chunk = bytes.subspan(at, static_cast<size_t>(8 + size));
    const Bytes body = chunk.subspan(8);
    if (Is(tag, "VP8 ") || Is(tag, "VP8L")) {
      parts->picture = chunk;
      parts->lossless = Is(tag, "VP8L");
    } else if (Is(tag, "ALPH")) {
      parts->alpha = chunk;
    } else if (Is(tag, "VP8X") && body.size() >= 10) {
      parts->canvas_width = Little(body, 4, 3) + 1;
      parts->canvas_height = Little(body, 7, 3) + 1;
    } else if (Is(tag, "ANMF") && body.size() >= 16) {
      parts->x = 2 * int64_t{Little(body, 0, 3)};
      parts->y = 2 * int64_t{Little(body, 3, 3)};
      Collect(body.subspan(16), parts, path);
    }
    at += static_cast<size_t>(std::min<uint64_t>(8 + size + size % 2, bytes.size() - at));
  }
}

// A file of one frame: RIFF header, VP8X when there is alpha beside the picture, the chunks.
std::vector<std::byte> Simple(const Parts& parts) {
  std::vector<std::byte> file;
  const auto put = [&](Bytes bytes) {
    file.insert(file.end(), bytes.begin(), bytes.end());
    if (bytes.size() % 2 != 0) file.push_back(std::byte{0});
  };
  const auto put_text = [&](const char* text, size_t size) { put(std::as_bytes(std::span(text, size))); };
  put_text("RIFF\0\0\0\0WEBP", 12);
  if (!parts.alpha.empty() && !parts.lossless) {
    // The key frame's size lies after its frame tag and start code.
    const Bytes body = parts.picture.subspan(8);
    const uint32_t width = (Little(body, 6, 2) & 0x3fff) - 1;
    const uint32_t height = (Little(body, 8, 2) & 0x3fff) - 1;
    char header[18] = {'V', 'P', '8', 'X', 10, 0, 0, 0, 0x10};
    for (size_t i = 0; i < 3; ++i) {
      header[12 + i] = static_cast<char>(width >> (8 * i));
      header[15 + i] = static_cast<char>(height >> (8 * i));
    }
    put_text(header, sizeof(header));
    put(parts.alpha);
  }
  put(parts.picture);
  const uint64_t size = file.size() - 8;
  for (size_t i = 0; i < 4; ++i) file[4 + i] = static_cast<std::byte>(size >> (8 * i));
  return file;
}

uint8_t Clip(int value) {
  return static_cast<uint8_t>(std::clamp(value >> 6, 0, 255));
}
int High(int value, int factor) {
  return (value * factor) >> 8;
}

void ToRgb(int y, int u, int v, uint8_t* rgb) {
  rgb[0] = Clip(High(y, 19077) + High(v, 26149) - 14234);
  rgb[1] = Clip(High(y, 19077) - High(u, 6419) - High(v, 13320) + 8708);
  rgb[2] = Clip(High(y, 19077) + High(u, 33050) - 17685);
}

// Chroma of one luma pixel: nine parts of the nearest sample, three of each neighbour, one of the diagonal one, as
// libwebp rounds it; at the border in x it mixes two samples only.
int Chroma(const uint8_t* near_row, const uint8_t* far_row, int64_t x, int64_t width) {
  const int64_t near = x / 2;
  const int64_t far = x % 2 == 0 ? near - 1 : near + 1;
  if (far < 0 || far >= (width + 1) / 2) return (3 * near_row[near] + far_row[near] + 2) >> 2;
  const int sum = near_row[near] + near_row[far] + far_row[near] + far_row[far] + 8;
  const int diagonal = (sum + 2 * (near_row[far] + far_row[near])) >> 3;
  return (diagonal + near_row[near]) >> 1;
}

}  // namespace

Frames DecodeWebp(std::span<const std::byte> bytes, const std::string& path) {
  Parts parts;
  Collect(bytes.subspan(12), &parts, path);
  if (parts.picture.empty()) Fail(path, ": no picture in this WebP");
  const Bytes body = parts.picture.subspan(8);
  if (body.size() < 10) Fail(path, ": a truncated WebP");
  int64_t width = 0;
  int64_t height = 0;
  bool has_alpha = !parts.alpha.empty();
  if (parts.lossless) {
    const uint32_t bits = Little(body, 1, 4);
    width = (bits & 0x3fff) + 1;
    height = (bits >> 14 & 0x3fff) + 1;
    has_alpha = (bits >> 28 & 1) != 0;
  } else {
    width = Little(body, 6, 2) & 0x3fff;
    height = Little(body, 8, 2) & 0x3fff;
  }
  CheckPictureSize(height, width, path);
  const int64_t canvas_width = parts.canvas_width != 0 ? parts.canvas_width : width;
  const int64_t canvas_height = parts.canvas_height != 0 ? parts.canvas_height : height;
  Frames frames = NewPicture(canvas_height, canvas_width, path);
  if (parts.x + width > canvas_width || parts.y + height > canvas_height) {
    Fail(path, ": a WebP whose picture does not lie within its canvas");
  }
  const FramePtr frame = DecodeStill(AV_CODEC_ID_WEBP, Simple(parts), path);
  if (frame->width != width || frame->height != height) Fail(path, ": its WebP header lies about its size");

  std::fill(frames.rgb.begin(), frames.rgb.end(), uint8_t{255});  // the canvas outside the picture is transparent
  const auto plane = [&](int index, int64_t y) { return frame->data[index] + y * frame->linesize[index]; };
  for (int64_t y = 0; y < height; ++y) {
    uint8_t* to = frames.rgb.data() + ((parts.y + y) * canvas_width + parts.x) * 3;
    const int64_t near = y / 2;
    const int64_t wanted = y % 2 == 0 ? near - 1 : near + 1;
    const int64_t far = wanted < 0 || wanted >= (height + 1) / 2 ? near : wanted;
    for (int64_t x = 0; x < width; ++x, to += 3) {
      uint32_t alpha = 255;
      if (frame->format == AV_PIX_FMT_ARGB) {
        const uint8_t* pixel = plane(0, y) + x * 4;
        alpha = pixel[0];
        std::copy_n(pixel + 1, 3, to);
      } else if (frame->format == AV_PIX_FMT_YUV420P || frame->format == AV_PIX_FMT_YUVA420P) {
        ToRgb(plane(0, y)[x], Chroma(plane(1, near), plane(1, far), x, width),
              Chroma(plane(2, near), plane(2, far), x, width), to);
        if (frame->format == AV_PIX_FMT_YUVA420P) alpha = plane(3, y)[x];
      } else {
        Fail(path, ": a WebP of an unknown pixel format");
      }
      if (has_alpha) {
        for (int c = 0; c < 3; ++c) to[c] = OnWhite(to[c], alpha);
      }
    }
  }
  return frames;
}

}  // namespace purekv
