// What both halves of a cache's head (kv_head.cc, kv_head_encoded.cc) do with memory.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "base/memory.h"

namespace purekv {

inline int64_t Allocation(int64_t bytes) {
  return static_cast<int64_t>(Buffer::Allocation(static_cast<size_t>(bytes)));
}

inline std::byte* Bytes(Buffer& buffer) {
  return static_cast<std::byte*>(buffer.data());
}

// For KvMapping: one that nobody has had.
inline int64_t NewStretch() {
  static std::atomic<int64_t> next{1};
  return next.fetch_add(1, std::memory_order_relaxed);
}

// Rows of `size` bytes at these places, ascending, to the front.
inline void MoveRows(std::byte* rows, std::span<const int32_t> kept, size_t size) {
  for (size_t i = 0; i < kept.size();) {
    size_t end = i + 1;
    while (end < kept.size() && kept[end] == kept[end - 1] + 1) ++end;
    const auto from = static_cast<size_t>(kept[i]);
    if (from != i) std::memmove(rows + i * size, rows + from * size, (end - i) * size);
    i = end;
  }
}

}  // namespace purekv
