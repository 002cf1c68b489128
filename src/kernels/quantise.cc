#include "kernels/quantise.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>

#include "base/bfloat16.h"
#include "base/cpu.h"
#include "base/error.h"
#include "kernels/simd.h"
#include "kernels/simd_target.h"

#ifndef PUREKV_QUANTISE_ARGS
#define PUREKV_QUANTISE_ARGS
namespace purekv {
namespace {

constexpr int64_t kMostValues = 128;
constexpr float kShares[] = {1.0F, 0.95F, 0.9F, 0.85F, 0.8F, 0.75F};  // of the range
constexpr int kRounds = 3;

// Of a value in 0 .. 255, where it is one instruction (std::nearbyint is a call).
inline float RoundToEven(float value) {
  constexpr float kUnits = 0x1.8p23F;  // numbers of this size are whole
  return (value + kUnits) - kUnits;
}

inline float ClampZero(float value) {
  return RoundToEven(std::clamp(value, 0.0F, 255.0F));
}

struct Int4Args {
  const float* w;
  int64_t count;
  float low, high;  // the range of w, with zero in it
  double sum;       // of w
  uint8_t* codes;
  Int4Group best;
};

// What a round leaves of each start, side by side: as vectors they are refitted at once.
struct Starts {
  static constexpr size_t kCount = std::size(kShares);
  static constexpr size_t kLanes = 8;
  float scale[kLanes] = {}, zero[kLanes] = {};
  double error[kLanes] = {}, q[kLanes] = {}, qq[kLanes] = {}, qw[kLanes] = {};  // sums
};

// What regression of w on the codes says, if it says anything. half(x): 8 values rounded to f16.
template <class Half>
void Refit(Starts* starts, double mean_w, double per_value, const Half& half) {
  float fitted[Starts::kLanes];
  double mean_q[Starts::kLanes];
  for (size_t a = 0; a < Starts::kLanes; ++a) {
    mean_q[a] = starts->q[a] * per_value;
    const double variance = starts->qq[a] * per_value - mean_q[a] * mean_q[a];
    const double covariance = starts->qw[a] * per_value - mean_q[a] * mean_w;
    fitted[a] = static_cast<float>(covariance / (variance > 0 ? variance : 1.0));
    fitted[a] = variance > 0 ? fitted[a] : 0.0F;
  }
  half(fitted);
  for (size_t a = 0; a < Starts::kLanes; ++a) {
    const bool says = fitted[a] > 0 && fitted[a] < INFINITY;
    starts->scale[a] = says ? fitted[a] : starts->scale[a];
    starts->zero[a] = ClampZero(static_cast<float>((mean_q[a] - mean_w / static_cast<double>(starts->scale[a])) * 16));
  }
}

// The search; round(scale, zero, starts, a) writes the sums of start a, half(x) rounds 8 values to f16. The starts take
// their rounds side by side, so that the divisions of one wait while another one rounds, and codes are written once, of
// the best: writing them in every round took half of the time, and refitting start by start the other half.
template <class Round, class Half>
void SearchInt4(Int4Args* args, const Round& round, const Half& half) {
  constexpr float kLargest = 65504;
  const double per_value = 1.0 / static_cast<double>(args->count);
  const double mean_w = args->sum * per_value;
  Starts starts;
  for (size_t a = 0; a < Starts::kCount; ++a) {
    starts.scale[a] = std::min(kShares[a] * (args->high - args->low) / 15, kLargest);
  }
  half(starts.scale);
  for (size_t a = 0; a < Starts::kLanes; ++a) {
    if (starts.scale[a] == 0) starts.scale[a] = 0x1p-24F;
    const float share = a < Starts::kCount ? kShares[a] : 0.0F;
    starts.zero[a] = ClampZero(-share * args->low / starts.scale[a] * 16);
  }
  // The first of the least errors, start by start.
  float best_scale[Starts::kCount], best_zero[Starts::kCount];
  double least[Starts::kCount];
  for (int i = 0; i < kRounds; ++i) {
    for (size_t a = 0; a < Starts::kCount; ++a) round(starts.scale[a], starts.zero[a], &starts, a);
    for (size_t a = 0; a < Starts::kCount; ++a) {
      const bool better = i == 0 || starts.error[a] < least[a] || !(least[a] < INFINITY);
      best_scale[a] = better ? starts.scale[a] : best_scale[a];
      best_zero[a] = better ? starts.zero[a] : best_zero[a];
      least[a] = better ? starts.error[a] : least[a];
    }
    if (i + 1 < kRounds) Refit(&starts, mean_w, per_value, half);
  }
  size_t best = 0;
  for (size_t a = 1; a < Starts::kCount; ++a) {
    if (least[a] < least[best] || !(least[best] < INFINITY)) best = a;
  }
  if (!(least[best] < INFINITY)) return;  // weights near the end of f32
  args->best = {best_scale[best], static_cast<uint8_t>(best_zero[best])};
}

}  // namespace
}  // namespace purekv
#endif

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/quantise.cc"
// clang-format off
#include "hwy/foreach_target.h"  // must come before highway.h
#include "hwy/highway.h"
#include "kernels/simd-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace purekv {
namespace HWY_NAMESPACE {

float LargestMagnitude(const float* w, int64_t count) {
  const FloatTag d;
  FloatVec most = hn::Zero(d);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) most = hn::Max(most, hn::Abs(LoadVec(w + i)));
  if (i < count) most = hn::Max(most, hn::Abs(LoadPart(w + i, count - i)));
  return hn::GetLane(hn::MaxOfLanes(d, most));
}

