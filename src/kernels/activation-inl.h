// SiLU and the GELU family on f32 vectors: shared by the row kernels and the dense layers' epilogue. Included once per
// instruction set (hence the guard that toggles); lives inside HWY_NAMESPACE.
#if defined(PUREKV_KERNELS_ACTIVATION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PUREKV_KERNELS_ACTIVATION_INL_H_
#undef PUREKV_KERNELS_ACTIVATION_INL_H_
#else
#define PUREKV_KERNELS_ACTIVATION_INL_H_
#endif

// clang-format off
#include "hwy/highway.h"
#include "hwy/contrib/math/math-inl.h"
#include "kernels/elementwise.h"
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

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace purekv
HWY_AFTER_NAMESPACE();

#endif  // PUREKV_KERNELS_ACTIVATION_INL_H_
