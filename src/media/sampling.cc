#include "media/sampling.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace purekv {
namespace {

// torch.linspace(first, last, n).round(): the reference rounds float32 values, and a tie there decides which frame is
// seen. Torch's kernel computes the first half as first + step * i and the second as last - step * (n - 1 - i), both
// with a fused multiply-add. Without the fusion about 6 % of all (total, n) differ by one frame somewhere; with it
// 60,000 random ones agree.
std::vector<int64_t> Linspace(int64_t first, int64_t last, int64_t n) {
  std::vector<int64_t> indices(static_cast<size_t>(n));
  const auto start = static_cast<float>(first);
  const auto end = static_cast<float>(last);
  const float step = n > 1 ? (end - start) / static_cast<float>(n - 1) : 0.0f;
  for (int64_t i = 0; i < n; ++i) {
    const float value =
        i < n / 2 ? std::fma(step, static_cast<float>(i), start) : std::fma(-step, static_cast<float>(n - 1 - i), end);
    const auto index = static_cast<int64_t>(RoundHalfEven(static_cast<double>(value)));
    indices[static_cast<size_t>(i)] = std::clamp<int64_t>(index, first, last);
  }
  return indices;
}

// torch.arange(0, total, total / n).int(). Torch fills vectors of 8 floats: the first of each is a double product
// rounded to float, the others add to it in double; what does not fill two vectors is computed one by one. Truncation
// makes that visible. Torch may yield n + 1 values when total / (total / n) comes out above n; the last one then is
// `total`, no frame: dropped.
std::vector<int64_t> Arange(int64_t total, int64_t n) {
  std::vector<int64_t> indices(static_cast<size_t>(n));
  const double step = static_cast<double>(total) / static_cast<double>(n);
  const auto count = static_cast<int64_t>(std::ceil(static_cast<double>(total) / step));
  const int64_t vectors_end = count / 16 * 16;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t base = i < vectors_end ? i / 8 * 8 : i;
    const auto first = static_cast<float>(step * static_cast<double>(base));
    const auto value = static_cast<float>(static_cast<double>(first) + step * static_cast<double>(i - base));
    indices[static_cast<size_t>(i)] = std::min(static_cast<int64_t>(value), total - 1);
  }
  return indices;
}

double CeilTo(double x, int64_t factor) {
  return std::ceil(x / static_cast<double>(factor)) * static_cast<double>(factor);
}
double FloorTo(double x, int64_t factor) {
  return std::floor(x / static_cast<double>(factor)) * static_cast<double>(factor);
}
double RoundTo(double x, int64_t factor) {
  return RoundHalfEven(x / static_cast<double>(factor)) * static_cast<double>(factor);
}

void CheckChoice(const FrameRange& range, double video_fps, double fps, int64_t min_frames, int64_t max_frames,
                 int64_t factor, const std::string& path) {
  PUREKV_CHECK(factor >= 1, factor);
  if (!std::isfinite(fps) || fps <= 0) FailUsage("fps ", fps, ": expected a positive number of frames per second");
  if (min_frames < 1) FailUsage("min_frames ", min_frames, ": expected at least 1");
  if (max_frames < factor) FailUsage("max_frames ", max_frames, ": expected at least ", factor);
  if (!std::isfinite(video_fps) || video_fps <= 0)
    Fail(path, ": its frame rate is ", video_fps, "; expected a positive number");
  if (range.count < factor) Fail(path, ": has ", range.count, " frame(s); the model needs at least ", factor);
}

}  // namespace

double RoundHalfEven(double x) {
  const double rounded = std::round(x);  // halves away from zero
  if (std::abs(x - std::trunc(x)) != 0.5) return rounded;
  return 2.0 * std::round(x / 2.0);
}

void CheckMediaOptions(const MediaOptions& options) {
  if (options.fps && !(*options.fps > 0 && *options.fps <= 1000))
    FailUsage(Field{"media.fps"}, " ", *options.fps, ": out of range (0, 1000]");
  if (options.min_pixels && options.max_pixels && *options.min_pixels > *options.max_pixels) {
    FailUsage(Field{"media.min_pixels"}, ": ", *options.min_pixels, " is above ", Field{"media.max_pixels"}, " ",
              *options.max_pixels);
  }
}

void CheckVideoTimes(std::optional<double> start, std::optional<double> end) {
  for (const auto& time : {start, end}) {
    if (time && (!std::isfinite(*time) || *time < 0))
      FailUsage("a time of ", *time, " s in a video: expected 0 or more");
  }
  if (end && *end <= start.value_or(0)) {
    FailUsage(Field{"media.end"}, ": ", *end, " is not after the start, ", start.value_or(0));
  }
}

