// Rows of a KV head for kernels that read blocks of them: where they lie, or gathered where a block lies in two
// segments.
#pragma once

#include <cstdint>

#include "kernels/kv_view.h"

namespace purekv {

// Rows first .. first + count - 1, key_stride / value_stride elements apart: in place, or copied together in memory of
// the calling thread, valid until its next call for the same plane. So
// that a kernel's blocks, and its sums, are the same wherever segments end.
const void* GatherKeyRows(const KvHeadView& kv, int64_t first, int64_t count);
const void* GatherValueRows(const KvHeadView& kv, int64_t first, int64_t count);

inline const void* KeyRowsOf(const KvHeadView& kv, int64_t first, int64_t count) {
  const void* rows = kv.KeyRows(first, count);
  return rows != nullptr ? rows : GatherKeyRows(kv, first, count);
}
inline const void* ValueRowsOf(const KvHeadView& kv, int64_t first, int64_t count) {
  const void* rows = kv.ValueRows(first, count);
  return rows != nullptr ? rows : GatherValueRows(kv, first, count);
}

}  // namespace purekv
