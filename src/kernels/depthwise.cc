#include "kernels/depthwise.h"

#include "base/error.h"
#include "base/threads.h"
#include "kernels/simd.h"
#include "kernels/simd_target.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/depthwise.cc"
// clang-format off
#include "hwy/foreach_target.h"  // must come before highway.h
#include "hwy/highway.h"
#include "kernels/simd-inl.h"
// clang-format on

#ifndef PUREKV_KERNELS_DEPTHWISE_TOGGLE
#define PUREKV_KERNELS_DEPTHWISE_TOGGLE
namespace purekv {

constexpr int64_t kDepthwiseTaps = 9;

// One output pixel: what each tap sees, of those inside the picture.
struct DepthwisePixel {
  const float* in[kDepthwiseTaps];
  const float* taps[kDepthwiseTaps];
  int64_t count;
  int64_t channels;
  float* out;
};

}  // namespace purekv
#endif  // PUREKV_KERNELS_DEPTHWISE_TOGGLE

HWY_BEFORE_NAMESPACE();
namespace purekv {
namespace HWY_NAMESPACE {

void DepthwiseOf(const DepthwisePixel& pixel) {
  for (int64_t c = 0; c < pixel.channels; c += kLanes) {
    const int64_t n = pixel.channels - c < kLanes ? pixel.channels - c : kLanes;
    FloatVec sum = hn::Zero(FloatTag());
    for (int64_t i = 0; i < pixel.count; ++i) {
      sum = hn::MulAdd(LoadAt(pixel.taps[i], c, n), LoadAt(pixel.in[i], c, n), sum);
    }
    if (n == kLanes) {
      StoreVec(sum, pixel.out + c);
    } else {
      StorePart(sum, pixel.out + c, n);
    }
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace purekv
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace purekv {
namespace {

HWY_EXPORT(DepthwiseOf);

}  // namespace

void DepthwiseConv3x3(MatrixView<const float> in, int64_t height, int64_t width, std::span<const float> taps,
                      MatrixView<float> out) {
  const int64_t channels = in.cols;
  PUREKV_CHECK(in.rows == height * width && out.rows == in.rows && out.cols == channels, in.rows, " x ", channels);
  PUREKV_CHECK(static_cast<int64_t>(taps.size()) == kDepthwiseTaps * channels, taps.size(), " taps");
  UseCpuLevel();
  ParallelForRanges(height, 1, [&](int64_t begin, int64_t end) {
    for (int64_t y = begin; y < end; ++y) {
      for (int64_t x = 0; x < width; ++x) {
        DepthwisePixel pixel{{}, {}, 0, channels, out.Row(y * width + x)};
        for (int64_t tap = 0; tap < kDepthwiseTaps; ++tap) {
          const int64_t from_y = y + tap / 3 - 1, from_x = x + tap % 3 - 1;
          if (from_y < 0 || from_y >= height || from_x < 0 || from_x >= width) continue;
          pixel.in[pixel.count] = in.Row(from_y * width + from_x);
          pixel.taps[pixel.count++] = taps.data() + tap * channels;
        }
        HWY_DYNAMIC_DISPATCH(DepthwiseOf)(pixel);
      }
    }
  });
}

}  // namespace purekv
#endif  // HWY_ONCE
