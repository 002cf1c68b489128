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

enum class PictureFormat {
  kNone,
  kJpeg,
  kPng,
  kWebp,
  kGif,
  kBmp,
  kTiff,
  kPnm,
  kTarga,
  kJpeg2000,
  kAvif,
  kJpegXl,  // recognised, not read
  kHeic,    // recognised, not read
};

// For messages.
constexpr char kPictureFormats[] = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, JPEG 2000, PNM and TGA";
const char* PictureName(PictureFormat format);

// By the first bytes (TGA: the last ones), of a whole file or its beginning.
PictureFormat SniffPicture(std::span<const std::byte> bytes);

// What a fourth channel, or the second of a grey picture, does.
enum class Alpha {
  kDropped,
  kOnWhite,     // the picture is laid on white
  kMultiplied,  // the same, and colours are multiplied by it already
};

// libjpeg, bit-equal to Pillow with libjpeg-turbo's defaults (integer IDCT, smooth chroma).
Frames DecodeJpeg(std::span<const std::byte> bytes, const std::string& path);
// FFmpeg's decoders; lossless, so equal to Pillow. Of an animation the first frame.
Frames DecodePng(std::span<const std::byte> bytes, const std::string& path);
Frames DecodeGif(std::span<const std::byte> bytes, const std::string& path);
Frames DecodeTiff(std::span<const std::byte> bytes, const std::string& path);
// BMP, PNM, TGA, JPEG 2000.
Frames DecodePlain(PictureFormat format, std::span<const std::byte> bytes, const std::string& path);
// FFmpeg's decoder and libwebp's colour conversion. Of an animation the first frame.
Frames DecodeWebp(std::span<const std::byte> bytes, const std::string& path);
// FFmpeg's demuxer and AV1 decoder, and swscale's most accurate conversion: Pillow's libavif smooths chroma otherwise.
Frames DecodeAvif(const std::string& path);

// A decoder that takes damage for an error, for DecodePacket.
CodecPtr OpenStillDecoder(AVCodecID id, const AVCodecParameters* parameters, const std::string& path);
// The one picture of a packet. Throws Error when anything is wrong with it, or when it takes more than
// kMaxDecodedBytes.
FramePtr DecodePacket(AVCodecContext* decoder, const AVPacket* packet, const std::string& path);
// Both, of a file's bytes.
FramePtr DecodeStill(AVCodecID id, std::span<const std::byte> bytes, const std::string& path);

// A decoded picture as RGB: palettes, grey, and RGB of any depth and order as Pillow makes them, YUV by swscale.
Frames ToRgb(const AVFrame& frame, Alpha alpha, const std::string& path);

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
