// Exact frames of a video by index, found by seeking where that skips decoding. Internal to media/.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "media/demux.h"
#include "media/ffmpeg.h"

namespace purekv {

// Finds wanted frames one after another. Holds a decoder: its frames and threads go with the object.
class FrameFinder {
 public:
  // `path` and `index` must outlive this. `damaged` counts, among all frames that are decoded on the way, those that
  // the decoder refused or marked (as concealed, or as made from what is not there).
  FrameFinder(const std::string& path, const PacketIndex& index, int64_t* damaged);
  ~FrameFinder();

  // The frame of this index; indices ascend, and one may be asked for again. Null when the stream ends before it;
  // `last()` is then the last one there was, or null. Valid until the next call. Throws Error naming the file.
  const AVFrame* Find(int64_t wanted);
  const AVFrame* last() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace purekv
