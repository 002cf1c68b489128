// IndexOfLargest and SumOfExps.
#include "kernels/logits.h"

#include <algorithm>
#include <cmath>

#include "base/cpu.h"
#include "kernels/simd.h"
#include "kernels/simd_target.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/logits.cc"
// clang-format off
#include "hwy/foreach_target.h"  // must come before highway.h
#include "hwy/highway.h"
#include "hwy/contrib/math/math-inl.h"
#include "kernels/simd-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace purekv {
namespace HWY_NAMESPACE {

// The largest of each so many is looked for at a time: only where it is the largest so far, its place, too.
constexpr int64_t kSearchBlock = 1024;
// Vectors of partial sums over so many, then a double (see norm.cc).
constexpr int64_t kExpBlock = 512;

int64_t FindLargest(const float* x, int64_t count) {
  const FloatTag d;
  float best = x[0];
  int64_t block = 0;
  for (int64_t begin = 0; begin < count; begin += kSearchBlock) {
    const int64_t end = HWY_MIN(count, begin + kSearchBlock);
    float largest = x[begin];
    bool nan = false;
    int64_t i = begin;
    if (end - begin >= kLanes) {
      FloatVec most = LoadVec(x + begin), strange = hn::Zero(d);
      const FloatVec one = hn::Set(d, 1);
      for (; i + kLanes <= end; i += kLanes) {
        const FloatVec v = LoadVec(x + i);
        most = hn::Max(most, v);
        strange = hn::IfThenElse(hn::Eq(v, v), strange, one);
      }
      nan = !hn::AllTrue(d, hn::Eq(strange, hn::Zero(d)));
      largest = hn::GetLane(hn::MaxOfLanes(d, most));
    }
    for (; i < end; ++i) {
      nan |= std::isnan(x[i]);
      largest = HWY_MAX(largest, x[i]);
    }
    if (nan) return -1;
    if (largest > best) {
      best = largest;
      block = begin;
    }
  }
  while (x[block] != best) ++block;
  return block;
}

double AddExps(const float* x, int64_t count, float largest) {
  const FloatTag d;
  const FloatVec most = hn::Set(d, largest);
  double total = 0;
  for (int64_t begin = 0; begin < count; begin += kExpBlock) {
    const int64_t end = HWY_MIN(count, begin + kExpBlock);
    FloatVec sum = hn::Zero(d);
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) sum = hn::Add(sum, hn::Exp(d, hn::Sub(LoadVec(x + i), most)));
    total += static_cast<double>(SumLanes(sum));
    for (; i < end; ++i) total += std::exp(static_cast<double>(x[i]) - static_cast<double>(largest));
  }
  return total;
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace purekv
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace purekv {
namespace {
HWY_EXPORT(FindLargest);
HWY_EXPORT(AddExps);
}  // namespace

int64_t reference::IndexOfLargest(std::span<const float> x) {
  if (x.empty() || std::any_of(x.begin(), x.end(), [](float one) { return std::isnan(one); })) return -1;
  return std::max_element(x.begin(), x.end()) - x.begin();
}

double reference::SumOfExps(std::span<const float> x, float largest) {
  double sum = 0;
  for (const float one : x) sum += std::exp(static_cast<double>(one) - static_cast<double>(largest));
  return sum;
}

int64_t IndexOfLargest(std::span<const float> x) {
  if (Cpu() == CpuLevel::kReference || x.empty()) return reference::IndexOfLargest(x);
  UseCpuLevel();
  return HWY_DYNAMIC_DISPATCH(FindLargest)(x.data(), static_cast<int64_t>(x.size()));
}

double SumOfExps(std::span<const float> x, float largest) {
  if (Cpu() == CpuLevel::kReference) return reference::SumOfExps(x, largest);
  UseCpuLevel();
  return HWY_DYNAMIC_DISPATCH(AddExps)(x.data(), static_cast<int64_t>(x.size()), largest);
}

}  // namespace purekv
#endif  // HWY_ONCE
