// Finish: bias, residual, activation and gate of a dense layer, applied to sums that are still in the L1 or L2 cache.
#include <algorithm>

#include "base/cpu.h"
#include "base/error.h"
#include "kernels/packed_weights.h"
#include "kernels/reference.h"
#include "kernels/rows.h"
#include "kernels/simd.h"
#include "kernels/simd_target.h"

#ifndef PUREKV_FINISH_ARGS
#define PUREKV_FINISH_ARGS
namespace purekv {
struct FinishArgs {
  const float* sums;
  int64_t stride, rows, cols, first_row, first_col;
};
}  // namespace purekv
#endif

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/finish.cc"
// clang-format off
#include "hwy/foreach_target.h"  // must come before highway.h
#include "hwy/highway.h"
#include "kernels/activation-inl.h"
#include "kernels/simd-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace purekv {
namespace HWY_NAMESPACE {

HWY_INLINE FloatVec WithBias(FloatVec sum, const float* bias, int64_t col) {
  return bias == nullptr ? sum : hn::Add(sum, LoadVec(bias + col));
}

template <class T>
HWY_INLINE void StoreUpTo(FloatVec v, T* to, int64_t n) {
  if (n >= kLanes) {
    StoreVec(v, to);
  } else if (n > 0) {
    StorePart(v, to, n);
  }
}

template <Activation kActivation, class T>
void FinishGated(const float* sums, int64_t cols, int64_t first_col, const float* bias, T* out, int64_t out_cols) {
  for (int64_t col = 0; col < cols; col += 2 * kGateGroup) {
    const int64_t to = (first_col + col) / 2;
    for (int64_t i = 0; i < kGateGroup; i += kLanes) {
      const FloatVec gate = WithBias(LoadVec(sums + col + i), bias, first_col + col + i);
      const FloatVec up = WithBias(LoadVec(sums + col + kGateGroup + i), bias, first_col + col + kGateGroup + i);
      StoreUpTo(hn::Mul(Apply<kActivation>(gate), up), out + to + i, out_cols - to - i);
    }
  }
}

template <Activation kActivation, class T>
void FinishActivated(const float* sums, int64_t cols, int64_t first_col, const float* bias, T* out) {
  for (int64_t col = 0; col < cols; col += kLanes) {
    const FloatVec x = WithBias(LoadVec(sums + col), bias, first_col + col);
    StoreUpTo(Apply<kActivation>(x), out + first_col + col, cols - col);
  }
}

template <class T>
void FinishPlain(const float* sums, int64_t cols, int64_t first_col, const float* bias, bool accumulate, T* out) {
  for (int64_t col = 0; col < cols; col += kLanes) {
    FloatVec x = WithBias(LoadVec(sums + col), bias, first_col + col);
    if constexpr (sizeof(T) == sizeof(float)) {
      if (accumulate) x = hn::Add(x, LoadAt(out + first_col + col, 0, HWY_MIN(kLanes, cols - col)));
    }
    StoreUpTo(x, out + first_col + col, cols - col);
  }
}

template <Activation kActivation, class T>
void FinishActive(const FinishArgs& args, const Epilogue& epilogue) {
  for (int64_t r = 0; r < args.rows; ++r) {
    const float* const sums = args.sums + r * args.stride;
    T* const out = OutRow<T>(epilogue.out, args.first_row + r);
    if (epilogue.gated) {
      FinishGated<kActivation>(sums, args.cols, args.first_col, epilogue.bias, out, epilogue.out.cols);
    } else {
      FinishActivated<kActivation>(sums, args.cols, args.first_col, epilogue.bias, out);
    }
  }
}

template <class T>
void FinishAs(const FinishArgs& args, const Epilogue& epilogue) {
  if (!epilogue.activate) {
    for (int64_t r = 0; r < args.rows; ++r) {
      FinishPlain(args.sums + r * args.stride, args.cols, args.first_col, epilogue.bias, epilogue.accumulate,
                  OutRow<T>(epilogue.out, args.first_row + r));
    }
    return;
  }
  switch (epilogue.activation) {
    case Activation::kSilu:
      return FinishActive<Activation::kSilu, T>(args, epilogue);
    case Activation::kGeluErf:
      return FinishActive<Activation::kGeluErf, T>(args, epilogue);
    case Activation::kGeluTanh:
      return FinishActive<Activation::kGeluTanh, T>(args, epilogue);
    case Activation::kQuickGelu:
      return FinishActive<Activation::kQuickGelu, T>(args, epilogue);
  }
}

void FinishBlock(const FinishArgs& args, const Epilogue& epilogue) {
  if (epilogue.out.dtype == Dtype::kF32) {
    FinishAs<float>(args, epilogue);
  } else {
    FinishAs<BF16>(args, epilogue);
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace purekv
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace purekv {
namespace {
HWY_EXPORT(FinishBlock);

void FinishReference(const float* sums, int64_t stride, int64_t rows, int64_t cols, int64_t first_row,
                     int64_t first_col, const Epilogue& epilogue) {
  const auto value = [&](int64_t r, int64_t c) {
    const auto sum = static_cast<double>(sums[r * stride + c]);
    return epilogue.bias == nullptr ? sum : sum + static_cast<double>(epilogue.bias[first_col + c]);
  };
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      if (epilogue.gated && c % (2 * kGateGroup) >= kGateGroup) continue;
      const int64_t gated_col = (first_col + c) / (2 * kGateGroup) * kGateGroup + c % (2 * kGateGroup);
      const int64_t col = epilogue.gated ? gated_col : first_col + c;
      if (col >= epilogue.out.cols) continue;
      double x = value(r, c);
      if (epilogue.activate) x = reference::Activate(epilogue.activation, x);
      if (epilogue.gated) x *= value(r, c + kGateGroup);
      const int64_t i = (first_row + r) * epilogue.out.stride + col;
      if (epilogue.out.dtype == Dtype::kF32) {
        float& to = static_cast<float*>(epilogue.out.data)[i];
        to = static_cast<float>(epilogue.accumulate ? static_cast<double>(to) + x : x);
      } else {
        static_cast<BF16*>(epilogue.out.data)[i] = ToBF16(static_cast<float>(x));
      }
    }
  }
}

}  // namespace

void Finish(const float* sums, int64_t stride, int64_t rows, int64_t cols, int64_t first_row, int64_t first_col,
            const Epilogue& epilogue) {
  if (Cpu() == CpuLevel::kReference) {
    return FinishReference(sums, stride, rows, cols, first_row, first_col, epilogue);
  }
  UseCpuLevel();
  HWY_DYNAMIC_DISPATCH(FinishBlock)(FinishArgs{sums, stride, rows, cols, first_row, first_col}, epilogue);
}

}  // namespace purekv
#endif  // HWY_ONCE
