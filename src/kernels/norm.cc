// RmsNorm and LayerNorm.
#include "base/threads.h"
#include "kernels/elementwise.h"
#include "kernels/reference.h"
#include "kernels/rows.h"
#include "kernels/simd.h"
#include "kernels/simd_target.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/norm.cc"
// clang-format off
#include "hwy/foreach_target.h"  // must come before highway.h
#include "hwy/highway.h"
#include "kernels/simd-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace purekv {
namespace HWY_NAMESPACE {

// Vectors of partial sums over this many elements, then a double: the error stays near 1e-7 for any row length and any
// vector width (one f32 accumulator on a one-lane target would lose 1e-5 at 8192 elements).
constexpr int64_t kSumBlock = 512;

HWY_INLINE double SumOfSquares(const float* x, int64_t d, float mean) {
  const FloatVec m = hn::Set(FloatTag(), mean);
  double total = 0;
  for (int64_t begin = 0; begin < d; begin += kSumBlock) {
    const int64_t end = HWY_MIN(d, begin + kSumBlock);
    FloatVec sum0 = hn::Zero(FloatTag());
    FloatVec sum1 = hn::Zero(FloatTag());
    int64_t i = begin;
    for (; i + 2 * kLanes <= end; i += 2 * kLanes) {
      const FloatVec a = hn::Sub(LoadVec(x + i), m);
      const FloatVec b = hn::Sub(LoadVec(x + i + kLanes), m);
      sum0 = hn::MulAdd(a, a, sum0);
      sum1 = hn::MulAdd(b, b, sum1);
    }
    for (; i + kLanes <= end; i += kLanes) {
      const FloatVec a = hn::Sub(LoadVec(x + i), m);
      sum0 = hn::MulAdd(a, a, sum0);
    }
    total += static_cast<double>(SumLanes(hn::Add(sum0, sum1)));
    for (; i < end; ++i) {
      const double a = static_cast<double>(x[i]) - static_cast<double>(mean);
      total += a * a;
    }
  }
  return total;
}

HWY_INLINE double Sum(const float* x, int64_t d) {
  double total = 0;
  for (int64_t begin = 0; begin < d; begin += kSumBlock) {
    const int64_t end = HWY_MIN(d, begin + kSumBlock);
    FloatVec sum = hn::Zero(FloatTag());
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) sum = hn::Add(sum, LoadVec(x + i));
    total += static_cast<double>(SumLanes(sum));
    for (; i < end; ++i) total += static_cast<double>(x[i]);
  }
  return total;
}

// (x - mean) * scale * weight + bias; bias may be null.
struct Affine {
  FloatVec mean;
  FloatVec scale;
  const float* weight;
  const float* bias;
  HWY_INLINE FloatVec At(FloatVec x, int64_t i, int64_t n) const {
    const FloatVec normed = hn::Mul(hn::Sub(x, mean), scale);
    const FloatVec w = LoadAt(weight, i, n);
    return bias == nullptr ? hn::Mul(normed, w) : hn::MulAdd(normed, w, LoadAt(bias, i, n));
  }
};

template <class Out>
void NormRowsTo(const NormArgs& args, int64_t begin, int64_t end) {
  const int64_t d = args.x.cols;
  for (int64_t r = begin; r < end; ++r) {
    const float* x = args.x.Row(r);
    const float mean = args.bias == nullptr ? 0.0f : static_cast<float>(Sum(x, d) / static_cast<double>(d));
    const double variance = SumOfSquares(x, d, mean) / static_cast<double>(d);
    const auto scale = static_cast<float>(1.0 / std::sqrt(variance + static_cast<double>(args.eps)));
    const Affine affine{hn::Set(FloatTag(), mean), hn::Set(FloatTag(), scale), args.weight, args.bias};
    MapRow(x, OutRow<Out>(args.out, r), d, affine);
  }
}

void NormRows(const NormArgs& args, int64_t begin, int64_t end) {
  if (args.out.dtype == Dtype::kF32) {
    NormRowsTo<float>(args, begin, end);
  } else {
    NormRowsTo<BF16>(args, begin, end);
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace purekv
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace purekv {
namespace {

HWY_EXPORT(NormRows);

void Norm(const NormArgs& args) {
  CheckRows(args.x, args.out);
  UseCpuLevel();
  ParallelForRanges(args.x.rows, RowGrain(args.x.cols), [&args](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(NormRows)(args, begin, end);
  });
}

}  // namespace

void RmsNorm(MatrixView<const float> x, std::span<const float> weight, float eps, AnyMatrixView out) {
  PUREKV_CHECK(static_cast<int64_t>(weight.size()) == x.cols, weight.size(), " weights for ", x.cols);
  if (Cpu() == CpuLevel::kReference) return reference::RmsNorm(x, weight, eps, out);
  Norm({x, weight.data(), nullptr, eps, out});
}

void LayerNorm(MatrixView<const float> x, std::span<const float> weight, std::span<const float> bias, float eps,
               AnyMatrixView out) {
  PUREKV_CHECK(static_cast<int64_t>(weight.size()) == x.cols, weight.size(), " weights for ", x.cols);
  PUREKV_CHECK(static_cast<int64_t>(bias.size()) == x.cols, bias.size(), " biases for ", x.cols);
  if (Cpu() == CpuLevel::kReference) return reference::LayerNorm(x, weight, bias, eps, out);
  Norm({x, weight.data(), bias.data(), eps, out});
}

}  // namespace purekv
#endif  // HWY_ONCE
