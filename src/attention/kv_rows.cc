#include "attention/kv_rows.h"

#include <cstddef>
#include <cstring>

#include "base/memory.h"

namespace purekv {
namespace {

// A block is 32 to 256 rows: up to 256 KB a plane and thread, taken when the first head of several segments comes by.
const void* Gather(const KvHeadView& kv, int64_t first, int64_t count, bool keys, Buffer& memory) {
  const auto row = static_cast<size_t>(keys ? kv.key_stride : kv.value_stride) * DtypeSize(kv.dtype());
  const auto bytes = static_cast<size_t>(count) * row;
  if (memory.size() < bytes) memory.Resize(bytes);
  auto* const to = static_cast<std::byte*>(memory.data());
  for (int64_t i = 0; i < count; ++i) {
    std::memcpy(to + static_cast<size_t>(i) * row, keys ? kv.KeyRow(first + i) : kv.ValueRow(first + i), row);
  }
  return to;
}

}  // namespace

const void* GatherKeyRows(const KvHeadView& kv, int64_t first, int64_t count) {
  static thread_local Buffer memory;
  return Gather(kv, first, count, true, memory);
}

const void* GatherValueRows(const KvHeadView& kv, int64_t first, int64_t count) {
  static thread_local Buffer memory;
  return Gather(kv, first, count, false, memory);
}

}  // namespace purekv
