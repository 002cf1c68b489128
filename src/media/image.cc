// ReadImage: which decoder, and PNG.
//
// Equal to qwen-vl-utils (Pillow) on purpose where one might expect otherwise: an EXIF orientation is not applied; of
// transparent pictures only those with a full alpha channel in colour are laid on white, transparency of palettes, of
// single colours and of 8-bit grey pictures is dropped.
#include <algorithm>
#include <array>
#include <cstring>

#include "base/error.h"
#include "base/file.h"
#include "media/image_formats.h"
#include "media/video.h"

namespace purekv {
namespace {

constexpr size_t kPngHeaderBytes = 33;  // signature and IHDR

uint32_t BigEndian32(const uint8_t* p) {
  return uint32_t{p[0]} << 24 | uint32_t{p[1]} << 16 | uint32_t{p[2]} << 8 | uint32_t{p[3]};
}

bool StartsWith(std::span<const std::byte> bytes, std::string_view magic) {
  return bytes.size() >= magic.size() && std::memcmp(bytes.data(), magic.data(), magic.size()) == 0;
}

}  // namespace

Frames NewPicture(int64_t height, int64_t width, const std::string& path) {
  CheckPictureSize(height, width, path);
  Frames frames{1, height, width, {}};
  frames.rgb.resize(static_cast<size_t>(height * width * 3));
  return frames;
}

FramePtr DecodeStill(AVCodecID id, std::span<const std::byte> bytes, const std::string& path) {
  SilenceFfmpeg();
  const CodecPtr decoder = OpenDecoder(id, nullptr, 1, path);
  // A damaged picture is an error here, as it is for Pillow; in a video one bad frame is not.
  decoder->err_recognition = AV_EF_CRCCHECK | AV_EF_BITSTREAM | AV_EF_BUFFER | AV_EF_EXPLODE;
  const PacketPtr packet = NewPacket();
  if (bytes.size() > INT32_MAX - AV_INPUT_BUFFER_PADDING_SIZE ||
      av_new_packet(packet.get(), static_cast<int>(bytes.size())) < 0) {
    Fail(path, ": a picture of ", bytes.size(), " bytes is too large");
  }
  std::memcpy(packet->data, bytes.data(), bytes.size());
  FramePtr frame = NewFrame();
  int code = avcodec_send_packet(decoder.get(), packet.get());
  if (code >= 0) code = avcodec_send_packet(decoder.get(), nullptr);
  if (code >= 0) code = avcodec_receive_frame(decoder.get(), frame.get());
  if (code < 0) {
    Fail(path, ": cannot decode this '", avcodec_get_name(id),
         "' picture: ", code == AVERROR_EOF ? "no picture in it" : FfmpegError(code));
  }
  return frame;
}

Frames DecodePng(std::span<const std::byte> bytes, const std::string& path) {
  if (bytes.size() < kPngHeaderBytes) Fail(path, ": a truncated PNG");
  const auto* data = reinterpret_cast<const uint8_t*>(bytes.data());
  const int64_t width = BigEndian32(data + 16);
  const int64_t height = BigEndian32(data + 20);
  // Colour type 6, colour with alpha; 16-bit grey with alpha (type 4) Pillow opens as such too, 8-bit grey with alpha
  // not.
  const bool has_alpha = data[25] == 6 || (data[25] == 4 && data[24] == 16);
  Frames frames = NewPicture(height, width, path);
  // FFmpeg returns what there is of a file that breaks off; the closing chunk tells.
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (text.rfind("IEND") == std::string_view::npos) Fail(path, ": a truncated PNG");
  const FramePtr frame = DecodeStill(AV_CODEC_ID_PNG, bytes, path);
  if (frame->width != width || frame->height != height) Fail(path, ": its PNG header lies about its size");

  // Of 16 bits the upper 8 count, as Pillow takes them of colour pictures. (Of 16-bit grey ones Pillow 13 makes min(x,
  // 255), which shows white; not followed.)
  struct Layout {
    AVPixelFormat format;
    int bytes;                   // of a pixel
    std::array<int, 3> channel;  // offsets of red, green, blue
    int alpha;                   // offset
  };
  static constexpr Layout kLayouts[] = {
      {AV_PIX_FMT_RGB24, 3, {0, 1, 2}, 0},    {AV_PIX_FMT_RGBA, 4, {0, 1, 2}, 3},
      {AV_PIX_FMT_GRAY8, 1, {0, 0, 0}, 0},    {AV_PIX_FMT_YA8, 2, {0, 0, 0}, 1},
      {AV_PIX_FMT_RGB48BE, 6, {0, 2, 4}, 0},  {AV_PIX_FMT_RGBA64BE, 8, {0, 2, 4}, 6},
      {AV_PIX_FMT_GRAY16BE, 2, {0, 0, 0}, 0}, {AV_PIX_FMT_YA16BE, 4, {0, 0, 0}, 2},
  };
  const auto* layout = std::find_if(std::begin(kLayouts), std::end(kLayouts),
                                    [&](const Layout& candidate) { return candidate.format == frame->format; });
  uint8_t* to = frames.rgb.data();
  for (int64_t y = 0; y < height; ++y) {
    const uint8_t* row = frame->data[0] + y * frame->linesize[0];
    for (int64_t x = 0; x < width; ++x, to += 3) {
      if (layout != std::end(kLayouts)) {
        const uint8_t* pixel = row + x * layout->bytes;
        for (size_t c = 0; c < 3; ++c) {
          to[c] = pixel[layout->channel[c]];
          if (has_alpha) to[c] = OnWhite(to[c], pixel[layout->alpha]);
        }
      } else if (frame->format == AV_PIX_FMT_PAL8) {
        uint32_t colour = 0;  // 0xAARRGGBB in the machine's byte order
        std::memcpy(&colour, frame->data[1] + row[x] * 4, sizeof(colour));
        for (int c = 0; c < 3; ++c) to[c] = static_cast<uint8_t>(colour >> (16 - 8 * c));
      } else if (frame->format == AV_PIX_FMT_MONOBLACK) {
        const bool white = (row[x / 8] >> (7 - x % 8) & 1) != 0;
        std::fill_n(to, 3, static_cast<uint8_t>(white ? 255 : 0));
      } else {
        Fail(path, ": a PNG of an unknown pixel format");
      }
    }
  }
  return frames;
}

Frames ReadImage(const std::string& path) {
  const MappedFile file(path);
  const std::span<const std::byte> bytes = file.bytes();
  if (StartsWith(bytes, "\xff\xd8\xff")) return DecodeJpeg(bytes, path);
  if (StartsWith(bytes, "\x89PNG\r\n\x1a\n")) return DecodePng(bytes, path);
  if (StartsWith(bytes, "RIFF") && bytes.size() >= 12 && std::memcmp(bytes.data() + 8, "WEBP", 4) == 0) {
    return DecodeWebp(bytes, path);
  }
  Fail(path, ": not a JPEG, PNG or WebP picture");
}

}  // namespace purekv
