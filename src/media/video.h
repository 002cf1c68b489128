// Decoding videos and images with the FFmpeg libraries.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "media/sampling.h"
#include "purekv/media.h"

namespace purekv {

struct VideoInfo {
  int64_t frames = 0;  // how many really decode in presentation order, as far as the container tells without decoding
  double fps = 0;      // average
  Size size;           // as displayed: a rotation in the container is applied
};

class VideoReader {
 public:
  // Throws Error naming the file: not found, no video stream, zero frames, a size over 16384 on a side, unknown codec.
  explicit VideoReader(const std::string& path);
  ~VideoReader();
  const VideoInfo& info() const;

  // The frames of these indices (ascending), each resized to `size` as torchvision does right after it is decoded:
  // memory holds the resized frames and one full one. Seeks to key frames when that skips decoding. A stream that ends
  // early repeats its last frame only if at most the last two indices are missing (containers miscount); otherwise
  // Error. progress(done) may be empty.
  Frames Read(std::span<const int64_t> indices, Size size, const std::function<void(int64_t)>& progress);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// One picture at its own size: JPEG, PNG, WebP (first frame). Transparency is composited on white. Throws Error.
Frames ReadImage(const std::string& path);

}  // namespace purekv
