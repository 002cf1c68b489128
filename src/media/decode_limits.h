// How large a file's pictures may be, and how many frames it may have: judged by headers and indices, before anything
// is decoded. Of the whole process; one that decodes files of strangers takes less.
#pragma once

#include <cstdint>

#include "purekv/error.h"

namespace purekv {

// Of one picture, 402 MB as RGB: what a few bytes of header may make us allocate.
constexpr int64_t kMaxPixels = int64_t{1} << 27;
// Of one video, 77 hours at 30 frames a second: a table of lies in a few bytes of MP4 ends here.
constexpr int64_t kMaxSourceFrames = int64_t{1} << 23;

struct DecodeLimits {
  int64_t picture_pixels = kMaxPixels;
  int64_t source_frames = kMaxSourceFrames;
};

const DecodeLimits& LimitsOfDecoding();
// Before the first file is read; neither limit may be above its default.
void LimitDecoding(const DecodeLimits& limits);

// A file that is over one of them.
class OverLimit : public Error {
 public:
  explicit OverLimit(Message message) : Error(Kind::kFailed, std::move(message)) {}
};

}  // namespace purekv
