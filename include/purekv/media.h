// What a user hands to the engine to look at.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace purekv {

// RGB pictures of one size. rgb: [count, height, width, 3].
struct Frames {
  int64_t count = 0;
  int64_t height = 0;
  int64_t width = 0;
  std::vector<uint8_t> rgb;
};

// One video or image: a file, or frames that the caller has decoded.
struct MediaSource {
  enum class Kind {
    kVideo,   // any file FFmpeg decodes
    kImage,   // JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, JPEG 2000, PNM, TGA; of animations the first frame
    kFrames,  // a video already decoded and sampled: .npy, uint8 [T, H, W, 3] RGB, or `frames`
  };
  Kind kind = Kind::kVideo;
  std::string path;  // with `frames`: what messages call them
  // kVideo: only the frames from `start` to `end`, in seconds of the video, are looked at (default: all of it).
  std::optional<double> start{}, end{};
  // kFrames: in memory, instead of a file; shared with who reads them, never changed.
  std::shared_ptr<const Frames> frames{};
  // Of `frames`: the rate that they were sampled at, in (0, 1000]; not set: MediaOptions::fps.
  std::optional<double> fps{};

  // A video as `frames`, at least one, each of at least one pixel; the same as those frames in a .npy file.
  static MediaSource Of(Frames frames, std::optional<double> fps = {});
};

// How frames are picked from a video; where the two size pictures and videos differently, too (Qwen3-VL), how these
// are.
enum class FrameSampling {
  kQwenVlUtils,  // evenly spaced over the whole length, both ends included (qwen-vl-utils)
  kHuggingFace,  // as transformers' processor of the family: int(arange(0, total, total / n)) (Qwen2-VL, Qwen2.5-VL)
  kEven,  // max_frames of them, as few as `fps` says where that is given, all of a shorter video, evenly spaced as
          // numpy.linspace(0, total - 1, n, dtype=int): what vLLM hands to any family; sized as kHuggingFace
};

// Limits; what is not set comes from the model directory, else from the family's defaults.
struct MediaOptions {
  std::optional<double>
      fps;  // videos: sampled frames per second. kFrames: the rate the frames were sampled at (default 2)
  std::optional<int64_t> max_frames;
  std::optional<int64_t> min_pixels;  // per frame, height x width after resizing
  std::optional<int64_t> max_pixels;
  std::optional<FrameSampling> sampling;  // not set: as the family's reference does it
};

// What was made of a medium: the frames chosen, and what they cost.
struct MediaInfo {
  MediaSource::Kind kind = MediaSource::Kind::kVideo;
  int64_t frames = 0;
  std::array<int64_t, 3> grid{};  // t, h, w in patches
  // Of an image whose tiles are put together again behind a first one that shows all of it (LLaVA-OneVision): rows and
  // columns of tokens that they become; else 0.
  std::array<int64_t, 2> map{};
  int64_t tokens = 0;
  double sample_fps = 0;
  // Seconds of the video at which its slices are, where the family writes them into the prompt (Qwen3-VL); else empty.
  std::vector<double> slice_seconds{};
  // Of a video file (else 0): the frames that it promises, how many of these are not in it (cut off, or lost where its
  // structure is damaged), and how many of the frames that were decoded the decoder refused or marked as damaged.
  int64_t frames_expected = 0, frames_missing = 0, frames_damaged = 0;
  bool cut_off = false;  // the file ends before its own structure does
};

}  // namespace purekv
