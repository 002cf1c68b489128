#include "media/sampling.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace purekv {
namespace {

// torch.linspace(0, total - 1, n).round(): the reference rounds float32 values, and a tie there decides which frame is
// seen. Torch's kernel computes the first half as step * i and the second as end - step * (n - 1 - i), the latter with
// a fused multiply-add. Without the fusion about 6 % of all (total, n) differ by one frame somewhere; with it 60,000
// random ones agree.
std::vector<int64_t> Linspace(int64_t total, int64_t n) {
  std::vector<int64_t> indices(static_cast<size_t>(n));
  const auto end = static_cast<float>(total - 1);
  const float step = n > 1 ? end / static_cast<float>(n - 1) : 0.0f;
  for (int64_t i = 0; i < n; ++i) {
    const float value = i < n / 2 ? step * static_cast<float>(i) : std::fma(-step, static_cast<float>(n - 1 - i), end);
    const auto index = static_cast<int64_t>(RoundHalfEven(static_cast<double>(value)));
    indices[static_cast<size_t>(i)] = std::clamp<int64_t>(index, 0, total - 1);
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

}  // namespace

double RoundHalfEven(double x) {
  const double rounded = std::round(x);  // halves away from zero
  if (std::abs(x - std::trunc(x)) != 0.5) return rounded;
  return 2.0 * std::round(x / 2.0);
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

FrameChoice ChooseFrames(int64_t total, double video_fps, double fps, int64_t min_frames, int64_t max_frames,
                         int64_t factor, FrameSampling sampling, const std::string& path) {
  PUREKV_CHECK(factor >= 1, factor);
  if (!std::isfinite(fps) || fps <= 0) FailUsage("fps ", fps, ": expected a positive number of frames per second");
  if (min_frames < 1) FailUsage("min_frames ", min_frames, ": expected at least 1");
  if (max_frames < factor) FailUsage("max_frames ", max_frames, ": expected at least ", factor);
  if (!std::isfinite(video_fps) || video_fps <= 0)
    Fail(path, ": its frame rate is ", video_fps, "; expected a positive number");
  if (total < factor) Fail(path, ": has ", total, " frame(s); the model needs at least ", factor);
  const auto frames = static_cast<double>(total);
  const double low = CeilTo(static_cast<double>(min_frames), factor);
  const double high = FloorTo(std::min(static_cast<double>(max_frames), frames), factor);
  const double wanted = std::min(std::min(std::max(frames / video_fps * fps, low), high), frames);
  const auto count = static_cast<int64_t>(FloorTo(wanted, factor));
  FrameChoice choice;
  choice.indices = sampling == FrameSampling::kQwenVlUtils ? Linspace(total, count) : Arange(total, count);
  choice.sample_fps = static_cast<double>(count) / frames * video_fps;
  return choice;
}

}  // namespace purekv
