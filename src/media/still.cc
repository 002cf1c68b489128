// One still picture through an FFmpeg decoder, and a decoded picture to RGB.
#include <algorithm>
#include <array>
#include <cstring>

#include "base/error.h"
#include "media/image_formats.h"

namespace purekv {
namespace {

constexpr int kMebi = 20;

// As FFmpeg stores a picture of these dimensions.
int64_t DecodedBytes(int width, int height, AVPixelFormat format) {
  return av_image_get_buffer_size(format, width, height, 1);
}

// Asked for the memory of a picture: the size in the header was within limits, but 16 bits a channel double it.
int GetBuffer(AVCodecContext* context, AVFrame* frame, int flags) {
  const int64_t bytes = DecodedBytes(frame->width, frame->height, static_cast<AVPixelFormat>(frame->format));
  if (bytes > kMaxDecodedBytes) {
    *static_cast<int64_t*>(context->opaque) = bytes;
    return AVERROR(ENOMEM);
  }
  return avcodec_default_get_buffer2(context, frame, flags);
}

// One channel of a picture: where its values lie, and how they become 8 bits.
struct Channel {
  const uint8_t* data = nullptr;
  int64_t stride = 0;
  int step = 0;   // bytes from pixel to pixel
  int bytes = 1;  // of a value's word
  bool big_endian = false;
  int shift = 0;
  int depth = 8;

  Channel(const AVFrame& frame, const AVPixFmtDescriptor& format, int index) {
    const AVComponentDescriptor& part = format.comp[index];
    data = frame.data[part.plane] + part.offset;
    stride = frame.linesize[part.plane];
    step = part.step;
    shift = part.shift;
    depth = part.depth;
    bytes = depth + shift > 8 ? 2 : 1;
    big_endian = (format.flags & AV_PIX_FMT_FLAG_BE) != 0;
  }