Size SmartResize(int64_t height, int64_t width, int64_t factor, int64_t min_pixels, int64_t max_pixels) {
  PUREKV_CHECK(factor >= 1, factor);
  if (height < 1 || width < 1) Fail("frame size: ", height, " x ", width, " (height x width); both must be at least 1");
  if (min_pixels < 1 || max_pixels < min_pixels) {
    FailUsage("min_pixels ", min_pixels, ", max_pixels ", max_pixels, ": expected 1 <= min_pixels <= max_pixels");
  }
  const auto h = static_cast<double>(height);
  const auto w = static_cast<double>(width);
  if (std::max(h, w) / std::min(h, w) > 200) {
    Fail("frame size: ", height, " x ", width,
         ": one side is more than 200 times the other, which the model does not support");
  }
  const auto smallest = static_cast<double>(factor);
  double rounded_h = std::max(smallest, RoundTo(h, factor));
  double rounded_w = std::max(smallest, RoundTo(w, factor));
  if (rounded_h * rounded_w > static_cast<double>(max_pixels)) {
    const double beta = std::sqrt(h * w / static_cast<double>(max_pixels));
    rounded_h = std::max(smallest, FloorTo(h / beta, factor));
    rounded_w = std::max(smallest, FloorTo(w / beta, factor));
  } else if (rounded_h * rounded_w < static_cast<double>(min_pixels)) {
    const double beta = std::sqrt(static_cast<double>(min_pixels) / (h * w));
    rounded_h = CeilTo(h * beta, factor);
    rounded_w = CeilTo(w * beta, factor);
  }
  return {static_cast<int64_t>(rounded_h), static_cast<int64_t>(rounded_w)};
}

Size SmartResizeVolume(int64_t frames, int64_t height, int64_t width, int64_t temporal, int64_t factor,
                       int64_t min_pixels, int64_t max_pixels) {
  PUREKV_CHECK(factor >= 1 && temporal >= 1, factor, " ", temporal);
  if (frames < temporal) Fail("a video of ", frames, " frame(s); the model needs at least ", temporal);
  if (height < factor || width < factor) {
    Fail("frame size: ", height, " x ", width, " (height x width); both must be at least ", factor);
  }
  const auto n = static_cast<double>(frames), h = static_cast<double>(height), w = static_cast<double>(width);
  if (std::max(h, w) / std::min(h, w) > 200) {
    Fail("frame size: ", height, " x ", width,
         ": one side is more than 200 times the other, which the model does not support");
  }
  const auto low = static_cast<double>(min_pixels), high = static_cast<double>(max_pixels);
  double rounded_h = RoundTo(h, factor);
  double rounded_w = RoundTo(w, factor);
  const double volume = RoundTo(n, temporal) * rounded_h * rounded_w;
  if (volume > high) {
    const double beta = std::sqrt(n * h * w / high);
    rounded_h = std::max(static_cast<double>(factor), FloorTo(h / beta, factor));
    rounded_w = std::max(static_cast<double>(factor), FloorTo(w / beta, factor));
  } else if (volume < low) {
    const double beta = std::sqrt(low / (n * h * w));
    rounded_h = CeilTo(h * beta, factor);
    rounded_w = CeilTo(w * beta, factor);
  }
  return {static_cast<int64_t>(rounded_h), static_cast<int64_t>(rounded_w)};
}

FrameRange FramesBetween(int64_t total, double video_fps, std::optional<double> start, std::optional<double> end,
                         int64_t factor, const std::string& path) {
  if (!start && !end) return {0, total};
  if (!std::isfinite(video_fps) || video_fps <= 0)
    Fail(path, ": its frame rate is ", video_fps, "; expected a positive number");
  CheckVideoTimes(start, end);
  const double duration = static_cast<double>(total) / video_fps;
  const auto first = static_cast<int64_t>(std::ceil(std::min(start.value_or(0), duration) * video_fps));
  const auto last =
      std::min(static_cast<int64_t>(std::floor(std::min(end.value_or(duration), duration) * video_fps)), total - 1);
  const int64_t count = std::max<int64_t>(0, last - first + 1);
  if (count < factor) {
    Fail(path, ": has ", count, " frame(s) from ", start.value_or(0), " s to ", end.value_or(duration), " s (it lasts ",
         duration, " s); the model needs at least ", factor);
  }
  return {first, count};
}

