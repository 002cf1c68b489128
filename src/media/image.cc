// Which decoder a picture goes to.
//
// Equal to qwen-vl-utils (Pillow) on purpose where one might expect otherwise: an EXIF orientation is not applied; of
// transparent pictures only those with a full alpha channel in colour are laid on white, transparency of palettes, of
// single colours and of 8-bit grey pictures is dropped.
#include <algorithm>
#include <cstring>
#include <string_view>

#include "base/error.h"
#include "base/file.h"
#include "media/image_formats.h"
#include "media/video.h"

namespace purekv {
namespace {

bool StartsWith(std::span<const std::byte> bytes, std::string_view magic, size_t at = 0) {
  return bytes.size() >= at + magic.size() && std::memcmp(bytes.data() + at, magic.data(), magic.size()) == 0;
}

// "ftyp" names one brand that the file is, and those that it can be read as.
PictureFormat SniffBrands(std::span<const std::byte> bytes) {
  const auto has = [&](std::string_view brand) {
    const size_t end = std::min<size_t>(bytes.size(), std::to_integer<size_t>(bytes[3]));
    for (size_t at = 8; at + 4 <= end; at += 4) {
      if (at != 12 && StartsWith(bytes, brand, at)) return true;
    }
    return false;
  };
  if (has("avif")) return PictureFormat::kAvif;
  for (const std::string_view brand : {"heic", "heix", "heim", "heis", "mif1"}) {
    if (has(brand)) return PictureFormat::kHeic;
  }
  return PictureFormat::kNone;
}

bool IsWhite(std::byte value) {
  return value == std::byte{' '} || value == std::byte{'\n'} || value == std::byte{'\r'} || value == std::byte{'\t'};
}

// What is told of a file that is none of them.
Message WhatElse(std::span<const std::byte> bytes) {
  if (StartsWith(bytes, "\x93NUMPY"))
    return Say("an array of frames, not a picture; read it as frames (", Field{"media.kind.frames"}, ")");
  const bool video = StartsWith(bytes, "ftyp", 4) || StartsWith(bytes, "\x1a\x45\xdf\xa3") ||
                     (StartsWith(bytes, "RIFF") && StartsWith(bytes, "AVI ", 8)) || StartsWith(bytes, "OggS") ||
                     StartsWith(bytes, "FLV\x01") || StartsWith(bytes, std::string_view("\0\0\1\xba", 4)) ||
                     (StartsWith(bytes, "G") && StartsWith(bytes, "G", 188));
  if (video) return Say("a video, not a picture; read it as a video (", Field{"media.kind.video"}, ")");
  return Say("not a picture; ", kPictureFormats, " are read");
}

}  // namespace

PictureFormat SniffPicture(std::span<const std::byte> bytes) {
  using Format = PictureFormat;
  struct Magic {
    std::string_view text;
    Format format;
  };
  static constexpr Magic kMagics[] = {
      {"\xff\xd8\xff", Format::kJpeg},
      {"\x89PNG\r\n\x1a\n", Format::kPng},
      {"GIF87a", Format::kGif},
      {"GIF89a", Format::kGif},
      {std::string_view("II*\0", 4), Format::kTiff},
      {std::string_view("MM\0*", 4), Format::kTiff},
      {std::string_view("\0\0\0\x0cjP  \r\n\x87\n", 12), Format::kJpeg2000},
      {std::string_view("\xff\x4f\xff\x51\0", 5), Format::kJpeg2000},
      {"\xff\x0a", Format::kJpegXl},
      {std::string_view("\0\0\0\x0cJXL \r\n\x87\n", 12), Format::kJpegXl},
  };
  for (const Magic& magic : kMagics) {
    if (StartsWith(bytes, magic.text)) return magic.format;
  }
  if (StartsWith(bytes, "RIFF") && StartsWith(bytes, "WEBP", 8)) return Format::kWebp;
  if (StartsWith(bytes, "ftyp", 4)) return SniffBrands(bytes);
  // Two letters are little: the header's own size must fit as well.
  if (StartsWith(bytes, "BM") && bytes.size() >= 18 && StartsWith(bytes, std::string_view("\0\0\0", 3), 15)) {
    return Format::kBmp;
  }
  if (StartsWith(bytes, "P") && bytes.size() >= 3 && bytes[1] >= std::byte{'1'} && bytes[1] <= std::byte{'7'} &&
      IsWhite(bytes[2])) {
    return Format::kPnm;
  }
  constexpr std::string_view kTargaEnd("TRUEVISION-XFILE.\0", 18);
  if (bytes.size() > kTargaEnd.size() && StartsWith(bytes, kTargaEnd, bytes.size() - kTargaEnd.size())) {
    return Format::kTarga;
  }
  return Format::kNone;
}

const char* PictureName(PictureFormat format) {
  switch (format) {
    case PictureFormat::kNone:
      break;
    case PictureFormat::kJpeg:
      return "JPEG";
    case PictureFormat::kPng:
      return "PNG";
    case PictureFormat::kWebp:
      return "WebP";
    case PictureFormat::kGif:
      return "GIF";
    case PictureFormat::kBmp:
      return "BMP";
    case PictureFormat::kTiff:
      return "TIFF";
    case PictureFormat::kPnm:
      return "PNM";
    case PictureFormat::kTarga:
      return "TGA";
    case PictureFormat::kJpeg2000:
      return "JPEG 2000";
    case PictureFormat::kJpegXl:
      return "JPEG XL";
    case PictureFormat::kAvif:
      return "AVIF";
    case PictureFormat::kHeic:
      return "HEIC";
  }
  return "?";
}

Frames NewPicture(int64_t height, int64_t width, const std::string& path) {
  CheckPictureSize(height, width, path);
  Frames frames{1, height, width, {}};
  frames.rgb.resize(static_cast<size_t>(height * width * 3));
  return frames;
}

Frames ReadImage(const std::string& path) {
  const MappedFile file(path);
  const std::span<const std::byte> bytes = file.bytes();
  const PictureFormat format = SniffPicture(bytes);
  switch (format) {
    case PictureFormat::kNone:
      Fail(path, ": ", WhatElse(bytes));
    case PictureFormat::kJpeg:
      return DecodeJpeg(bytes, path);
    case PictureFormat::kPng:
      return DecodePng(bytes, path);
    case PictureFormat::kWebp:
      return DecodeWebp(bytes, path);
    case PictureFormat::kGif:
      return DecodeGif(bytes, path);
    case PictureFormat::kTiff:
      return DecodeTiff(bytes, path);
    case PictureFormat::kBmp:
    case PictureFormat::kPnm:
    case PictureFormat::kTarga:
    case PictureFormat::kJpeg2000:
      return DecodePlain(format, bytes, path);
    case PictureFormat::kAvif:
      return DecodeAvif(path);
    case PictureFormat::kJpegXl:
    case PictureFormat::kHeic:
      break;
  }
  // libjxl writes complaints about damaged files to stderr itself, past every log setting; FFmpeg before version 7 does
  // not read the tiles that HEIC pictures consist of.
  Fail(path, ": a ", PictureName(format), " picture, which is not supported; ", kPictureFormats, " are");
}

}  // namespace purekv
