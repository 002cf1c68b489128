// Number formats of weights, activations and the KV cache.
#pragma once

#include <cstddef>

namespace purekv {

enum class Dtype { kF32, kBF16, kF16 };

constexpr size_t DtypeSize(Dtype dtype) {
  return dtype == Dtype::kF32 ? 4 : 2;
}
constexpr const char* DtypeName(Dtype dtype) {
  return dtype == Dtype::kF32 ? "f32" : dtype == Dtype::kBF16 ? "bf16" : "f16";
}

}  // namespace purekv
