// The keys and values of one KV head of one layer, as kernels see them.
#pragma once

#include <cstdint>

#include "purekv/dtype.h"

namespace purekv {

// keys, values: [length, head_dim], consecutive rows `key_stride` / `value_stride` elements apart, of `dtype` (f32 or
// bf16). Keys are stored after rotation. Heads of one layer may differ in length.
struct KvHeadView {
  const void* keys = nullptr;
  const void* values = nullptr;
  int64_t length = 0;
  int64_t key_stride = 0;
  int64_t value_stride = 0;
  Dtype dtype = Dtype::kF32;
};

}  // namespace purekv
