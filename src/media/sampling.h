// Which frames of a video are looked at, and at what size: pure arithmetic, equal to Python's.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "purekv/media.h"

namespace purekv {

struct Size {
  int64_t height = 0;
  int64_t width = 0;
  bool operator==(const Size&) const = default;
};

// The options alone, before any file is opened: a rate in (0, 1000], a smallest size that is not above the largest.
// Throws Error (kUsage) naming the field.
void CheckMediaOptions(const MediaOptions& options);

// The seconds between which a video is looked at. Throws Error (kUsage): not finite, negative, an end that is not after
// the start.
void CheckVideoTimes(std::optional<double> start, std::optional<double> end);

// Python's round(): half to even.
double RoundHalfEven(double x);

// qwen-vl-utils' / transformers' smart_resize: the multiple of `factor` nearest to (height, width) whose area lies
// within [min_pixels, max_pixels]. Throws Error when one side is more than 200 times the other.
Size SmartResize(int64_t height, int64_t width, int64_t factor, int64_t min_pixels, int64_t max_pixels);

// The same for a whole video at once, as transformers' Qwen3VLVideoProcessor has it: `frames`, rounded to a multiple of
// `temporal`, times the area lies within the limits. Throws Error for fewer frames than `temporal`, and for a side
// below `factor`.
Size SmartResizeVolume(int64_t frames, int64_t height, int64_t width, int64_t temporal, int64_t factor,
                       int64_t min_pixels, int64_t max_pixels);

// How many frames, and which (ascending, may repeat only when the video is shorter than asked).
struct FrameChoice {
  std::vector<int64_t> indices;
  double sample_fps = 2.0;  // rate of the chosen frames: count / frames of the range * video_fps
};

// Consecutive frames of a video.
struct FrameRange {
  int64_t first = 0;
  int64_t count = 0;
};

// The frames from `start` to `end` seconds (not set: from the first, to the last) of `total` at `video_fps`, as
// qwen-vl-utils' video_start and video_end pick them: frame i is at i / video_fps, an end behind the video is its end.
// Throws Error naming `path` when fewer than `factor` frames lie there.
FrameRange FramesBetween(int64_t total, double video_fps, std::optional<double> start, std::optional<double> end,
                         int64_t factor, const std::string& path);

// The frame in the middle of each of `count` equal parts of `range`, as VideoLLaMA2's frame_sample ("uniform") picks
// them; a range of fewer frames repeats some.
std::vector<int64_t> SegmentMiddles(FrameRange range, int64_t count);

// `count` frames of `range`, all of one that has fewer, evenly spaced from the first to the last, fractions dropped, as
// numpy.linspace(0, n - 1, count, dtype=int) has it: how vLLM's loader takes num_frames of any video.
std::vector<int64_t> EvenFrames(FrameRange range, int64_t count);

// So chosen of the frames of `range` at `video_fps`: `most`, or fewer where `fps` says so, at least one.
FrameChoice ChooseEvenFrames(FrameRange range, double video_fps, std::optional<double> fps, int64_t most);

// Of the frames of `range` at `video_fps`; `fps` wanted; at least `min_frames` and at most `max_frames`, a multiple of
// `factor`. Throws Error naming `path` when the range has fewer than `factor` frames.
FrameChoice ChooseFrames(FrameRange range, double video_fps, double fps, int64_t min_frames, int64_t max_frames,
                         int64_t factor, FrameSampling sampling, const std::string& path);

// The same as transformers' Qwen3VLVideoProcessor chooses: `fps` of them, rounded down, any count from `min_frames` to
// `max_frames`, evenly spaced from the first to the last as numpy.linspace has it. Throws Error naming `path` when the
// range has fewer than `factor` frames.
FrameChoice ChooseFramesEvenly(FrameRange range, double video_fps, double fps, int64_t min_frames, int64_t max_frames,
                               int64_t factor, const std::string& path);

// When each slice of `temporal` frames is: the mean of its first and its last frame's index over `video_fps`, the last
// frame repeated where frames are missing. Seconds.
std::vector<double> SliceSeconds(const std::vector<int64_t>& indices, double video_fps, int64_t temporal);

}  // namespace purekv
