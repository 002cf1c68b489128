// Activate and GatedActivate: SiLU and the GELU family.
#include "base/threads.h"
#include "kernels/elementwise.h"
#include "kernels/reference.h"
#include "kernels/rows.h"
#include "kernels/simd.h"
#include "kernels/simd_target.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/activation.cc"
// clang-format off
#include "hwy/foreach_target.h"  // must come before highway.h
#include "hwy/highway.h"
#include "kernels/activation-inl.h"
#include "kernels/simd-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace purekv {
namespace HWY_NAMESPACE {

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
  UseCpuLevel();
  ParallelForRanges(args.x.rows, RowGrain(args.x.cols), [&args](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(ActivateRows)(args, begin, end);
  });
}

}  // namespace

void Activate(Activation activation, MatrixView<const float> x, AnyMatrixView out) {
  if (Cpu() == CpuLevel::kReference) return reference::Activate(activation, x, out);
  Run({activation, x, {}, out});
}

void GatedActivate(Activation activation, MatrixView<const float> gate, MatrixView<const float> up, AnyMatrixView out) {
  PUREKV_CHECK(up.rows == gate.rows && up.cols == gate.cols, up.rows, " x ", up.cols, " for ", gate.rows, " x ",
               gate.cols);
  if (Cpu() == CpuLevel::kReference) return reference::GatedActivate(activation, gate, up, out);
  Run({activation, gate, up, out});
}

}  // namespace purekv
#endif  // HWY_ONCE
