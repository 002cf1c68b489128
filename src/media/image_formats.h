// One decoder per picture format, from the bytes of a file to RGB as Pillow and qwen-vl-utils make it. Internal to
// media/.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "media/ffmpeg.h"
#include "purekv/media.h"

namespace purekv {

// libjpeg, bit-equal to Pillow with libjpeg-turbo's defaults (integer IDCT, smooth chroma).
Frames DecodeJpeg(std::span<const std::byte> bytes, const std::string& path);
// FFmpeg's decoder; lossless, so equal to Pillow.
Frames DecodePng(std::span<const std::byte> bytes, const std::string& path);
// FFmpeg's decoder and libwebp's colour conversion. Of an animation the first frame.
Frames DecodeWebp(std::span<const std::byte> bytes, const std::string& path);

// Feeds one still picture to FFmpeg's decoder. Throws Error when anything is wrong with it.
FramePtr DecodeStill(AVCodecID id, std::span<const std::byte> bytes, const std::string& path);

// An empty picture of a checked size.
Frames NewPicture(int64_t height, int64_t width, const std::string& path);

// a * b / 255, rounded as Pillow's MULDIV255.
inline uint32_t MulDiv255(uint32_t a, uint32_t b) {
  const uint32_t product = a * b + 128;
  return ((product >> 8) + product) >> 8;
}

// A value of transparency `alpha` on white, as Pillow's paste with a mask.
inline uint8_t OnWhite(uint32_t value, uint32_t alpha) {
  const uint32_t sum = 255 * (255 - alpha) + value * alpha + 128;
  return static_cast<uint8_t>(((sum >> 8) + sum) >> 8);
}

}  // namespace purekv
