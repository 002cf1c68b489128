#include "media/decode_limits.h"

#include "base/error.h"

namespace purekv {
namespace {

DecodeLimits& Limits() {
  static DecodeLimits limits;
  return limits;
}

}  // namespace

const DecodeLimits& LimitsOfDecoding() {
  return Limits();
}

void LimitDecoding(const DecodeLimits& limits) {
  PUREKV_CHECK(limits.picture_pixels >= 1 && limits.picture_pixels <= kMaxPixels && limits.source_frames >= 1 &&
                   limits.source_frames <= kMaxSourceFrames,
               limits.picture_pixels, " pixels, ", limits.source_frames, " frames");
  Limits() = limits;
}

}  // namespace purekv
