// The FFmpeg libraries in C++ clothes: owners that free, errors as text, silence on stderr. Internal to media/.
#pragma once

extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/display.h>
#include <libavutil/frame.h>
#include <libavutil/imgutils.h>
#include <libavutil/log.h>
#include <libavutil/pixdesc.h>
#include <libswscale/swscale.h>
}

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "media/decode_limits.h"

namespace purekv {

struct FreeFrame {
  void operator()(AVFrame* frame) const { av_frame_free(&frame); }
};
struct FreePacket {
  void operator()(AVPacket* packet) const { av_packet_free(&packet); }
};
struct FreeCodec {
  void operator()(AVCodecContext* context) const { avcodec_free_context(&context); }
};
struct FreeSws {
  void operator()(SwsContext* context) const { sws_freeContext(context); }
};
using FramePtr = std::unique_ptr<AVFrame, FreeFrame>;
using PacketPtr = std::unique_ptr<AVPacket, FreePacket>;
using CodecPtr = std::unique_ptr<AVCodecContext, FreeCodec>;
using SwsPtr = std::unique_ptr<SwsContext, FreeSws>;

constexpr int64_t kMaxSide = 16384;
// Of one still picture as FFmpeg decodes it, beside which the RGB bytes lie for a moment: kMaxPixels of 8-bit RGBA. Of
// 16 bits a channel half as many pixels are taken, else a file of a few KiB would make us hold 1.4 GiB.
constexpr int64_t kMaxDecodedBytes = 4 * kMaxPixels;

// Turns FFmpeg's own messages off for the process: a failure is told by one Error and by nothing else.
void SilenceFfmpeg();
// Text of a negative return value.
std::string FfmpegError(int code);
// Throws Error naming `path` unless the size is positive and within kMaxSide and the process's limits (OverLimit).
void CheckPictureSize(int64_t height, int64_t width, const std::string& path);
// Allocate or throw.
FramePtr NewFrame();
PacketPtr NewPacket();
// An opened decoder, at most `threads` threads. `parameters` may be null.
CodecPtr OpenDecoder(AVCodecID id, const AVCodecParameters* parameters, int threads, const std::string& path);

// RGB bytes with rows `stride` bytes apart.
struct RgbPicture {
  int64_t height = 0;
  int64_t width = 0;
  int64_t stride = 0;
  std::vector<uint8_t> bytes;
};

// How the container says a picture is to be turned: transposed first, then mirrored.
struct Orientation {
  bool transpose = false;
  bool mirror_x = false;
  bool mirror_y = false;
  bool identity() const { return !transpose && !mirror_x && !mirror_y; }
};

// Of a 3x3 display matrix (row-major, 16.16 fixed point); anything but a multiple of 90 degrees is taken as upright.
Orientation OrientationOf(const int32_t* matrix);
void Turn(const Orientation& orientation, const RgbPicture& in, RgbPicture* out);

// Decoded frames to RGB by libswscale. Colours as FFmpeg's tools make them: the stream's matrix and range where it
// names them, else BT.601 and limited range whatever the size; bilinear without the accurate-rounding flags, which is
// what PyAV, decord and torchvision run: equal to PyAV 18's rgb24 bit for bit on 8-bit video. (With accurate rounding
// and full chroma 57 % of the values of a test pattern differed, by 5 levels on average.)
class RgbConverter {
 public:
  // flags: of libswscale.
  explicit RgbConverter(int flags = SWS_BILINEAR) : flags_(flags) {}
  void Convert(const AVFrame& frame, RgbPicture* out, const std::string& path);

 private:
  int flags_;
  SwsPtr context_;
  int key_[5] = {-1, -1, -1, -1, -1};  // width, height, format, colour space, range
};

}  // namespace purekv
