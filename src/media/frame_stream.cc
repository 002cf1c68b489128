#include "media/frame_stream.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/stage_timer.h"
#include "media/npy.h"
#include "media/picture_list.h"

namespace purekv {
namespace {

int64_t BytesOf(const Size& size) {
  return size.height * size.width * 3;
}

// Frame `i`, or, behind the last one, a black one.
class FrameSource {
 public:
  FrameSource(const Size& size, Resizer resize) : size_(size), resize_(std::move(resize)) {}

  // frame null: black.
  void Copy(const uint8_t* frame, uint8_t* to, const Size& size) {
    if (frame == nullptr) {
      black_.resize(static_cast<size_t>(BytesOf(size_)), 0);
      frame = black_.data();
    }
    if (resize_) {
      resize_(frame, size_.height, size_.width, to, size.height, size.width, 0);
    } else {
      PUREKV_CHECK(size == size_, size.height, " x ", size.width);
      std::copy_n(frame, BytesOf(size), to);
    }
  }

 private:
  Size size_;
  Resizer resize_;
  std::vector<uint8_t> black_;
};

class MemoryStream : public FrameStream {
 public:
  MemoryStream(std::shared_ptr<const Frames> frames, const FrameUse& use, Resizer resize)
      : FrameStream(std::max(frames->count, use.least), use.size, {}),
        frames_(std::move(frames)),
        source_({frames_->height, frames_->width}, std::move(resize)) {}

 private:
  void Fill(int64_t first, int64_t count, uint8_t* to, const std::function<void()>& done) override {
    const int64_t bytes = BytesOf({frames_->height, frames_->width});
    for (int64_t i = first; i < first + count; ++i, to += BytesOf(size())) {
      source_.Copy(i < frames_->count ? frames_->rgb.data() + i * bytes : nullptr, to, size());
      done();
    }
  }
  std::shared_ptr<const Frames> frames_;
  FrameSource source_;
};

class NpyStream : public FrameStream {
 public:
  NpyStream(NpyFrames frames, const FrameUse& use, Resizer resize)
      : FrameStream(std::max(frames.count(), use.least), use.size, {}),
        frames_(std::move(frames)),
        source_(frames_.size(), std::move(resize)) {}

 private:
  void Fill(int64_t first, int64_t count, uint8_t* to, const std::function<void()>& done) override {
    for (int64_t i = first; i < first + count; ++i, to += BytesOf(size())) {
      const bool there = i < frames_.count();
      source_.Copy(there ? frames_.Frame(i).data() : nullptr, to, size());
      if (there) frames_.Drop(i);
      done();
    }
  }
  NpyFrames frames_;
  FrameSource source_;
};

class PictureStream : public FrameStream {
 public:
  PictureStream(PictureList pictures, const FrameUse& use, Resizer resize)
      : FrameStream(std::max(pictures.count(), use.least), use.size, {}),
        pictures_(std::move(pictures)),
        source_(pictures_.size(), std::move(resize)) {}

 private:
  void Fill(int64_t first, int64_t count, uint8_t* to, const std::function<void()>& done) override {
    for (int64_t i = first; i < first + count; ++i, to += BytesOf(size())) {
      const Frames picture = i < pictures_.count() ? pictures_.Decode(i) : Frames();
      source_.Copy(picture.count > 0 ? picture.rgb.data() : nullptr, to, size());
      done();
    }
  }
  PictureList pictures_;
  FrameSource source_;
};

class VideoStream : public FrameStream {
 public:
  VideoStream(std::unique_ptr<VideoReader> video, std::vector<int64_t> indices, const Size& size,
              FrameProgress progress, Resizer resize)
      : FrameStream(static_cast<int64_t>(indices.size()), size, std::move(progress)), video_(std::move(video)) {
    video_->Choose(std::move(indices), size, std::move(resize));
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

// Count, height and width come from the caller: their product may be anything.
void CheckPixels(const Frames& frames, const std::string& name) {
  uint64_t left = frames.rgb.size();
  bool fits = left % 3 == 0;
  left /= 3;
  for (const int64_t dim : {frames.count, frames.height, frames.width}) {
    fits = fits && dim >= 1 && left % static_cast<uint64_t>(dim) == 0;
    if (fits) left /= static_cast<uint64_t>(dim);
  }
  if (fits && left == 1) return;
  FailUsage(name, ": ", frames.count, " frames of ", frames.height, " x ", frames.width, " RGB pixels do not make the ",
            frames.rgb.size(), " bytes there are; at least one pixel is needed");
}

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
  const Size size{frames.height, frames.width};
  return std::make_unique<MemoryStream>(std::make_shared<const Frames>(std::move(frames)), FrameUse{size}, nullptr);
}

std::unique_ptr<FrameStream> StreamFrames(std::shared_ptr<const Frames> frames, const std::string& name, Resizer resize,
                                          const ChooseUse& choose) {
  CheckPixels(*frames, name);
  const FrameUse use = choose(frames->count, frames->height, frames->width);
  return std::make_unique<MemoryStream>(std::move(frames), use, std::move(resize));
}

std::unique_ptr<FrameStream> StreamNpy(const std::string& path, Resizer resize, const ChooseUse& choose) {
  NpyFrames frames(path);
  const FrameUse use = choose(frames.count(), frames.size().height, frames.size().width);
  return std::make_unique<NpyStream>(std::move(frames), use, std::move(resize));
}

std::unique_ptr<FrameStream> StreamPictures(const std::string& path, Resizer resize, const ChooseUse& choose) {
  PictureList pictures(path);
  const FrameUse use = choose(pictures.count(), pictures.size().height, pictures.size().width);
  return std::make_unique<PictureStream>(std::move(pictures), use, std::move(resize));
}

std::unique_ptr<FrameStream> StreamSampled(const MediaSource& source, Resizer resize, const ChooseUse& choose) {
  if (source.frames) return StreamFrames(source.frames, source.path, std::move(resize), choose);
  if (IsPictureList(source.path)) return StreamPictures(source.path, std::move(resize), choose);
  return StreamNpy(source.path, std::move(resize), choose);
}

std::unique_ptr<FrameStream> StreamVideo(std::unique_ptr<VideoReader> video, std::vector<int64_t> indices,
                                         const Size& size, FrameProgress progress, Resizer resize) {
  return std::make_unique<VideoStream>(std::move(video), std::move(indices), size, std::move(progress),
                                       std::move(resize));
}

}  // namespace purekv
