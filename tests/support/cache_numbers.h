// What the entries of a cache say, in whatever form they are held.
#pragma once

#include <cstdint>
#include <vector>

#include "attention/kv_rows.h"
#include "base/bfloat16.h"
#include "cache/kv_cache.h"

namespace purekv::testing {

// Of every entry of a head its key, then its value. [length][2][head_dim]
inline std::vector<float> Numbers(const KvCache& cache, int64_t layer, int64_t head) {
  KvCache copy = cache.Fork(cache.tokens());
  copy.Decode(layer);
  const KvHeadView view = copy.Head(layer, head);
  std::vector<float> numbers;
  for (int64_t i = 0; i < view.length; ++i) {
    for (const void* const row : {KeyRowsOf(view, i, 1), ValueRowsOf(view, i, 1)}) {
      for (int64_t d = 0; d < view.key_stride; ++d) {
        numbers.push_back(view.format == KvFormat::kF32 ? static_cast<const float*>(row)[d]
                                                        : ToFloat(static_cast<const BF16*>(row)[d]));
      }
    }
  }
  return numbers;
}

}  // namespace purekv::testing
