#include "attention/kv_rows.h"

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "base/error.h"
#include "base/memory.h"
#include "kernels/kv_codec.h"

namespace purekv {
namespace {

// Plain rows that come next, from pieces here and there that no prefetcher of the processor follows. A tenth of 32k
// entries in pages of 16 took 0.133 of the time of all of them without, and takes 0.122.
void AskForNext(const KvHeadView& kv, int64_t first, int64_t count, bool keys) {
  const auto row = static_cast<int64_t>(DtypeSize(kv.dtype())) * (keys ? kv.key_stride : kv.value_stride);
  int64_t before = 0;  // entries of the segments so far
  for (const KvSegment& segment : kv.segments) {
    const int64_t begin = std::max(first, before) - before;
    const int64_t end = std::min(first + count, before + segment.length) - before;
    before += segment.length;
    if (begin < end && segment.encoding == nullptr && segment.mapping == nullptr) {
      const char* const from = static_cast<const char*>(keys ? segment.keys : segment.values);
      for (int64_t at = (segment.first + begin) * row; at < (segment.first + end) * row; at += 64) {
        __builtin_prefetch(from + at, 0, 2);
      }
    }
    if (before >= first + count) return;
  }
}

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
    const KvSide* const side = segment.encoding == nullptr ? nullptr
                               : keys                      ? &segment.encoding->keys
                                                           : &segment.encoding->values;
    if (side == nullptr) {
      std::memcpy(to, static_cast<const std::byte*>(from) + static_cast<size_t>(segment.first + begin) * row,
                  static_cast<size_t>(end - begin) * row);
    } else {
      PUREKV_CHECK(stride == side->head_dim, stride, " elements a row of ", side->head_dim);
      DecodeEntries(*side, from, segment.first + begin, end - begin, to);
    }
    if (segment.mapping != nullptr) {
      DropRead(segment, keys, static_cast<int64_t>(row), begin, end - begin);
    }
    to += static_cast<size_t>(end - begin) * row;
  }
  AskForNext(kv, first + count, count, keys);
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
