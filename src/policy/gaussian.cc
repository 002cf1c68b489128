#include "policy/gaussian.h"

#include "base/error.h"
#include "kernels/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "policy/gaussian.cc"
// clang-format off
#include "hwy/foreach_target.h"  // must come before highway.h
#include "hwy/highway.h"
#include "kernels/simd-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace purekv {
namespace HWY_NAMESPACE {

constexpr int64_t kTile = 4, kVecs = 2;  // sums in registers: four dimensions times two vectors

void OuterProducts(const float* x, int64_t dim, float* out) {
  const FloatTag tag;
  constexpr int64_t kStep = kVecs * kLanes;
  for (int64_t i = 0; i < dim; i += kTile) {
    for (int64_t j = i / kStep * kStep; j < dim; j += kStep) {
      FloatVec sums[kTile][kVecs];
      for (int64_t t = 0; t < kTile; ++t) {
        for (int64_t v = 0; v < kVecs; ++v) sums[t][v] = LoadVec(out + (i + t) * dim + j + v * kLanes);
      }
      for (int64_t r = 0; r < kGaussianRows; ++r) {
        const float* const row = x + r * dim;
        const FloatVec a = LoadVec(row + j);
        const FloatVec b = LoadVec(row + j + kLanes);
        for (int64_t t = 0; t < kTile; ++t) {
          const FloatVec left = hn::Set(tag, row[i + t]);
          sums[t][0] = hn::MulAdd(left, a, sums[t][0]);
          sums[t][1] = hn::MulAdd(left, b, sums[t][1]);
        }
      }
      for (int64_t t = 0; t < kTile; ++t) {
        for (int64_t v = 0; v < kVecs; ++v) StoreVec(sums[t][v], out + (i + t) * dim + j + v * kLanes);
      }
    }
  }
}

void Forms(const float* linear, const float* quadratic, int64_t dim, const float* keys, float* z) {
  const FloatTag tag;
  for (int64_t k = 0; k < kGaussianKeys; k += kVecs * kLanes) {
    FloatVec total[kVecs] = {hn::Zero(tag), hn::Zero(tag)};
    for (int64_t i = 0; i < dim; i += kTile) {
      FloatVec sums[kTile][kVecs];
      for (int64_t r = 0; r < kTile; ++r) sums[r][0] = sums[r][1] = hn::Set(tag, linear[i + r]);
      for (int64_t j = i; j < dim && quadratic != nullptr; ++j) {
        const FloatVec a = LoadVec(keys + j * kGaussianKeys + k);
        const FloatVec b = LoadVec(keys + j * kGaussianKeys + k + kLanes);
        for (int64_t r = 0; r < kTile; ++r) {
          const FloatVec weight = hn::Set(tag, quadratic[(i + r) * dim + j]);
          sums[r][0] = hn::MulAdd(weight, a, sums[r][0]);
          sums[r][1] = hn::MulAdd(weight, b, sums[r][1]);
        }
      }
      for (int64_t r = 0; r < kTile; ++r) {
        for (int64_t v = 0; v < kVecs; ++v) {
          total[v] = hn::MulAdd(LoadVec(keys + (i + r) * kGaussianKeys + k + v * kLanes), sums[r][v], total[v]);
        }
      }
    }
    for (int64_t v = 0; v < kVecs; ++v) StoreVec(total[v], z + k + v * kLanes);
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace purekv
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace purekv {
namespace {
HWY_EXPORT(OuterProducts);
HWY_EXPORT(Forms);
}  // namespace

void AddOuterProducts(const float* x, int64_t dim, float* out) {
  PUREKV_CHECK(dim % kGaussianPad == 0, dim);
  HWY_DYNAMIC_DISPATCH(OuterProducts)(x, dim, out);
}

void QuadraticForms(const float* linear, const float* quadratic, int64_t dim, const float* keys, float* z) {
  PUREKV_CHECK(dim % kGaussianPad == 0, dim);
  HWY_DYNAMIC_DISPATCH(Forms)(linear, quadratic, dim, keys, z);
}

}  // namespace purekv
#endif  // HWY_ONCE
