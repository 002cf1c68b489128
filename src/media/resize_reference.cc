// The slow twins of the resizing kernels: one value after another.
#include <algorithm>
#include <cmath>
#include <vector>

#include "media/resize_internal.h"

namespace purekv {
namespace {

constexpr int64_t kChannels = 3;

// Sum over k of input(k) * w[k], rounded as torch's kernel is: see TorchArithmetic in resize.cc.
template <class Input>
float Sum(const float* w, int64_t count, const Input& input) {
  float sum = input(0) * w[0];
  const int64_t fused_from = 1 + (count - 1) / 4 * 4;
  for (int64_t k = 1; k < count; ++k) {
    const volatile float product = input(k) * w[k];  // volatile: rounded even where the compiler would fuse
    sum = k < fused_from ? sum + product : std::fma(input(k), w[k], sum);
  }
  return sum;
}

// As Pillow's kernel: 64 bits are not needed, the weights sum to one.
template <class Input>
uint8_t Sum(const int32_t* w, int64_t count, const Input& input) {
  int32_t sum = int32_t{1} << (kPillowBits - 1);
  for (int64_t k = 0; k < count; ++k) sum += input(k) * w[k];
  return static_cast<uint8_t>(std::clamp(sum >> kPillowBits, 0, 255));
}

uint8_t ToByte(uint8_t value) {
  return value;
}
uint8_t ToByte(float value) {
  return static_cast<uint8_t>(std::nearbyint(std::clamp(value, 0.0f, 255.0f)));
}

template <class T, class Between>
void Band(const ResizeJob<T>& job, int64_t begin, int64_t end) {
  const ResizeWeights<T>& vertical = *job.vertical;
  const ResizeWeights<T>& horizontal = *job.horizontal;
  const int64_t values = job.out_width * kChannels;
  for (int64_t y = begin; y < end; ++y) {
    const int64_t first = vertical.first[static_cast<size_t>(y)];
    const int64_t count = vertical.count[static_cast<size_t>(y)];
    std::vector<Between> between(static_cast<size_t>(count * values));
    for (int64_t row = 0; row < count; ++row) {
      for (int64_t i = 0; i < values; ++i) {
        const int64_t x = i / kChannels;
        const uint8_t* from = job.in + (first + row) * job.in_stride +
                              horizontal.first[static_cast<size_t>(x)] * kChannels + i % kChannels;
        between[static_cast<size_t>(row * values + i)] =
            Sum(horizontal.weight.data() + x * horizontal.taps, horizontal.count[static_cast<size_t>(x)],
                [&](int64_t k) { return static_cast<T>(from[k * kChannels]); });
      }
    }
    for (int64_t i = 0; i < values; ++i) {
      job.out[y * values + i] = ToByte(Sum(vertical.weight.data() + y * vertical.taps, count, [&](int64_t k) {
        return static_cast<T>(between[static_cast<size_t>(k * values + i)]);
      }));
    }
  }
}

}  // namespace

void TorchBandReference(const ResizeJob<float>& job, int64_t begin, int64_t end) {
  Band<float, float>(job, begin, end);
}

void PillowBandReference(const ResizeJob<int32_t>& job, int64_t begin, int64_t end) {
  Band<int32_t, uint8_t>(job, begin, end);
}

}  // namespace purekv