void RoundInt8(const float* w, int64_t count, float scale, uint8_t* codes) {
  const FloatTag d;
  const hn::Rebind<int32_t, FloatTag> i32;
  const hn::Rebind<int8_t, FloatTag> i8;
  const FloatVec divisor = hn::Set(d, scale);
  int8_t part[kLanes];
  for (int64_t i = 0; i < count; i += kLanes) {
    const int64_t n = HWY_MIN(kLanes, count - i);
    const FloatVec q = hn::Round(hn::Div(LoadAt(w, i, n), divisor));
    const auto clamped = hn::ConvertTo(i32, hn::Min(hn::Max(q, hn::Set(d, -127.0F)), hn::Set(d, 127.0F)));
    hn::StoreU(hn::DemoteTo(i8, clamped), i8, part);
    std::memcpy(codes + i, part, static_cast<size_t>(n));
  }
}

HWY_INLINE FloatVec Int4Code(FloatVec w, FloatVec scale, FloatVec zero) {
  const FloatTag d;
  return hn::Min(hn::Max(hn::Round(hn::Add(hn::Div(w, scale), zero)), hn::Zero(d)), hn::Set(d, 15.0F));
}

void EncodeInt4(const float* w, int64_t count, const Int4Group& group, uint8_t* codes) {
  const FloatTag d;
  const hn::Rebind<int32_t, FloatTag> i32;
  const hn::Rebind<uint8_t, FloatTag> u8;
  const FloatVec s = hn::Set(d, group.scale), z = hn::Set(d, static_cast<float>(group.zero) * 0.0625F);
  for (int64_t i = 0; i < count; i += kLanes) {
    hn::StoreU(hn::DemoteTo(u8, hn::ConvertTo(i32, Int4Code(LoadVec(w + i), s, z))), u8, codes + i);
  }
}

// The sums that the next round asks for. Lanes' sums are f32: of 128 / lanes values.
void RoundInt4(const float* w, int64_t count, float scale, float zero, Starts* starts, size_t start) {
  const FloatTag d;
  const FloatVec s = hn::Set(d, scale), z = hn::Set(d, zero * 0.0625F);
  FloatVec error = hn::Zero(d), q_sum = error, qq = error, qw = error;
  for (int64_t i = 0; i < count; i += kLanes) {
    const FloatVec value = LoadVec(w + i);
    const FloatVec q = Int4Code(value, s, z);
    const FloatVec far = hn::Sub(value, hn::Mul(s, hn::Sub(q, z)));
    error = hn::Add(error, hn::Mul(far, far));
    q_sum = hn::Add(q_sum, q);
    qq = hn::Add(qq, hn::Mul(q, q));
    qw = hn::Add(qw, hn::Mul(q, value));
  }
  starts->error[start] = static_cast<double>(SumLanes(error));
  starts->q[start] = static_cast<double>(SumLanes(q_sum));
  starts->qq[start] = static_cast<double>(SumLanes(qq));
  starts->qw[start] = static_cast<double>(SumLanes(qw));
}