  uint8_t At(int64_t x, int64_t y) const {
    const uint8_t* from = data + y * stride + x * step;
    if (depth == 8 && shift == 0) return *from;
    const int word = bytes == 1 ? *from : big_endian ? from[0] << 8 | from[1] : from[1] << 8 | from[0];
    const int value = word >> shift & ((1 << depth) - 1);
    // More than 8 bits: the upper 8 count, as Pillow takes them of colour pictures. Fewer: the largest is 255.
    return static_cast<uint8_t>(depth >= 8 ? value >> (depth - 8) : value * 255 / ((1 << depth) - 1));
  }
};

void CopyPalette(const AVFrame& frame, Frames* out) {
  uint8_t* to = out->rgb.data();
  for (int64_t y = 0; y < out->height; ++y) {
    const uint8_t* row = frame.data[0] + y * frame.linesize[0];
    for (int64_t x = 0; x < out->width; ++x, to += 3) {
      uint32_t colour = 0;  // 0xAARRGGBB in the machine's byte order
      std::memcpy(&colour, frame.data[1] + row[x] * 4, sizeof(colour));
      for (int c = 0; c < 3; ++c) to[c] = static_cast<uint8_t>(colour >> (16 - 8 * c));
    }
  }
}

void CopyBits(const AVFrame& frame, Frames* out) {
  const bool zero_is_white = frame.format == AV_PIX_FMT_MONOWHITE;
  uint8_t* to = out->rgb.data();
  for (int64_t y = 0; y < out->height; ++y) {
    const uint8_t* row = frame.data[0] + y * frame.linesize[0];
    for (int64_t x = 0; x < out->width; ++x, to += 3) {
      const bool one = (row[x / 8] >> (7 - x % 8) & 1) != 0;
      std::fill_n(to, 3, static_cast<uint8_t>(one != zero_is_white ? 255 : 0));
    }
  }
}

void CopyChannels(const AVFrame& frame, const AVPixFmtDescriptor& format, Alpha alpha, Frames* out) {
  const bool colour = format.nb_components >= 3;
  const std::array<Channel, 3> channels = {Channel(frame, format, 0), Channel(frame, format, colour ? 1 : 0),
                                           Channel(frame, format, colour ? 2 : 0)};
  const bool has_alpha = (format.flags & AV_PIX_FMT_FLAG_ALPHA) != 0 && alpha != Alpha::kDropped;
  const Channel transparency(frame, format, has_alpha ? format.nb_components - 1 : 0);
  uint8_t* to = out->rgb.data();
  for (int64_t y = 0; y < out->height; ++y) {
    for (int64_t x = 0; x < out->width; ++x, to += 3) {
      for (size_t c = 0; c < 3; ++c) to[c] = channels[c].At(x, y);
      if (!has_alpha) continue;
      const uint32_t opaque = transparency.At(x, y);
      for (size_t c = 0; c < 3; ++c) {
        to[c] = alpha == Alpha::kOnWhite ? OnWhite(to[c], opaque)
                                         : static_cast<uint8_t>(std::min<uint32_t>(255, to[c] + 255 - opaque));
      }
    }
  }
}

}  // namespace

CodecPtr OpenStillDecoder(AVCodecID id, const AVCodecParameters* parameters, const std::string& path) {
  SilenceFfmpeg();
  CodecPtr decoder = OpenDecoder(id, parameters, 1, path);
  // A damaged picture is an error here, as it is for Pillow; in a video one bad frame is not.
  decoder->err_recognition = AV_EF_CRCCHECK | AV_EF_BITSTREAM | AV_EF_BUFFER;
  // FFmpeg's TIFF decoder would take tags that it does not know for damage, the one for transparency among them.
  if (id != AV_CODEC_ID_TIFF) decoder->err_recognition |= AV_EF_EXPLODE;
  return decoder;
}

FramePtr DecodePacket(AVCodecContext* decoder, const AVPacket* packet, const std::string& path) {
  int64_t refused = 0;
  decoder->opaque = &refused;
  decoder->get_buffer2 = GetBuffer;
  FramePtr frame = NewFrame();
  int code = avcodec_send_packet(decoder, packet);
  if (code >= 0) code = avcodec_send_packet(decoder, nullptr);
  if (code >= 0) code = avcodec_receive_frame(decoder, frame.get());
  if (refused > 0) {
    Fail(path, ": takes ", refused >> kMebi, " MiB when decoded; pictures of at most ", kMaxDecodedBytes >> kMebi,
         " MiB are supported");
  }
  if (code < 0) {
    Fail(path, ": cannot decode this '", avcodec_get_name(decoder->codec_id),
         "' picture: ", code == AVERROR_EOF ? "no picture in it" : FfmpegError(code));
  }
  return frame;
}

FramePtr DecodeStill(AVCodecID id, std::span<const std::byte> bytes, const std::string& path) {
  const CodecPtr decoder = OpenStillDecoder(id, nullptr, path);
  const PacketPtr packet = NewPacket();
  if (bytes.size() > INT32_MAX - AV_INPUT_BUFFER_PADDING_SIZE ||
      av_new_packet(packet.get(), static_cast<int>(bytes.size())) < 0) {
    Fail(path, ": a picture of ", bytes.size(), " bytes is too large");
  }
  std::memcpy(packet->data, bytes.data(), bytes.size());
  return DecodePacket(decoder.get(), packet.get(), path);
}

Frames ToRgb(const AVFrame& frame, Alpha alpha, const std::string& path) {
  Frames out = NewPicture(frame.height, frame.width, path);
  const AVPixFmtDescriptor* format = av_pix_fmt_desc_get(static_cast<AVPixelFormat>(frame.format));
  if (format == nullptr) Fail(path, ": a picture of an unknown pixel format");
  const bool grey = format->nb_components <= 2;
  if ((format->flags & AV_PIX_FMT_FLAG_PAL) != 0) {
    CopyPalette(frame, &out);
  } else if (frame.format == AV_PIX_FMT_MONOBLACK || frame.format == AV_PIX_FMT_MONOWHITE) {
    CopyBits(frame, &out);
  } else if ((format->flags & (AV_PIX_FMT_FLAG_BITSTREAM | AV_PIX_FMT_FLAG_FLOAT | AV_PIX_FMT_FLAG_HWACCEL)) != 0) {
    Fail(path, ": cannot convert its pixel format '", format->name, "' to RGB");
  } else if ((format->flags & AV_PIX_FMT_FLAG_RGB) != 0 || (grey && frame.color_range != AVCOL_RANGE_MPEG)) {
    CopyChannels(frame, *format, alpha, &out);
  } else {
    RgbConverter converter(SWS_BILINEAR | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT | SWS_FULL_CHR_H_INP);
    RgbPicture picture;
    converter.Convert(frame, &picture, path);
    for (int64_t y = 0; y < out.height; ++y) {
      std::copy_n(picture.bytes.data() + y * picture.stride, out.width * 3, out.rgb.data() + y * out.width * 3);
    }
  }
  return out;
}

}  // namespace purekv
