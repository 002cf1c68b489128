// Convert (f32 activations to the compute dtype) and ToFloats (checkpoint values to f32).
#include "base/threads.h"
#include "kernels/elementwise.h"
#include "kernels/reference.h"
#include "kernels/rows.h"
#include "kernels/simd.h"
#include "kernels/simd_target.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/convert.cc"
// clang-format off
#include "hwy/foreach_target.h"  // must come before highway.h
#include "hwy/highway.h"
#include "kernels/simd-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace purekv {
namespace HWY_NAMESPACE {

struct Same {
  HWY_INLINE FloatVec At(FloatVec x, int64_t, int64_t) const { return x; }
};

void ConvertRows(const MatrixView<const float>& x, const AnyMatrixView& out, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    if (out.dtype == Dtype::kF32) {
      std::memmove(OutRow<float>(out, r), x.Row(r), static_cast<size_t>(x.cols) * sizeof(float));
    } else {
      MapRow(x.Row(r), OutRow<BF16>(out, r), x.cols, Same());
    }
  }
}

// `data` may stand at any byte: bounced through an aligned block, which the compiler cannot assume it to be otherwise.
template <class T>
HWY_INLINE void WidenBytes(const char* data, int64_t count, float* out) {
  constexpr int64_t kBlock = 256;
  T block[kBlock];
  for (int64_t i = 0; i < count; i += kBlock) {
    const int64_t n = HWY_MIN(kBlock, count - i);
    std::memcpy(block, data + static_cast<size_t>(i) * sizeof(T), static_cast<size_t>(n) * sizeof(T));
    MapRow(block, out + i, n, Same());
  }
}

void WidenRange(const char* data, Dtype dtype, int64_t count, float* out) {
  switch (dtype) {
    case Dtype::kF32:
      std::memcpy(out, data, static_cast<size_t>(count) * sizeof(float));
      return;
    case Dtype::kBF16:
      return WidenBytes<BF16>(data, count, out);
    case Dtype::kF16:
      return WidenBytes<F16>(data, count, out);
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace purekv
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace purekv {
namespace {
HWY_EXPORT(ConvertRows);
HWY_EXPORT(WidenRange);
}  // namespace

void Convert(MatrixView<const float> x, AnyMatrixView out) {
  CheckRows(x, out);
  if (Cpu() == CpuLevel::kReference) return reference::Convert(x, out);
  UseCpuLevel();
  ParallelForRanges(x.rows, RowGrain(x.cols), [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(ConvertRows)(x, out, begin, end);
  });
}

void ToFloats(const void* data, Dtype dtype, int64_t count, float* out) {
  if (Cpu() == CpuLevel::kReference) return reference::ToFloats(data, dtype, count, out);
  UseCpuLevel();
  ParallelForRanges(count, kTaskElements, [&](int64_t begin, int64_t end) {
    const char* from = static_cast<const char*>(data) + static_cast<size_t>(begin) * DtypeSize(dtype);
    HWY_DYNAMIC_DISPATCH(WidenRange)(from, dtype, end - begin, out + begin);
  });
}

}  // namespace purekv
#endif  // HWY_ONCE