void FindRange(Int4Args* args) {
  const FloatTag d;
  FloatVec low = hn::Zero(d), high = low, sum = low;
  for (int64_t i = 0; i < args->count; i += kLanes) {
    const FloatVec w = LoadVec(args->w + i);
    low = hn::Min(low, w);
    high = hn::Max(high, w);
    sum = hn::Add(sum, w);
  }
  args->low = hn::GetLane(hn::MinOfLanes(d, low));
  args->high = hn::GetLane(hn::MaxOfLanes(d, high));
  args->sum = static_cast<double>(SumLanes(sum));
}

void RoundToHalf(float* values) {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2
  const hn::CappedTag<float, Starts::kLanes> d;
  const hn::Rebind<hwy::float16_t, decltype(d)> f16;
  for (size_t i = 0; i < Starts::kLanes; i += hn::Lanes(d)) {
    hn::StoreU(hn::PromoteTo(d, hn::DemoteTo(f16, hn::LoadU(d, values + i))), d, values + i);
  }
#else  // Highway's own conversion, where there is no instruction, does not round ties to even
  for (size_t i = 0; i < Starts::kLanes; ++i) values[i] = ToFloat(ToF16(values[i]));
#endif
}

void SearchGroup(Int4Args* args) {
  FindRange(args);
  if (!(args->low < args->high)) return;
  const auto round = [args](float scale, float zero, Starts* starts, size_t start) {
    RoundInt4(args->w, args->count, scale, zero, starts, start);
  };
  SearchInt4(args, round, RoundToHalf);
  if (args->best.scale > 0) EncodeInt4(args->w, args->count, args->best, args->codes);
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace purekv
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace purekv {
namespace {
HWY_EXPORT(LargestMagnitude);
HWY_EXPORT(RoundInt8);
HWY_EXPORT(SearchGroup);

// What a group of zeros gets.
Int4Args Begin(std::span<const float> w, uint8_t* codes) {
  PUREKV_CHECK(w.size() <= kMostValues && w.size() % 32 == 0, w.size(), " values");
  std::memset(codes, 0, w.size());
  return {w.data(), static_cast<int64_t>(w.size()), 0, 0, 0, codes, {}};
}

}  // namespace

float QuantiseInt8(std::span<const float> w, uint8_t* codes) {
  UseCpuLevel();
  const auto count = static_cast<int64_t>(w.size());
  const float scale = HWY_DYNAMIC_DISPATCH(LargestMagnitude)(w.data(), count) / 127;
  if (scale > 0) {
    HWY_DYNAMIC_DISPATCH(RoundInt8)(w.data(), count, scale, codes);
  } else {
    std::memset(codes, 0, w.size());
  }
  return scale;
}

Int4Group QuantiseInt4(std::span<const float> w, uint8_t* codes) {
  if (Cpu() == CpuLevel::kReference) return reference::QuantiseInt4(w, codes);
  Int4Args args = Begin(w, codes);
  UseCpuLevel();
  HWY_DYNAMIC_DISPATCH(SearchGroup)(&args);
  return args.best;
}

namespace reference {

Int4Group QuantiseInt4(std::span<const float> w, uint8_t* codes) {
  Int4Args args = Begin(w, codes);
  for (const float one : w) {
    args.low = std::min(args.low, one);
    args.high = std::max(args.high, one);
    args.sum += static_cast<double>(one);
  }
  if (!(args.low < args.high)) return {};
  const auto code = [](float value, float scale, float zero) {
    return RoundToEven(std::clamp(value / scale + zero * 0.0625F, 0.0F, 15.0F));
  };
  const auto round = [&](float scale, float zero, Starts* starts, size_t start) {
    double error = 0, q_sum = 0, qq = 0, qw = 0;
    for (const float one : w) {
      const float q = code(one, scale, zero);
      const auto far = static_cast<double>(one - scale * (q - zero * 0.0625F));
      error += far * far;
      q_sum += static_cast<double>(q);
      qq += static_cast<double>(q) * static_cast<double>(q);
      qw += static_cast<double>(q) * static_cast<double>(one);
    }
    starts->error[start] = error;
    starts->q[start] = q_sum;
    starts->qq[start] = qq;
    starts->qw[start] = qw;
  };
  SearchInt4(&args, round, [](float* values) {
    for (size_t i = 0; i < Starts::kLanes; ++i) values[i] = ToFloat(ToF16(values[i]));
  });
  for (size_t i = 0; i < w.size() && args.best.scale > 0; ++i) {
    codes[i] = static_cast<uint8_t>(code(w[i], args.best.scale, static_cast<float>(args.best.zero)));
  }
  return args.best;
}

}  // namespace reference
}  // namespace purekv
#endif  // HWY_ONCE
