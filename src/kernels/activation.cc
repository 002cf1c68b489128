// Activate and GatedActivate: SiLU and the GELU family.
#include "base/threads.h"
#include "kernels/elementwise.h"
#include "kernels/rows.h"
#include "kernels/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/activation.cc"
// clang-format off
#include "hwy/foreach_target.h"  // must come before highway.h
#include "hwy/highway.h"
#include "hwy/contrib/math/math-inl.h"
#include "kernels/simd-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace purekv {
namespace HWY_NAMESPACE {

HWY_INLINE FloatVec Const(double value) {
  return hn::Set(FloatTag(), static_cast<float>(value));
}

// 1 / (1 + e^-y), relative error about 2e-7. e^104 is the end of Exp's range; it is already infinite, and the result 0.
HWY_INLINE FloatVec Sigmoid(FloatVec y) {
  const FloatVec e = hn::Exp(FloatTag(), hn::Min(hn::Neg(y), Const(104)));
  return hn::Div(Const(1), hn::Add(Const(1), e));
}

// erfc(z) for z >= 0, relative error about 3e-7: e^{-z^2} P(u) / (1 + 2z), u = (z - 3) / (z + 3), P of degree 10
// interpolates e^{z^2} erfc(z) (1 + 2z) at Chebyshev nodes of z in [0, 10] (3e-9). A 5-term Abramowitz-Stegun form was
// shorter, but its 1.5e-7 is absolute: GELU's negative tail would have had no correct digit.
HWY_INLINE FloatVec Erfc(FloatVec z) {
  const FloatVec u = hn::Div(hn::Sub(z, Const(3)), hn::Add(z, Const(3)));
  FloatVec p = Const(-0.0002782656999);
  p = hn::MulAdd(p, u, Const(-0.0008009517877));
  p = hn::MulAdd(p, u, Const(0.001992521019));
  p = hn::MulAdd(p, u, Const(0.002579984264));
  p = hn::MulAdd(p, u, Const(-0.02378911781));
  p = hn::MulAdd(p, u, Const(0.06829366712));
  p = hn::MulAdd(p, u, Const(-0.1192728274));
  p = hn::MulAdd(p, u, Const(0.1296465376));
  p = hn::MulAdd(p, u, Const(-0.04756227211));
  p = hn::MulAdd(p, u, Const(-0.1356211419));
  p = hn::MulAdd(p, u, Const(1.253008058));
  return hn::Div(hn::Mul(hn::Exp(FloatTag(), hn::Neg(hn::Mul(z, z))), p), hn::MulAdd(Const(2), z, Const(1)));
}

// x * Phi(x), Phi the normal distribution function.
HWY_INLINE FloatVec GeluErf(FloatVec x) {
  const FloatVec z = hn::Min(hn::Mul(hn::Abs(x), Const(0.70710678118654752)), Const(11));  // erfc(11) underflows to 0
  const FloatVec half = hn::Mul(Const(0.5), Erfc(z));
  return hn::Mul(x, hn::IfThenElse(hn::Lt(x, Const(0)), half, hn::Sub(Const(1), half)));
}

// 0.5 (1 + tanh(y)) = sigmoid(2y): no cancellation for negative x.
HWY_INLINE FloatVec GeluTanh(FloatVec x) {
  const FloatVec cubic = hn::Mul(x, hn::MulAdd(Const(0.044715), hn::Mul(x, x), Const(1)));
  return hn::Mul(x, Sigmoid(hn::Mul(Const(2 * 0.79788456080286536), cubic)));
}

template <Activation kActivation>
HWY_INLINE FloatVec Apply(FloatVec x) {
  if constexpr (kActivation == Activation::kSilu) return hn::Mul(x, Sigmoid(x));
  if constexpr (kActivation == Activation::kGeluErf) return GeluErf(x);
  if constexpr (kActivation == Activation::kGeluTanh) return GeluTanh(x);
  if constexpr (kActivation == Activation::kQuickGelu) return hn::Mul(x, Sigmoid(hn::Mul(Const(1.702), x)));
}

template <Activation kActivation>
struct Gate {
  const float* up;  // null: plain activation
  HWY_INLINE FloatVec At(FloatVec x, int64_t i, int64_t n) const {
    const FloatVec y = Apply<kActivation>(x);
    return up == nullptr ? y : hn::Mul(y, LoadAt(up, i, n));
  }
};

template <Activation kActivation>
void ActivateAs(const ActivateArgs& args, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const Gate<kActivation> gate{args.up.data == nullptr ? nullptr : args.up.Row(r)};
    if (args.out.dtype == Dtype::kF32) {
      MapRow(args.x.Row(r), OutRow<float>(args.out, r), args.x.cols, gate);
    } else {
      MapRow(args.x.Row(r), OutRow<BF16>(args.out, r), args.x.cols, gate);
    }
  }
}

void ActivateRows(const ActivateArgs& args, int64_t begin, int64_t end) {
  switch (args.activation) {
    case Activation::kSilu:
      return ActivateAs<Activation::kSilu>(args, begin, end);
    case Activation::kGeluErf:
      return ActivateAs<Activation::kGeluErf>(args, begin, end);
    case Activation::kGeluTanh:
      return ActivateAs<Activation::kGeluTanh>(args, begin, end);
    case Activation::kQuickGelu:
      return ActivateAs<Activation::kQuickGelu>(args, begin, end);
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace purekv
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace purekv {
namespace {

HWY_EXPORT(ActivateRows);

void Run(const ActivateArgs& args) {
  CheckRows(args.x, args.out);
  ParallelForRanges(args.x.rows, RowGrain(args.x.cols), [&args](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(ActivateRows)(args, begin, end);
  });
}

}  // namespace

void Activate(Activation activation, MatrixView<const float> x, AnyMatrixView out) {
  Run({activation, x, {}, out});
}

void GatedActivate(Activation activation, MatrixView<const float> gate, MatrixView<const float> up, AnyMatrixView out) {
  PUREKV_CHECK(up.rows == gate.rows && up.cols == gate.cols, up.rows, " x ", up.cols, " for ", gate.rows, " x ",
               gate.cols);
  Run({activation, gate, up, out});
}

}  // namespace purekv
#endif  // HWY_ONCE
