// Shared by the attention tests: every implementation this machine has, and what bf16 products may cost.
#pragma once

#include <algorithm>

#include "base/cpu.h"
#include "kernels/testing.h"

namespace purekv::testing {

// Largest relative error (of a row of a head, 2-norm) of bf16 products: probabilities are rounded to 8 bits.
constexpr double kBf16Error = 3e-3;

// body(bf16) at every level of this machine; bf16: bf16 inputs are multiplied as such.
template <class Body>
void ForEachImplementation(const Body& body) {
  ForEachCpuLevel([&](CpuLevel level) { body(level >= CpuLevel::kAvx512Bf16); });
}

// Per row and head: |got - want|_2 <= relative |want|_2, and a rounding step of bf16 outputs. Values are drawn with
// deviation 1; where their mean over many keys nearly cancels, the error is measured against half a value.
inline void ExpectRowsNear(Guarded& got, Guarded& want, int64_t head_dim, double relative) {
  const double step = got.View().dtype == Dtype::kBF16 ? 1.0 / 256 : 0.0;
  for (int64_t r = 0; r < want.rows(); ++r) {
    for (int64_t first = 0; first < want.cols(); first += head_dim) {
      double error = 0;
      double norm = 0;
      for (int64_t d = first; d < first + head_dim; ++d) {
        const auto a = static_cast<double>(got.At(r, d));
        const auto b = static_cast<double>(want.At(r, d));
        error += (a - b) * (a - b);
        norm += b * b;
      }
      const double scale = std::max(std::sqrt(norm), 0.5 * std::sqrt(static_cast<double>(head_dim)));
      ASSERT_LE(std::sqrt(error), (relative + step) * scale) << "row " << r << ", head " << first / head_dim;
    }
  }
}

}  // namespace purekv::testing
