// Matrix-vector products, split over panels of outputs: each sum is made by one thread in one order.
#include "kernels/few_rows.h"

#include <algorithm>
#include <cstring>

#include "base/bfloat16.h"
#include "base/error.h"
#include "base/threads.h"
#include "kernels/elementwise.h"
#include "kernels/simd.h"
#include "kernels/simd_target.h"

#ifndef PUREKV_FEW_ROWS_ARGS
#define PUREKV_FEW_ROWS_ARGS
namespace purekv {

struct PanelArgs {
  const float* x;
  int64_t stride, rows;
  const float* panel;
  int64_t in, width;
  bool first;
  float* sums;
};

struct DotArgs {
  const float* x;
  int64_t stride, rows;
  const void* weights;
  Dtype dtype;
  int64_t in, count;
  bool as_alone;
  float* sums;
};

}  // namespace purekv
#endif

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/few_rows.cc"
// clang-format off
#include "hwy/foreach_target.h"  // must come before highway.h
#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "kernels/simd-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace purekv {
namespace HWY_NAMESPACE {

constexpr int64_t kSumStride = 64;
constexpr int64_t kSumBlock = 256;
constexpr int64_t kAheadBytes = 4096;  // asked for ahead: the hardware's own prefetch stops at each page

// kRows rows times kVectors vectors of outputs.
template <int kRows, int kVectors>
HWY_INLINE void Columns(const float* x, int64_t stride, const float* w, int64_t in, int64_t width, bool first,
                        float* sums) {
  const FloatTag d;
  // Sums of kSumBlock inputs each: one f32 sum of thousands would lose a digit.
  for (int64_t begin = 0; begin < in; begin += kSumBlock) {
    const int64_t end = HWY_MIN(in, begin + kSumBlock);
    FloatVec acc[kRows][kVectors];
    for (auto& row : acc) {
      for (auto& sum : row) sum = hn::Zero(d);
    }
    for (int64_t i = begin; i < end; ++i) {
      const float* const row = w + i * width;
      for (int v = 0; v < kVectors; ++v) {
        if (v * kLanes % 16 == 0) hwy::Prefetch(row + kAheadBytes / 4 + v * kLanes);
        const FloatVec weights = LoadVec(row + v * kLanes);
        for (int r = 0; r < kRows; ++r) acc[r][v] = hn::MulAdd(weights, hn::Set(d, x[r * stride + i]), acc[r][v]);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        float* const to = sums + r * kSumStride + v * kLanes;
        StoreVec(first && begin == 0 ? acc[r][v] : hn::Add(acc[r][v], LoadVec(to)), to);
      }
    }
  }
}

template <int kRows>
void PanelRows(const float* x, int64_t stride, const float* w, int64_t in, int64_t width, bool first, float* sums) {
  constexpr int kVectors = kRows <= 4 ? 4 : 2;
  int64_t out = 0;
  for (; out + kVectors * kLanes <= width; out += kVectors * kLanes) {
    Columns<kRows, kVectors>(x, stride, w + out, in, width, first, sums + out);
  }
  for (; out < width; out += kLanes) Columns<kRows, 1>(x, stride, w + out, in, width, first, sums + out);
}

void PanelF32(const PanelArgs& a) {
  const auto run = [&]<int kRows>() { PanelRows<kRows>(a.x, a.stride, a.panel, a.in, a.width, a.first, a.sums); };
  switch (a.rows) {
    case 1:
      return run.template operator()<1>();
    case 2:
      return run.template operator()<2>();
    case 3:
      return run.template operator()<3>();
    case 4:
      return run.template operator()<4>();
    case 5:
      return run.template operator()<5>();
    case 6:
      return run.template operator()<6>();
    case 7:
      return run.template operator()<7>();
    default:
      return run.template operator()<8>();
  }
}

// Dot products of kRows rows of x with one row of weights, kChains vectors at a time.
template <class T, int kRows>
HWY_INLINE void Dot(const float* x, int64_t stride, const T* w, int64_t in, float* sums) {
  constexpr int kChains = kRows <= 2 ? 4 : 2;
  constexpr int64_t kAhead = kAheadBytes / static_cast<int64_t>(sizeof(T));
  const FloatTag d;
  FloatVec acc[kChains][kRows];
  for (auto& chain : acc) {
    for (auto& sum : chain) sum = hn::Zero(d);
  }
  int64_t i = 0;
  for (; i + kChains * kLanes <= in; i += kChains * kLanes) {
    hwy::Prefetch(w + i + kAhead);
    for (int chain = 0; chain < kChains; ++chain) {
      const int64_t at = i + chain * kLanes;
      const FloatVec weights = LoadVec(w + at);
      for (int r = 0; r < kRows; ++r) {
        acc[chain][r] = hn::MulAdd(weights, LoadVec(x + r * stride + at), acc[chain][r]);
      }
    }
  }
  for (; i < in; i += kLanes) {
    const int64_t n = HWY_MIN(kLanes, in - i);
    const FloatVec weights = n == kLanes ? LoadVec(w + i) : LoadPart(w + i, n);
    for (int r = 0; r < kRows; ++r) acc[0][r] = hn::MulAdd(weights, LoadAt(x + r * stride, i, n), acc[0][r]);
  }
  for (int r = 0; r < kRows; ++r) {
    FloatVec sum = acc[0][r];
    for (int chain = 1; chain < kChains; ++chain) sum = hn::Add(sum, acc[chain][r]);
    sums[r * kSumStride] = SumLanes(sum);
  }
}

template <class T>
void DotsOf(const DotArgs& a) {
  for (int64_t o = 0; o < a.count; ++o) {
    const T* const w = static_cast<const T*>(a.weights) + o * a.in;
    int64_t r = 0;
    // Four rows have two chains of sums, one and two have four.
    for (; !a.as_alone && r + 4 <= a.rows; r += 4)
      Dot<T, 4>(a.x + r * a.stride, a.stride, w, a.in, a.sums + r * kSumStride + o);
    for (; r + 2 <= a.rows; r += 2) Dot<T, 2>(a.x + r * a.stride, a.stride, w, a.in, a.sums + r * kSumStride + o);
    for (; r < a.rows; ++r) Dot<T, 1>(a.x + r * a.stride, a.stride, w, a.in, a.sums + r * kSumStride + o);
  }
}

void Dots(const DotArgs& args) {
  if (args.dtype == Dtype::kF32) {
    DotsOf<float>(args);
  } else {
    DotsOf<BF16>(args);
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace purekv
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace purekv {
namespace {
HWY_EXPORT(PanelF32);
HWY_EXPORT(Dots);

constexpr int64_t kSums = 64;  // row stride of a panel's sums
constexpr int64_t kGroup = 4;  // panels one task reads side by side
constexpr int64_t kPlainTask = 64;

// Rows of x side by side, zeros up to `in`, in the calling thread's scratch. bf16 or f32.
const void* DenseRows(const AnyMatrixView& x, Dtype dtype, int64_t in, Buffer& buffer) {
  const size_t size = DtypeSize(dtype);
  const size_t bytes = static_cast<size_t>(x.rows * in) * size;
  if (buffer.size() < bytes) buffer.Resize(bytes);
  for (int64_t r = 0; r < x.rows; ++r) {
    char* const to = static_cast<char*>(buffer.data()) + static_cast<size_t>(r * in) * size;
    const void* const from = x.Rows(r, 1).data;
    if (x.dtype == dtype) {
      std::memcpy(to, from, static_cast<size_t>(x.cols) * size);
    } else {
      PUREKV_CHECK(dtype == Dtype::kF32, DtypeName(dtype));
      ToFloats(from, x.dtype, x.cols, reinterpret_cast<float*>(to));
    }
    std::memset(to + static_cast<size_t>(x.cols) * size, 0, static_cast<size_t>(in - x.cols) * size);
  }
  return buffer.data();
}

}  // namespace

void MultiplyFewRows(AnyMatrixView x, const WeightPanels& weights, const Epilogue& epilogue) {
  PUREKV_CHECK(x.rows >= 1 && x.rows <= kMatrixVectorRows && x.dtype == weights.dtype, x.rows, " rows of ",
               DtypeName(x.dtype));
  PUREKV_CHECK(weights.width % 16 == 0 && weights.width <= kSums, weights.width, " outputs in a panel");
  static thread_local Buffer buffer;
  const void* const rows = DenseRows(x, x.dtype, weights.in, buffer);
  UseCpuLevel();
  const int64_t panels = weights.panels();
  const size_t size = DtypeSize(weights.dtype);
  const int64_t count = x.rows;
  const bool as_alone = epilogue.sums == RowSums::kAsAlone && count > 1;
  ParallelForRanges(panels, kGroup, [&](int64_t begin, int64_t end) {
    alignas(64) float sums[kGroup][kMatrixVectorRows * kSums];
    for (int64_t block = 0; block < weights.in; block += weights.block_in) {
      const int64_t inputs = std::min(weights.block_in, weights.in - block);
      const int64_t panel_bytes = inputs * weights.width * static_cast<int64_t>(size);
      for (int64_t panel = begin; panel < end; ++panel) {
        const int64_t offset = block * panels * weights.width + panel * inputs * weights.width;
        const char* const w = static_cast<const char*>(weights.data) + static_cast<size_t>(offset) * size;
        float* const to = sums[panel - begin];
        // Whole groups of 32 outputs have one chain of sums for any number of rows; other bf16 panels have more for
        // fewer rows. So does no panel of f32.
        if (as_alone && weights.dtype == Dtype::kBF16 && !(weights.width == 32 && end - begin == kGroup)) {
          PanelBF16AsAlone(static_cast<const uint32_t*>(rows) + block / 2, weights.in / 2, count, w, inputs / 2,
                           weights.width, block == 0, to);
          continue;
        }
        if (weights.dtype == Dtype::kBF16 && weights.width == 32) {
          const int64_t done =
              PanelsBF16(static_cast<const uint32_t*>(rows) + block / 2, weights.in / 2, count, w, panel_bytes,
                         end - panel, inputs / 2, block == 0, to, kMatrixVectorRows * kSums);
          if (done > 0) {
            panel += done - 1;
            continue;
          }
        }
        if (weights.dtype == Dtype::kBF16) {
          PanelBF16(static_cast<const uint32_t*>(rows) + block / 2, weights.in / 2, count, w, inputs / 2, weights.width,
                    block == 0, to);
        } else {
          HWY_DYNAMIC_DISPATCH(PanelF32)
          (PanelArgs{static_cast<const float*>(rows) + block, weights.in, count, reinterpret_cast<const float*>(w),
                     inputs, weights.width, block == 0, to});
        }
      }
    }
    for (int64_t panel = begin; panel < end; ++panel) {
      const int64_t first = panel * weights.width;
      Finish(sums[panel - begin], kSums, count, std::min(weights.width, weights.out - first), 0, first, epilogue);
    }
  });
}

void MultiplyFewRows(AnyMatrixView x, const void* weights, Dtype dtype, int64_t out, const Epilogue& epilogue) {
  PUREKV_CHECK(x.rows >= 1 && x.rows <= kMatrixVectorRows, x.rows, " rows");
  static thread_local Buffer buffer;
  const void* const rows = DenseRows(x, Dtype::kF32, x.cols, buffer);
  UseCpuLevel();
  ParallelForRanges(out, kPlainTask, [&](int64_t begin, int64_t end) {
    alignas(64) float sums[kMatrixVectorRows * kSums];
    const char* const w = static_cast<const char*>(weights) + static_cast<size_t>(begin * x.cols) * DtypeSize(dtype);
    HWY_DYNAMIC_DISPATCH(Dots)
    (DotArgs{static_cast<const float*>(rows), x.cols, x.rows, w, dtype, x.cols, end - begin,
             epilogue.sums == RowSums::kAsAlone, sums});
    Finish(sums, kSums, x.rows, end - begin, 0, begin, epilogue);
  });
}

}  // namespace purekv
#endif  // HWY_ONCE
