#include "attention/kv_rows.h"

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "base/error.h"
#include "base/memory.h"
#include "kernels/kv_codec.h"

namespace purekv {
namespace {

// A block is 32 to 256 rows: up to 256 KB a plane and thread, taken when the first head of several segments comes by.
const void* Gather(const KvHeadView& kv, int64_t first, int64_t count, bool keys, Buffer& memory) {
  const int64_t stride = keys ? kv.key_stride : kv.value_stride;
  const auto row = static_cast<size_t>(stride) * DtypeSize(kv.dtype());
  const auto bytes = static_cast<size_t>(count) * row;
  if (memory.size() < bytes) memory.Resize(bytes);
  auto* to = static_cast<std::byte*>(memory.data());
  int64_t before = 0;  // entries of the segments so far
  for (const KvSegment& segment : kv.segments) {
    const int64_t begin = std::max(first, before) - before;
    const int64_t end = std::min(first + count, before + segment.length) - before;
    before += segment.length;
    if (begin >= end) continue;
    const void* const from = keys ? segment.keys : segment.values;
    if (segment.encoding == nullptr) {
      std::memcpy(to, static_cast<const std::byte*>(from) + static_cast<size_t>(begin) * row,
                  static_cast<size_t>(end - begin) * row);
    } else {
      const KvSide& side = keys ? segment.encoding->keys : segment.encoding->values;
      PUREKV_CHECK(stride == side.head_dim, stride, " elements a row of ", side.head_dim);
      DecodeEntries(side, from, begin, end - begin, to);
    }
    to += static_cast<size_t>(end - begin) * row;
  }
  return memory.data();
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