std::vector<int64_t> SegmentMiddles(FrameRange range, int64_t count) {
  PUREKV_CHECK(range.count >= 1 && count >= 1, range.count, " frames, ", count);
  const double part = static_cast<double>(range.count - 1) / static_cast<double>(count);
  std::vector<int64_t> indices;
  for (int64_t i = 0; i < count; ++i) {
    const double begin = part * static_cast<double>(i), end = part * static_cast<double>(i + 1);
    const auto middle = static_cast<int64_t>(RoundHalfEven((begin + end) / 2 + 1e-6));
    indices.push_back(range.first + std::clamp<int64_t>(middle, 0, range.count - 1));
  }
  return indices;
}

std::vector<int64_t> EvenFrames(FrameRange range, int64_t count) {
  PUREKV_CHECK(range.count >= 1 && count >= 1, range.count, " frames, ", count);
  count = std::min(count, range.count);
  const auto last = static_cast<double>(range.count - 1);
  const double step = count > 1 ? last / static_cast<double>(count - 1) : 0;
  std::vector<int64_t> indices;
  for (int64_t i = 0; i < count; ++i) {
    const double at = i > 0 && i == count - 1 ? last : static_cast<double>(i) * step;
    indices.push_back(range.first + static_cast<int64_t>(std::floor(at)));
  }
  return indices;
}

FrameChoice ChooseEvenFrames(FrameRange range, double video_fps, std::optional<double> fps, int64_t most) {
  const auto total = static_cast<double>(range.count);
  if (fps) most = std::min(most, static_cast<int64_t>(std::min(std::floor(total / video_fps * *fps), total)));
  FrameChoice choice;
  choice.indices = EvenFrames(range, std::max<int64_t>(most, 1));
  choice.sample_fps = static_cast<double>(choice.indices.size()) / total * video_fps;
  return choice;
}

FrameChoice ChooseFrames(FrameRange range, double video_fps, double fps, int64_t min_frames, int64_t max_frames,
                         int64_t factor, FrameSampling sampling, const std::string& path) {
  CheckChoice(range, video_fps, fps, min_frames, max_frames, factor, path);
  const int64_t total = range.count;
  const auto frames = static_cast<double>(total);
  const double low = CeilTo(static_cast<double>(min_frames), factor);
  const double high = FloorTo(std::min(static_cast<double>(max_frames), frames), factor);
  const double wanted = std::min(std::min(std::max(frames / video_fps * fps, low), high), frames);
  const auto count = static_cast<int64_t>(FloorTo(wanted, factor));
  FrameChoice choice;
  if (sampling == FrameSampling::kQwenVlUtils) {
    choice.indices = Linspace(range.first, range.first + total - 1, count);
  } else {
    choice.indices = Arange(total, count);
    for (int64_t& index : choice.indices) index += range.first;
  }
  choice.sample_fps = static_cast<double>(count) / frames * video_fps;
  return choice;
}

FrameChoice ChooseFramesEvenly(FrameRange range, double video_fps, double fps, int64_t min_frames, int64_t max_frames,
                               int64_t factor, const std::string& path) {
  CheckChoice(range, video_fps, fps, min_frames, max_frames, factor, path);
  const auto total = static_cast<double>(range.count);
  const double wanted = std::max(std::trunc(total / video_fps * fps), static_cast<double>(min_frames));
  const auto count = static_cast<int64_t>(std::min({wanted, static_cast<double>(max_frames), total}));
  FrameChoice choice;
  const double step = count > 1 ? (total - 1) / static_cast<double>(count - 1) : 0;
  for (int64_t i = 0; i < count; ++i) {
    const double at = i > 0 && i == count - 1 ? total - 1 : static_cast<double>(i) * step;
    choice.indices.push_back(range.first + static_cast<int64_t>(RoundHalfEven(at)));
  }
  choice.sample_fps = static_cast<double>(count) / total * video_fps;
  return choice;
}

std::vector<double> SliceSeconds(const std::vector<int64_t>& indices, double video_fps, int64_t temporal) {
  PUREKV_CHECK(temporal >= 1 && video_fps > 0, temporal, " ", video_fps);
  const auto count = static_cast<int64_t>(indices.size());
  const auto seconds = [&](int64_t frame) {
    return static_cast<double>(indices[static_cast<size_t>(std::min(frame, count - 1))]) / video_fps;
  };
  std::vector<double> slices;
  for (int64_t first = 0; first < count; first += temporal) {
    slices.push_back((seconds(first) + seconds(first + temporal - 1)) / 2);
  }
  return slices;
}

}  // namespace purekv
