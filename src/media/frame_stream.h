// The frames of one medium, chosen and resized, handed out a few at a time. A long video's frames together outweigh
// its compressed cache many times (28,800 visual tokens: 129 MiB of pixels), and each is needed once, by the tower.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "media/resize.h"
#include "media/sampling.h"
#include "media/video.h"
#include "purekv/media.h"

namespace purekv {

// progress(frames read, of how many), after each frame; may be empty, may throw.
using FrameProgress = std::function<void(int64_t done, int64_t total)>;

class FrameStream {
 public:
  virtual ~FrameStream() = default;

  int64_t count() const { return count_; }
  const Size& size() const { return size_; }
  // Frames first .. first + count into `out`, whose memory is used again. What follows the last read is cheapest;
  // going back decodes from the front again. Throws Error naming the file, and what progress throws.
  void Read(int64_t first, int64_t count, Frames* out);
  // Spent in Read so far.
  double seconds() const { return seconds_; }
  // Of the file, as far as it has been decoded; a Read that goes back counts anew.
  virtual VideoCondition condition() const { return {}; }

 protected:
  FrameStream(int64_t count, const Size& size, FrameProgress progress)
      : count_(count), size_(size), progress_(std::move(progress)) {}

 private:
  // One after another into `to`; done() after each.
  virtual void Fill(int64_t first, int64_t count, uint8_t* to, const std::function<void()>& done) = 0;

  int64_t count_;
  Size size_;
  FrameProgress progress_;
  double seconds_ = 0;
};

// Pictures in memory, as they are.
std::unique_ptr<FrameStream> StreamOf(Frames frames);

// What is made of frames that are there: resized to this size; where there are fewer than `least`, black ones follow.
struct FrameUse {
  FrameUse(const Size& to, int64_t at_least = 0) : size(to), least(at_least) {}  // NOLINT(google-explicit-constructor)
  Size size;
  int64_t least;
};
// Gets frames, height and width.
using ChooseUse = std::function<FrameUse(int64_t count, int64_t height, int64_t width)>;

// Frames in memory, resized by `resize` when they are read; otherwise as StreamNpy. `name` stands for the file in
// messages. Throws Error (kUsage) when count, height and width do not fit the pixels.
std::unique_ptr<FrameStream> StreamFrames(std::shared_ptr<const Frames> frames, const std::string& name, Resizer resize,
                                          const ChooseUse& choose);

// uint8 [T, H, W, 3] of a .npy file, mapped and read slice by slice, resized by `resize`.
std::unique_ptr<FrameStream> StreamNpy(const std::string& path, Resizer resize, const ChooseUse& choose);

// Pictures of a list (picture_list.h), decoded and resized one by one.
std::unique_ptr<FrameStream> StreamPictures(const std::string& path, Resizer resize, const ChooseUse& choose);

// A source of kind kFrames, as whichever of these it is.
std::unique_ptr<FrameStream> StreamSampled(const MediaSource& source, Resizer resize, const ChooseUse& choose);

// Frames `indices` (ascending) of a video, resized by `resize`.
std::unique_ptr<FrameStream> StreamVideo(std::unique_ptr<VideoReader> video, std::vector<int64_t> indices,
                                         const Size& size, FrameProgress progress, Resizer resize = ResizeTorchvision);

}  // namespace purekv
