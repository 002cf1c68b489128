// Formats that FFmpeg's decoders read as they come: BMP, TIFF, PNM (PBM, PGM, PPM, PAM), TGA, JPEG 2000, AVIF.
#include <algorithm>
#include <cstring>
#include <string_view>

#include "base/error.h"
#include "media/demux.h"
#include "media/image_formats.h"

namespace purekv {
namespace {

constexpr int64_t kExtraSamples = 338;  // TIFF's tag for what a fourth channel means

AVCodecID CodecOf(PictureFormat format, std::span<const std::byte> bytes) {
  if (format == PictureFormat::kBmp) return AV_CODEC_ID_BMP;
  if (format == PictureFormat::kTarga) return AV_CODEC_ID_TARGA;
  if (format == PictureFormat::kJpeg2000) return AV_CODEC_ID_JPEG2000;
  switch (std::to_integer<char>(bytes[1])) {
    case '1':
    case '4':
      return AV_CODEC_ID_PBM;
    case '2':
    case '5':
      return AV_CODEC_ID_PGM;
    case '7':
      return AV_CODEC_ID_PAM;
    default:
      return AV_CODEC_ID_PPM;
  }
}

// The first value of a tag in the first directory; -1: none.
int64_t TiffTag(std::span<const std::byte> bytes, int64_t tag) {
  const bool big = bytes[0] == std::byte{'M'};
  const auto number = [&](size_t at, size_t count) {
    int64_t value = 0;
    for (size_t i = 0; i < count && at + count <= bytes.size(); ++i) {
      value = value << 8 | std::to_integer<int64_t>(bytes[big ? at + i : at + count - 1 - i]);
    }
    return value;
  };
  const auto directory = static_cast<size_t>(number(4, 4));
  const int64_t entries = number(directory, 2);
  for (int64_t i = 0; i < entries; ++i) {
    const size_t at = directory + 2 + 12 * static_cast<size_t>(i);
    if (at + 12 > bytes.size()) return -1;
    if (number(at, 2) == tag) return number(at + 4, 4) > 0 ? number(at + 8, 2) : -1;
  }
  return -1;
}

// Pillow takes the fourth byte for transparency only where the header has a mask for it; FFmpeg always.
bool BmpHasAlpha(std::span<const std::byte> bytes) {
  constexpr size_t kHeaderSize = 14;
  constexpr size_t kCompression = 30;
  constexpr size_t kAlphaMask = 66;
  if (bytes.size() < kAlphaMask + 4 || bytes[kCompression] != std::byte{3}) return false;
  const bool has_mask = bytes[kHeaderSize] >= std::byte{56} || bytes[kHeaderSize + 1] != std::byte{0};
  return has_mask && std::any_of(bytes.begin() + kAlphaMask, bytes.begin() + kAlphaMask + 4,
                                 [](std::byte mask) { return mask != std::byte{0}; });
}

bool Contains(std::span<const std::byte> bytes, std::string_view text) {
  const std::string_view all(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  return all.find(text) != std::string_view::npos;
}

}  // namespace

Frames DecodePlain(PictureFormat format, std::span<const std::byte> bytes, const std::string& path) {
  const FramePtr frame = DecodeStill(CodecOf(format, bytes), bytes, path);
  const bool opaque = format == PictureFormat::kBmp && !BmpHasAlpha(bytes);
  return ToRgb(*frame, opaque ? Alpha::kDropped : Alpha::kOnWhite, path);
}

Frames DecodeTiff(std::span<const std::byte> bytes, const std::string& path) {
  const FramePtr frame = DecodeStill(AV_CODEC_ID_TIFF, bytes, path);
  // 1: colours are multiplied by it, 2: they are not; else nobody says that the fourth channel is transparency.
  const int64_t meaning = TiffTag(bytes, kExtraSamples);
  return ToRgb(*frame, meaning == 1 ? Alpha::kMultiplied : meaning == 2 ? Alpha::kOnWhite : Alpha::kDropped, path);
}

Frames DecodeAvif(const std::string& path) {
  Demuxer demuxer(path, "AVIF picture");
  const AVCodecParameters& parameters = *demuxer.stream()->codecpar;
  CheckPictureSize(parameters.height, parameters.width, path);
  // The transparency is a picture of its own, which FFmpeg 5 does not hand out.
  std::vector<uint8_t> head(static_cast<size_t>(std::min<int64_t>(demuxer.size(), 1 << 16)));
  head.resize(demuxer.ReadAt(0, head));
  if (Contains(std::as_bytes(std::span(head)), "urn:mpeg:mpegB:cicp:systems:auxiliary:alpha")) {
    Fail(path, ": an AVIF picture with transparency, which is not supported; PNG and WebP pictures with it are");
  }
  const PacketPtr packet = NewPacket();
  if (!demuxer.Next(packet.get())) Fail(path, ": no picture in this AVIF");
  const CodecPtr decoder = OpenStillDecoder(parameters.codec_id, &parameters, path);
  const FramePtr frame = DecodePacket(decoder.get(), packet.get(), path);
  return ToRgb(*frame, Alpha::kDropped, path);
}

}  // namespace purekv
