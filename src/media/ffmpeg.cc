#include "media/ffmpeg.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "media/decode_limits.h"

namespace purekv {

namespace {

constexpr int64_t kRowAlignment = 64;

// An enum of FFmpeg's as the number that it is: files bring values that the enum does not have (a colour matrix of
// 198), and loading one of those as the enum is undefined.
template <class Enum>
int NumberOf(const Enum& value) {
  static_assert(sizeof(Enum) == sizeof(int));
  int number = 0;
  std::memcpy(&number, &value, sizeof(number));
  return number;
}

}  // namespace

void SilenceFfmpeg() {
  av_log_set_level(AV_LOG_QUIET);
}

std::string FfmpegError(int code) {
  char text[AV_ERROR_MAX_STRING_SIZE] = {};
  av_strerror(code, text, sizeof(text));
  return text;
}

void CheckPictureSize(int64_t height, int64_t width, const std::string& path) {
  if (height < 1 || width < 1) Fail(path, ": pictures of ", width, " x ", height, " pixels");
  const int64_t most = LimitsOfDecoding().picture_pixels;
  if (height > kMaxSide || width > kMaxSide || height * width > most) {
    throw OverLimit(Say(path, ": pictures of ", width, " x ", height, " pixels; at most ", kMaxSide, " a side and ",
                        most, " in all are supported"));
  }
}

FramePtr NewFrame() {
  FramePtr frame(av_frame_alloc());
  if (!frame) Fail("memory: cannot allocate a frame");
  return frame;
}

PacketPtr NewPacket() {
  PacketPtr packet(av_packet_alloc());
  if (!packet) Fail("memory: cannot allocate a packet");
  return packet;
}

CodecPtr OpenDecoder(AVCodecID id, const AVCodecParameters* parameters, int threads, const std::string& path) {
  // libjxl writes complaints about damaged files to stderr itself, past every log setting: errors would not be one
  // line.
  if (id == AV_CODEC_ID_JPEGXL) Fail(path, ": JPEG XL is not supported");
  const AVCodec* codec = avcodec_find_decoder(id);
  if (codec == nullptr) Fail(path, ": no decoder for its codec '", avcodec_get_name(id), "' in this FFmpeg");
  CodecPtr context(avcodec_alloc_context3(codec));
  if (!context) Fail("memory: cannot allocate a decoder");
  if (parameters != nullptr) {
    const int code = avcodec_parameters_to_context(context.get(), parameters);
    if (code < 0) Fail(path, ": bad codec parameters: ", FfmpegError(code));
  }
  context->thread_count = threads;
  // FFmpeg counts the pixels of rows as it aligns them.
  context->max_pixels = std::min(kMaxPixels, LimitsOfDecoding().picture_pixels + kMaxSide * kRowAlignment);
  const int code = avcodec_open2(context.get(), codec, nullptr);
  if (code < 0) Fail(path, ": cannot decode '", avcodec_get_name(id), "': ", FfmpegError(code));
  return context;
}

Orientation OrientationOf(const int32_t* matrix) {
  // (x, y) goes to (a x + c y, b x + d y).
  const int64_t a = matrix[0];
  const int64_t b = matrix[1];
  const int64_t c = matrix[3];
  const int64_t d = matrix[4];
  const auto small = [](int64_t value, int64_t beside) { return std::abs(value) * 256 < std::abs(beside); };
  Orientation orientation;
  if (a != 0 && d != 0 && small(b, a) && small(c, d)) {
    orientation.mirror_x = a < 0;
    orientation.mirror_y = d < 0;
  } else if (b != 0 && c != 0 && small(a, b) && small(d, c)) {
    orientation.transpose = true;
    orientation.mirror_x = c < 0;
    orientation.mirror_y = b < 0;
  }
  return orientation;
}

void Turn(const Orientation& orientation, const RgbPicture& in, RgbPicture* out) {
  out->height = orientation.transpose ? in.width : in.height;
  out->width = orientation.transpose ? in.height : in.width;
  out->stride = out->width * 3;
  out->bytes.resize(static_cast<size_t>(out->height * out->stride));
  // Source step for one pixel to the right and one down.
  int64_t right = orientation.transpose ? in.stride : 3;
  int64_t down = orientation.transpose ? 3 : in.stride;
  const uint8_t* origin = in.bytes.data();
  if (orientation.mirror_x) {
    origin += (out->width - 1) * right;
    right = -right;
  }
  if (orientation.mirror_y) {
    origin += (out->height - 1) * down;
    down = -down;
  }
  for (int64_t y = 0; y < out->height; ++y) {
    const uint8_t* from = origin + y * down;
    uint8_t* to = out->bytes.data() + y * out->stride;
    for (int64_t x = 0; x < out->width; ++x, from += right, to += 3) std::memcpy(to, from, 3);
  }
}

void RgbConverter::Convert(const AVFrame& frame, RgbPicture* out, const std::string& path) {
  CheckPictureSize(frame.height, frame.width, path);
  const int matrix = NumberOf(frame.colorspace);
  const int range = NumberOf(frame.color_range);
  const int key[5] = {frame.width, frame.height, frame.format, matrix, range};
  if (!context_ || std::memcmp(key, key_, sizeof(key)) != 0) {
    const auto format = static_cast<AVPixelFormat>(frame.format);
    context_.reset(sws_getContext(frame.width, frame.height, format, frame.width, frame.height, AV_PIX_FMT_RGB24,
                                  flags_, nullptr, nullptr, nullptr));
    if (!context_) {
      const char* name = av_get_pix_fmt_name(format);
      Fail(path, ": cannot convert its pixel format '", name != nullptr ? name : "?", "' to RGB");
    }
    int* inverse = nullptr;
    int* table = nullptr;
    int from_range = 0;
    int to_range = 0;
    int brightness = 0;
    int contrast = 0;
    int saturation = 0;
    if (sws_getColorspaceDetails(context_.get(), &inverse, &from_range, &table, &to_range, &brightness, &contrast,
                                 &saturation) >= 0) {
      // Unspecified is 2 in the enum and falls to the default in sws_getCoefficients, as does everything it does not
      // know.
      if (range != AVCOL_RANGE_UNSPECIFIED) from_range = range == AVCOL_RANGE_JPEG ? 1 : 0;
      sws_setColorspaceDetails(context_.get(), sws_getCoefficients(matrix), from_range, table, to_range, brightness,
                               contrast, saturation);
    }
    std::memcpy(key_, key, sizeof(key));
  }
  // The vector code writes whole blocks of pixels: rows get room for them, and the last one a margin.
  out->height = frame.height;
  out->width = frame.width;
  out->stride = (int64_t{frame.width} * 3 + 63) / 64 * 64 + 64;
  out->bytes.resize(static_cast<size_t>(out->height * out->stride));
  uint8_t* const to[4] = {out->bytes.data(), nullptr, nullptr, nullptr};
  const int strides[4] = {static_cast<int>(out->stride), 0, 0, 0};
  const int rows = sws_scale(context_.get(), frame.data, frame.linesize, 0, frame.height, to, strides);
  if (rows != frame.height)
    Fail(path, ": converting a frame to RGB failed: ", rows < 0 ? FfmpegError(rows) : "rows missing");
}

}  // namespace purekv
