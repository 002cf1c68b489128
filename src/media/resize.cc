#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "media/resize.cc"
#include "media/resize.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "base/error.h"
#include "base/threads.h"
#include "hwy/foreach_target.h"  // IWYU pragma: keep: compiles this file once per instruction set
#include "hwy/highway.h"
#include "media/resize_internal.h"

#ifndef PUREKV_MEDIA_RESIZE_ONCE
#define PUREKV_MEDIA_RESIZE_ONCE
namespace purekv {
namespace {

constexpr int64_t kChannels = 3;

// Uninitialised memory of a task. Rows of a few hundred KiB in all, so that they stay in the second-level cache.
template <class T>
std::unique_ptr<T[]> Scratch(int64_t count) {
  return std::unique_ptr<T[]>(new T[static_cast<size_t>(count)]);
}

}  // namespace
}  // namespace purekv
#endif  // PUREKV_MEDIA_RESIZE_ONCE

HWY_BEFORE_NAMESPACE();
namespace purekv {
namespace HWY_NAMESPACE {
#if HWY_TARGET == HWY_SCALAR

void TorchBand(const ResizeJob<float>& job, int64_t begin, int64_t end) {
  TorchBandReference(job, begin, end);
}
void PillowBand(const ResizeJob<int32_t>& job, int64_t begin, int64_t end) {
  PillowBandReference(job, begin, end);
}

#else

namespace hn = hwy::HWY_NAMESPACE;

// Hides where a value comes from: GCC would otherwise fuse a multiplication with the addition after it.
template <class V>
HWY_INLINE V Unfused(V v) {
#if HWY_ARCH_X86 && HWY_COMPILER_GCC && !HWY_COMPILER_CLANG && HWY_TARGET != HWY_EMU128
  asm("" : "+x"(v.raw));
#endif
  return v;
}

// a * b + c, rounded once, on every target: without the instruction the product is taken in double, where it is exact.
// (The sum is then rounded to double before it is rounded to float, which can matter once in 2^29 sums.) A plain
// product and sum moved 1 value in 280,000 by a level, so that a model saw other pixels under PUREKV_CPU=portable.
template <class D, class V = hn::Vec<D> >
HWY_INLINE V Fused(D d, V a, V b, V c) {
#if HWY_NATIVE_FMA
  (void)d;
  return hn::MulAdd(a, b, c);
#else
  alignas(64) float x[hn::MaxLanes(D())];
  alignas(64) float y[hn::MaxLanes(D())];
  alignas(64) float z[hn::MaxLanes(D())];
  hn::Store(a, d, x);
  hn::Store(b, d, y);
  hn::Store(c, d, z);
  for (size_t i = 0; i < hn::Lanes(d); ++i) {
    x[i] = static_cast<float>(static_cast<double>(x[i]) * static_cast<double>(y[i]) + static_cast<double>(z[i]));
  }
  return hn::Load(d, x);
#endif
}

// How sums are made. Wide: type of weights and sums. Between: type of the rows between the two passes.
struct TorchArithmetic {
  using Wide = float;
  using Between = float;
  using D = hn::CappedTag<float, 16>;
  // The order and the roundings of torch's kernel as its compiler made it: the first product, then groups of four whose
  // products are rounded before they are added one after another, then the rest with fused multiply-adds. Everything
  // fused gave 51 values of 22.9 million that were off by one level.
  template <class Load>
  static HWY_INLINE hn::Vec<D> Sum(D d, const float* w, int64_t count, const Load& load) {
    hn::Vec<D> sum = hn::Mul(load(0), hn::Set(d, w[0]));
    int64_t k = 1;
    for (; k + 4 <= count; k += 4) {
      for (int64_t j = k; j < k + 4; ++j) sum = hn::Add(Unfused(hn::Mul(load(j), hn::Set(d, w[j]))), sum);
    }
    for (; k < count; ++k) sum = Fused(d, load(k), hn::Set(d, w[k]), sum);
    return sum;
  }
  static hn::Vec<D> LoadBetween(D d, const float* from) { return hn::LoadU(d, from); }
  static void StoreBetween(D d, hn::Vec<D> sum, float* to) { hn::StoreU(sum, d, to); }
  static void StoreBytes(D d, hn::Vec<D> sum, uint8_t* to) {
    const hn::Rebind<uint8_t, D> db;
    const auto clamped = hn::Min(hn::Max(sum, hn::Zero(d)), hn::Set(d, 255.0f));
    hn::StoreU(hn::DemoteTo(db, hn::NearestInt(clamped)), db, to);
  }
  static void StorePixel(hn::Vec<hn::FixedTag<int32_t, 4> > pixel, float* to) {
    const hn::FixedTag<float, 4> d4;
    hn::StoreU(hn::ConvertTo(d4, pixel), d4, to);
  }
};

struct PillowArithmetic {
  using Wide = int32_t;
  using Between = uint8_t;
  using D = hn::CappedTag<int32_t, 16>;
  template <class Load>
  static HWY_INLINE hn::Vec<D> Sum(D d, const int32_t* w, int64_t count, const Load& load) {
    hn::Vec<D> sum = hn::Set(d, int32_t{1} << (kPillowBits - 1));
    for (int64_t k = 0; k < count; ++k) sum = hn::Add(sum, hn::Mul(load(k), hn::Set(d, w[k])));
    return sum;
  }
  static hn::Vec<D> LoadBetween(D d, const uint8_t* from) {
    const hn::Rebind<uint8_t, D> db;
    return hn::PromoteTo(d, hn::LoadU(db, from));
  }
  static void StoreBytes(D, hn::Vec<D> sum, uint8_t* to) {
    const hn::Rebind<uint8_t, D> db;
    hn::StoreU(hn::DemoteTo(db, hn::ShiftRight<kPillowBits>(sum)), db, to);
  }
  static void StoreBetween(D d, hn::Vec<D> sum, uint8_t* to) { StoreBytes(d, sum, to); }
  static void StorePixel(hn::Vec<hn::FixedTag<int32_t, 4> > pixel, int32_t* to) {
    hn::StoreU(pixel, hn::FixedTag<int32_t, 4>(), to);
  }
};

// Horizontal pass over `rows` <= lanes / 4 rows at once. A pixel of each row fills four lanes (R, G, B, one unused), so
// that one vector holds the same column of all rows, and a tap is one load, one broadcast weight and one multiply-add,
// in the order the references add. Lanes along the row would need a gather per tap. `packed`: [in_width, lanes].
template <class A>
void Horizontal(const ResizeJob<typename A::Wide>& job, int64_t first_row, int64_t rows, typename A::Wide* packed,
                typename A::Between* out, int64_t out_stride) {
  const typename A::D d;
  const hn::FixedTag<uint8_t, 4> d_bytes;
  const hn::FixedTag<int32_t, 4> d_pixel;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t r = 0; r < lanes / 4; ++r) {
    const uint8_t* from = job.in + (first_row + std::min(r, rows - 1)) * job.in_stride;
    typename A::Wide* to = packed + r * 4;
    for (int64_t x = 0; x + 1 < job.in_width; ++x, from += kChannels, to += lanes) {
      A::StorePixel(hn::PromoteTo(d_pixel, hn::LoadU(d_bytes, from)), to);  // the next pixel's red is the unused lane
    }
    const uint8_t last[4] = {from[0], from[1], from[2], 0};
    A::StorePixel(hn::PromoteTo(d_pixel, hn::LoadU(d_bytes, last)), to);
  }
  const ResizeWeights<typename A::Wide>& weights = *job.horizontal;
  alignas(64) typename A::Between pixel[16];
  for (int64_t x = 0; x < job.out_width; ++x) {
    const typename A::Wide* from = packed + weights.first[static_cast<size_t>(x)] * lanes;
    const typename A::Wide* w = weights.weight.data() + x * weights.taps;
    const auto load = [&](int64_t k) HWY_ATTR { return hn::LoadU(d, from + k * lanes); };
    A::StoreBetween(d, A::Sum(d, w, weights.count[static_cast<size_t>(x)], load), pixel);
    // Four values are written for three: the next pixel, or the row's padding, takes the fourth's place.
    for (int64_t r = 0; r < rows; ++r) {
      std::memcpy(out + r * out_stride + x * kChannels, pixel + r * 4, 4 * sizeof(typename A::Between));
    }
  }
}

// Output rows [begin, end) of a job.
template <class A>
void Band(const ResizeJob<typename A::Wide>& job, int64_t begin, int64_t end) {
  const typename A::D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const ResizeWeights<typename A::Wide>& weights = *job.vertical;
  int64_t row_begin = INT64_MAX;
  int64_t row_end = 0;
  for (int64_t y = begin; y < end; ++y) {
    const int64_t first = weights.first[static_cast<size_t>(y)];
    row_begin = std::min(row_begin, first);
    row_end = std::max(row_end, first + weights.count[static_cast<size_t>(y)]);
  }
  const int64_t values = job.out_width * kChannels;
  const int64_t stride =
      (values + 1 + lanes - 1) / lanes * lanes;  // padded: whole vectors are read, four values written
  const auto packed = Scratch<typename A::Wide>(job.in_width * lanes);
  const auto between = Scratch<typename A::Between>((row_end - row_begin) * stride);
  for (int64_t row = 0; row < row_end - row_begin; ++row) {
    std::fill(between.get() + row * stride + values, between.get() + (row + 1) * stride, typename A::Between{0});
  }
  const int64_t together = lanes / 4;
  for (int64_t row = row_begin; row < row_end; row += together) {
    Horizontal<A>(job, row, std::min(together, row_end - row), packed.get(), between.get() + (row - row_begin) * stride,
                  stride);
  }
  uint8_t tail[16];
  for (int64_t y = begin; y < end; ++y) {
    const typename A::Wide* w = weights.weight.data() + y * weights.taps;
    const int64_t count = weights.count[static_cast<size_t>(y)];
    const typename A::Between* from = between.get() + (weights.first[static_cast<size_t>(y)] - row_begin) * stride;
    uint8_t* to = job.out + y * values;
    for (int64_t x = 0; x < values; x += lanes) {
      const auto load = [&](int64_t k) HWY_ATTR { return A::LoadBetween(d, from + k * stride + x); };
      const auto sum = A::Sum(d, w, count, load);
      if (x + lanes <= values) {
        A::StoreBytes(d, sum, to + x);
      } else {
        A::StoreBytes(d, sum, tail);
        std::memcpy(to + x, tail, static_cast<size_t>(values - x));
      }
    }
  }
}

void TorchBand(const ResizeJob<float>& job, int64_t begin, int64_t end) {
  Band<TorchArithmetic>(job, begin, end);
}
void PillowBand(const ResizeJob<int32_t>& job, int64_t begin, int64_t end) {
  Band<PillowArithmetic>(job, begin, end);
}

#endif  // HWY_SCALAR

}  // namespace HWY_NAMESPACE
}  // namespace purekv
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace purekv {
namespace {

HWY_EXPORT(TorchBand);
HWY_EXPORT(PillowBand);

// Rows a task makes: enough that the rows two neighbouring tasks both need cost little.
constexpr int64_t kBandRows = 32;

template <class T, class Weights, class Run>
void Resize(const uint8_t* in, int64_t in_height, int64_t in_width, uint8_t* out, int64_t out_height, int64_t out_width,
            int64_t in_stride, Weights weights_of, Run run) {
  PUREKV_CHECK(in_height >= 1 && in_width >= 1 && out_height >= 1 && out_width >= 1, in_height, " x ", in_width, " to ",
               out_height, " x ", out_width);
  const ResizeWeights<T> horizontal = weights_of(in_width, out_width);
  const ResizeWeights<T> vertical = weights_of(in_height, out_height);
  ResizeJob<T> job;
  job.in = in;
  job.in_stride = in_stride == 0 ? in_width * kChannels : in_stride;
  job.in_width = in_width;
  job.out = out;
  job.out_width = out_width;
  job.horizontal = &horizontal;
  job.vertical = &vertical;
  if (in_height == out_height && in_width == out_width) {
    for (int64_t y = 0; y < in_height; ++y) {
      std::memcpy(out + y * in_width * kChannels, in + y * job.in_stride, static_cast<size_t>(in_width * kChannels));
    }
    return;
  }
  ParallelForRanges(out_height, kBandRows, [&](int64_t begin, int64_t end) { run(job, begin, end); });
}

}  // namespace

void ResizePillow(const uint8_t* in, int64_t in_height, int64_t in_width, uint8_t* out, int64_t out_height,
                  int64_t out_width, int64_t in_stride) {
  const auto run = [](const ResizeJob<int32_t>& job, int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(PillowBand)(job, begin, end);
  };
  if (in_width != out_width && out_height < in_height && in_height - out_height > 2 * (in_width - out_width)) {
    const auto between = Scratch<uint8_t>(out_height * in_width * kChannels);
    Resize<int32_t>(in, in_height, in_width, between.get(), out_height, in_width, in_stride, PillowWeights, run);
    Resize<int32_t>(between.get(), out_height, in_width, out, out_height, out_width, 0, PillowWeights, run);
    return;
  }
  Resize<int32_t>(in, in_height, in_width, out, out_height, out_width, in_stride, PillowWeights, run);
}

void ResizeTorchvision(const uint8_t* in, int64_t in_height, int64_t in_width, uint8_t* out, int64_t out_height,
                       int64_t out_width, int64_t in_stride) {
  Resize<float>(in, in_height, in_width, out, out_height, out_width, in_stride, TorchWeights,
                [](const ResizeJob<float>& job, int64_t begin, int64_t end) {
                  HWY_DYNAMIC_DISPATCH(TorchBand)(job, begin, end);
                });
}

}  // namespace purekv
#endif  // HWY_ONCE
