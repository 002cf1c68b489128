#include <algorithm>
#include <cmath>

#include "media/resize_internal.h"

namespace purekv {
namespace {

constexpr double kSupport = 2.0;  // of the cubic

double CubicDouble(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
  return 0.0;
}

// Fused where torch's compiler fuses: seen in its results.
float CubicFloat(float x) {
  constexpr float a = -0.5f;
  x = std::abs(x);
  if (x < 1.0f) return std::fma(std::fma(a + 2.0f, x, -(a + 3.0f)) * x, x, 1.0f);
  if (x < 2.0f) return std::fma(std::fma(std::fma(a, x, -5.0f * a), x, 8.0f * a), x, -4.0f * a);
  return 0.0f;
}

template <class T>
ResizeWeights<T> Sized(int64_t out, int64_t taps) {
  ResizeWeights<T> weights;
  weights.taps = taps;
  weights.first.resize(static_cast<size_t>(out));
  weights.count.resize(static_cast<size_t>(out));
  weights.weight.resize(static_cast<size_t>(out * taps));
  return weights;
}

// An axis that keeps its size: weight one.
template <class T>
ResizeWeights<T> Identity(int64_t size, T one) {
  ResizeWeights<T> weights = Sized<T>(size, 1);
  for (int64_t i = 0; i < size; ++i) {
    weights.first[static_cast<size_t>(i)] = static_cast<int32_t>(i);
    weights.count[static_cast<size_t>(i)] = 1;
    weights.weight[static_cast<size_t>(i)] = one;
  }
  return weights;
}

}  // namespace

ResizeWeights<int32_t> PillowWeights(int64_t in, int64_t out) {
  constexpr int32_t kOne = int32_t{1} << kPillowBits;
  if (in == out) return Identity(in, kOne);
  const double scale = static_cast<double>(in) / static_cast<double>(out);
  const double filter_scale = std::max(scale, 1.0);
  const double support = kSupport * filter_scale;
  const double inverse = 1.0 / filter_scale;
  const auto taps = static_cast<int64_t>(std::ceil(support)) * 2 + 1;
  ResizeWeights<int32_t> weights = Sized<int32_t>(out, taps);
  std::vector<double> row(static_cast<size_t>(taps));
  for (int64_t i = 0; i < out; ++i) {
    const double center = (static_cast<double>(i) + 0.5) * scale;
    const int64_t first = std::max<int64_t>(static_cast<int64_t>(center - support + 0.5), 0);
    const int64_t end = std::min<int64_t>(static_cast<int64_t>(center + support + 0.5), in);
    const int64_t count = std::min(end - first, taps);
    double total = 0.0;
    for (int64_t k = 0; k < count; ++k) {
      const double w = CubicDouble((static_cast<double>(k + first) - center + 0.5) * inverse);
      row[static_cast<size_t>(k)] = w;
      total += w;
    }
    for (int64_t k = 0; k < count; ++k) {
      double w = row[static_cast<size_t>(k)];
      if (total != 0.0) w *= 1.0 / total;
      weights.weight[static_cast<size_t>(i * taps + k)] = static_cast<int32_t>((w < 0 ? -0.5 : 0.5) + w * kOne);
    }
    weights.first[static_cast<size_t>(i)] = static_cast<int32_t>(first);
    weights.count[static_cast<size_t>(i)] = static_cast<int32_t>(count);
  }
  return weights;
}

ResizeWeights<float> TorchWeights(int64_t in, int64_t out) {
  if (in == out) return Identity(in, 1.0f);
  const float scale = static_cast<float>(in) / static_cast<float>(out);
  const bool shrink = scale >= 1.0f;
  const float support =
      shrink ? static_cast<float>(kSupport * static_cast<double>(scale)) : static_cast<float>(kSupport);
  const float inverse = shrink ? static_cast<float>(1.0 / static_cast<double>(scale)) : 1.0f;
  const auto taps = static_cast<int64_t>(std::ceil(support)) * 2 + 1;
  ResizeWeights<float> weights = Sized<float>(out, taps);
  for (int64_t i = 0; i < out; ++i) {
    // Which steps are double and which float decides the last bit: these follow torch's expression.
    const auto center = static_cast<float>(static_cast<double>(scale) * (static_cast<double>(i) + 0.5));
    const int64_t first = std::max<int64_t>(static_cast<int64_t>(static_cast<double>(center - support) + 0.5), 0);
    const int64_t end = std::min<int64_t>(static_cast<int64_t>(static_cast<double>(center + support) + 0.5), in);
    const int64_t count = std::clamp<int64_t>(end - first, 0, taps);
    float* row = weights.weight.data() + i * taps;
    float total = 0.0f;
    for (int64_t k = 0; k < count; ++k) {
      const float distance = static_cast<float>(k + first) - center;
      row[k] = CubicFloat(static_cast<float>((static_cast<double>(distance) + 0.5) * static_cast<double>(inverse)));
      total += row[k];
    }
    for (int64_t k = 0; k < count; ++k) {
      if (total != 0.0f) row[k] /= total;
    }
    weights.first[static_cast<size_t>(i)] = static_cast<int32_t>(first);
    weights.count[static_cast<size_t>(i)] = static_cast<int32_t>(count);
  }
  return weights;
}

}  // namespace purekv
