#include "media/frame_stream.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/stage_timer.h"
#include "media/npy.h"

namespace purekv {
namespace {

int64_t BytesOf(const Size& size) {
  return size.height * size.width * 3;
}

class MemoryStream : public FrameStream {
 public:
  explicit MemoryStream(Frames frames)
      : FrameStream(frames.count, {frames.height, frames.width}, {}), frames_(std::move(frames)) {}

 private:
  void Fill(int64_t first, int64_t count, uint8_t* to, const std::function<void()>& done) override {
    std::copy_n(frames_.rgb.data() + first * BytesOf(size()), count * BytesOf(size()), to);
    done();
  }
  Frames frames_;
};

class NpyStream : public FrameStream {
 public:
  NpyStream(NpyFrames frames, const Size& size, Resizer* resize)
      : FrameStream(frames.count(), size, {}), frames_(std::move(frames)), resize_(resize) {}

 private:
  void Fill(int64_t first, int64_t count, uint8_t* to, const std::function<void()>& done) override {
    const Size from = frames_.size();
    for (int64_t i = first; i < first + count; ++i, to += BytesOf(size())) {
      const std::span<const uint8_t> frame = frames_.Frame(i);
      if (from == size()) {
        std::copy(frame.begin(), frame.end(), to);
      } else {
        resize_(frame.data(), from.height, from.width, to, size().height, size().width, 0);
      }
      frames_.Drop(i);
      done();
    }
  }
  NpyFrames frames_;
  Resizer* resize_;
};

class VideoStream : public FrameStream {
 public:
  VideoStream(std::unique_ptr<VideoReader> video, std::vector<int64_t> indices, const Size& size,
              FrameProgress progress)
      : FrameStream(static_cast<int64_t>(indices.size()), size, std::move(progress)), video_(std::move(video)) {
    video_->Choose(std::move(indices), size);
  }
  VideoCondition condition() const override { return video_->condition(); }

 private:
  void Fill(int64_t first, int64_t count, uint8_t* to, const std::function<void()>& done) override {
    for (int64_t i = first; i < first + count; ++i, to += BytesOf(size())) {
      video_->ReadChosen(i, to);
      done();
    }
  }
  std::unique_ptr<VideoReader> video_;
};

}  // namespace

void FrameStream::Read(int64_t first, int64_t count, Frames* out) {
  PUREKV_CHECK(first >= 0 && count >= 1 && first + count <= count_, first, "+", count, " of ", count_);
  const StageTimer timer(&seconds_);
  out->count = count;
  out->height = size_.height;
  out->width = size_.width;
  out->rgb.resize(static_cast<size_t>(count * BytesOf(size_)));
  int64_t read = first;
  Fill(first, count, out->rgb.data(), [&] {
    ++read;
    if (progress_) progress_(read, count_);
  });
}

std::unique_ptr<FrameStream> StreamOf(Frames frames) {
  return std::make_unique<MemoryStream>(std::move(frames));
}

std::unique_ptr<FrameStream> StreamNpy(const std::string& path, Resizer* resize,
                                       const std::function<Size(int64_t, int64_t, int64_t)>& choose) {
  NpyFrames frames(path);
  const Size size = choose(frames.count(), frames.size().height, frames.size().width);
  return std::make_unique<NpyStream>(std::move(frames), size, resize);
}

std::unique_ptr<FrameStream> StreamVideo(std::unique_ptr<VideoReader> video, std::vector<int64_t> indices,
                                         const Size& size, FrameProgress progress) {
  return std::make_unique<VideoStream>(std::move(video), std::move(indices), size, std::move(progress));
}

}  // namespace purekv
