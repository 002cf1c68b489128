// Vector helpers shared by the kernels: loads and stores of f32, bf16 and f16 as f32 vectors, partial ones at row ends,
// sums. Included once per instruction set (hence the guard that toggles); lives inside HWY_NAMESPACE.
#if defined(PUREKV_KERNELS_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PUREKV_KERNELS_SIMD_INL_H_
#undef PUREKV_KERNELS_SIMD_INL_H_
#else
#define PUREKV_KERNELS_SIMD_INL_H_
#endif

#include <cstdint>
#include <cstring>

#include "base/bfloat16.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace purekv {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using FloatTag = hn::ScalableTag<float>;
using FloatVec = hn::Vec<FloatTag>;
constexpr int64_t kLanes = static_cast<int64_t>(hn::MaxLanes(FloatTag()));

HWY_INLINE FloatVec LoadVec(const float* p) {
  return hn::LoadU(FloatTag(), p);
}

HWY_INLINE FloatVec LoadVec(const BF16* p) {
  const hn::Rebind<uint16_t, FloatTag> half;
  const hn::Rebind<uint32_t, FloatTag> full;
  const auto bits = hn::PromoteTo(full, hn::LoadU(half, reinterpret_cast<const uint16_t*>(p)));
  return hn::BitCast(FloatTag(), hn::ShiftLeft<16>(bits));
}

// Exact, with infinities and NaN (Highway 1.0.3's PromoteTo without F16C makes numbers of those).
HWY_INLINE FloatVec LoadVec(const F16* p) {
  const FloatTag f32;
  const hn::Rebind<uint16_t, FloatTag> half;
  const hn::Rebind<uint32_t, FloatTag> u32;
  const hn::Rebind<int32_t, FloatTag> i32;
  const auto bits = hn::PromoteTo(u32, hn::LoadU(half, reinterpret_cast<const uint16_t*>(p)));
  const auto sign = hn::ShiftLeft<16>(hn::And(bits, hn::Set(u32, 0x8000u)));
  const auto magnitude = hn::And(bits, hn::Set(u32, 0x7fffu));
  const auto shifted = hn::ShiftLeft<13>(magnitude);
  const auto normal = hn::Add(shifted, hn::Set(u32, 112u << 23));
  const auto special = hn::Or(shifted, hn::Set(u32, 0x7f800000u));
  const auto subnormal = hn::Mul(hn::ConvertTo(f32, hn::BitCast(i32, magnitude)), hn::Set(f32, 0x1p-24f));
  const auto is_special = hn::Gt(hn::BitCast(i32, magnitude), hn::Set(i32, 0x7bff));
  const auto is_subnormal = hn::Lt(hn::BitCast(i32, magnitude), hn::Set(i32, 0x400));
  const FloatVec finite = hn::IfThenElse(hn::RebindMask(f32, is_subnormal), subnormal, hn::BitCast(f32, normal));
  const FloatVec value = hn::IfThenElse(hn::RebindMask(f32, is_special), hn::BitCast(f32, special), finite);
  return hn::Or(value, hn::BitCast(f32, sign));
}

// Codes of quantised numbers.
HWY_INLINE FloatVec LoadVec(const uint8_t* p) {
  const hn::Rebind<uint8_t, FloatTag> u8;
  const hn::Rebind<int32_t, FloatTag> i32;
  return hn::ConvertTo(FloatTag(), hn::PromoteTo(i32, hn::LoadU(u8, p)));
}

HWY_INLINE void StoreVec(FloatVec v, float* p) {
  hn::StoreU(v, FloatTag(), p);
}

// Round to nearest even; NaN stays NaN: the same bits as ToBF16.
HWY_INLINE void StoreVec(FloatVec v, BF16* p) {
  const hn::Rebind<uint32_t, FloatTag> u32;
  const hn::Rebind<int32_t, FloatTag> i32;
  const hn::Rebind<uint16_t, FloatTag> u16;
  const auto bits = hn::BitCast(u32, v);
  const auto top = hn::ShiftRight<16>(bits);
  const auto odd = hn::And(top, hn::Set(u32, 1u));
  const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(u32, 0x7fffu))));
  const auto nan = hn::Gt(hn::BitCast(i32, hn::And(bits, hn::Set(u32, 0x7fffffffu))), hn::Set(i32, 0x7f800000));
  const auto quiet = hn::Or(top, hn::Set(u32, 0x40u));
  const auto result = hn::IfThenElse(nan, hn::BitCast(i32, quiet), hn::BitCast(i32, rounded));
  hn::StoreU(hn::DemoteTo(u16, result), u16, reinterpret_cast<uint16_t*>(p));
}

// The first n < kLanes elements, zeros behind; touches no byte beyond them. One lane has no parts: said to the compiler
// too, since GCC 12 under the sanitizers does not see it and warns of a copy beyond the buffer.
template <class T>
HWY_INLINE FloatVec LoadPart(const T* p, int64_t n) {
  T buffer[kLanes] = {};
  if constexpr (kLanes > 1) std::memcpy(buffer, p, static_cast<size_t>(n) * sizeof(T));
  return LoadVec(buffer);
}
template <class T>
HWY_INLINE void StorePart(FloatVec v, T* p, int64_t n) {
  T buffer[kLanes];
  StoreVec(v, buffer);
  if constexpr (kLanes > 1) std::memcpy(p, buffer, static_cast<size_t>(n) * sizeof(T));
}

HWY_INLINE float SumLanes(FloatVec v) {
  return hn::GetLane(hn::SumOfLanes(FloatTag(), v));
}

// out[i] = fn(i, vector of in[i ...]) over a row; fn's operator() is HWY_INLINE of this target.
template <class In, class Out, class Fn>
HWY_INLINE void MapRow(const In* in, Out* out, int64_t n, const Fn& fn) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) StoreVec(fn.At(LoadVec(in + i), i, kLanes), out + i);
  if (i < n) StorePart(fn.At(LoadPart(in + i, n - i), i, n - i), out + i, n - i);
}

// A second operand of MapRow at position i, `n` elements of it.
HWY_INLINE FloatVec LoadAt(const float* p, int64_t i, int64_t n) {
  return n == kLanes ? LoadVec(p + i) : LoadPart(p + i, n);
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace purekv
HWY_AFTER_NAMESPACE();

#endif  // PUREKV_KERNELS_SIMD_INL_H_
