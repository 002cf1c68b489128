// Rows of bytes, the portable form of the product, and the choice between it and those of int8_product_x86.h.
#include "kernels/int8_product.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "base/cpu.h"
#include "base/error.h"
#include "base/threads.h"
#include "kernels/code_kernels.h"
#include "kernels/elementwise.h"
#include "kernels/int8_product_x86.h"

namespace purekv {
namespace {

constexpr int64_t kPanel = CodePanels::kPanel;
constexpr float kLargest = 127;

enum class Form { kPortable, kAvx2, kVnni, kAmx };

Form FormInUse() {
  if (Cpu() >= CpuLevel::kAmxBf16 && int8_product::HasAmxInt8()) return Form::kAmx;
  if (UseVnni()) return Form::kVnni;
  return Cpu() >= CpuLevel::kAvx2 ? Form::kAvx2 : Form::kPortable;
}

// Rounds to the nearest integer, ties to even, for |value| < 2^22: the sum's last bit is worth 1.
int32_t Round(float value) {
  constexpr float kShift = 12582912;  // 1.5 * 2^23
  return std::bit_cast<int32_t>(value + kShift) - std::bit_cast<int32_t>(kShift);
}

// Writes X; returns its sum.
template <class T>
int32_t RoundRow(const float* x, int64_t in, T* to, float* scale) {
  int32_t most = 0;  // bits of |x| grow with |x|
  for (int64_t i = 0; i < in; ++i) most = std::max(most, std::bit_cast<int32_t>(x[i]) & 0x7FFFFFFF);
  const bool finite = most < 0x7F800000;
  const float largest = std::bit_cast<float>(most);
  *scale = finite ? largest / kLargest : std::numeric_limits<float>::quiet_NaN();
  // Where 127 / m would be infinite, inputs are zeros to f32 sums.
  const bool used = finite && largest >= 1e-30F;
  int32_t sum = 0;
  for (int64_t i = 0; i < in; ++i) {
    const int32_t value = used ? Round(x[i] * (kLargest / largest)) : 0;
    to[i] = static_cast<T>(value);
    sum += value;
  }
  return sum;
}

void ProductPortable(std::span<const int8_t* const> panels, const ByteRows& x, int32_t* sums) {
  for (const int8_t* const panel : panels) {
    for (int64_t r = 0; r < x.rows(); ++r) {
      int32_t* const to = sums + r * kPanel;
      std::fill_n(to, kPanel, 0);
      for (int64_t i = 0; i < x.in(); i += 4) {
        const int16_t* const four = x.words(r) + i;
        const int8_t* const codes = panel + i * kPanel;
        for (int64_t o = 0; o < kPanel; ++o) {
          for (int64_t j = 0; j < 4; ++j) to[o] += codes[o * 4 + j] * four[j];
        }
      }
    }
    sums += x.padded_rows() * kPanel;
  }
}

}  // namespace

ByteRows::ByteRows(AnyMatrixView x, std::span<const int32_t> perm, Buffer& scratch)
    : rows_(x.rows), in_((x.cols + 63) / 64 * 64) {
  PUREKV_CHECK(perm.empty() || static_cast<int64_t>(perm.size()) == x.cols, perm.size(), " of ", x.cols);
  const bool wide = FormInUse() == Form::kPortable || FormInUse() == Form::kAvx2;
  const size_t element = wide ? 2 : 1;
  const auto rows = static_cast<size_t>(padded_rows()), values = rows * static_cast<size_t>(stride());
  const size_t bytes = values * element + rows * (sizeof(float) + sizeof(int32_t));
  if (scratch.size() < bytes) scratch.Resize(bytes);
  auto* const at = static_cast<char*>(scratch.data());
  values_ = at;
  scales_ = reinterpret_cast<float*>(at + values * element);
  sums_ = reinterpret_cast<int32_t*>(at + values * element + rows * sizeof(float));
  ParallelForRanges(padded_rows(), 8, [&](int64_t begin, int64_t end) {
    static thread_local Buffer floats;
    const auto count = static_cast<size_t>(in_) * sizeof(float);
    if (floats.size() < 2 * count) floats.Resize(2 * count);
    auto* const read = static_cast<float*>(floats.data());
    auto* const ordered = read + in_;
    for (int64_t r = begin; r < end; ++r) {
      float* row = read;
      if (r < rows_) {
        ToFloats(x.Rows(r, 1).data, x.dtype, x.cols, read);
        if (!perm.empty()) {
          for (size_t i = 0; i < perm.size(); ++i) ordered[i] = read[perm[i]];
          row = ordered;
        }
        std::fill(row + x.cols, row + in_, 0.0F);
      } else {
        std::fill_n(row, in_, 0.0F);
      }
      sums_[r] = wide ? RoundRow(row, in_, static_cast<int16_t*>(values_) + r * stride(), &scales_[r])
                      : RoundRow(row, in_, static_cast<int8_t*>(values_) + r * stride(), &scales_[r]);
    }
  });
}

void Int8Product(std::span<const int8_t* const> panels, const ByteRows& x, int32_t* sums) {
  switch (FormInUse()) {
    case Form::kAmx:
      return int8_product::ProductAmx(panels, x, sums);
    case Form::kVnni:
      return int8_product::ProductVnni(panels, x, sums);
    case Form::kAvx2:
      return int8_product::ProductAvx2(panels, x, sums);
    case Form::kPortable:
      return ProductPortable(panels, x, sums);
  }
}

const char* Int8ProductName() {
  switch (FormInUse()) {
    case Form::kAmx:
      return "amx_int8";
    case Form::kVnni:
      return "avx512_vnni";
    case Form::kAvx2:
      return "avx2";
    case Form::kPortable:
      return "portable";
  }
  __builtin_unreachable();
}

}  // namespace purekv
