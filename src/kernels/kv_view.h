// The keys and values of one KV head of one layer, as kernels see them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "purekv/dtype.h"

namespace purekv {

struct KvEncoding;

// The mapping of a file that some entries lie in, and how many do, one after another. id: no other stretch of entries
// ever has it, wherever it lies.
struct KvMapping {
  std::span<const std::byte> bytes;
  int64_t entries = 0;
  int64_t id = 0;
};

// Entries that lie one after another: `first` .. first + length - 1 of those at keys and values, plain [.., head_dim]
// or encoded (kernels/kv_codec.h).
struct KvSegment {
  const void* keys = nullptr;
  const void* values = nullptr;
  int64_t length = 0;
  const KvEncoding* encoding = nullptr;  // null: plain elements
  int64_t first = 0;
  // Not null: they lie in a file that is mapped, and what is read of it is given back (cache/kv_store.h).
  const KvMapping* mapping = nullptr;
};

// keys, values: [length, head_dim], consecutive rows `key_stride` / `value_stride` elements apart, of `format`. Keys
// are stored after rotation. Heads of one layer may differ in length.
struct KvHeadView {
  const void* keys = nullptr;  // null where the entries lie in segments
  const void* values = nullptr;
  int64_t length = 0;
  int64_t key_stride = 0;
  int64_t value_stride = 0;
  KvFormat format = KvFormat::kF32;
  // `length` entries or more in all, in order, encoded ones first; empty: all entries lie at keys and values, plain.
  std::span<const KvSegment> segments{};
  // [length] Added to the logit of each entry, behind the scale (the logarithm of the tokens that an entry stands for);
  // null: nothing is.
  const float* bias = nullptr;

  bool contiguous() const { return segments.empty(); }
  bool encoded() const { return !segments.empty() && segments.front().encoding != nullptr; }
  // Whether plain rows can be read where they lie: the first ones are the first to be encoded, or in a file.
  bool in_place() const {
    return segments.empty() || (segments.front().encoding == nullptr && segments.front().mapping == nullptr);
  }
  Dtype dtype() const { return ElementDtype(format); }
  // Where the row of one entry lies; null: encoded, or in a file (attention/kv_rows.h reads all).
  const void* KeyRow(int64_t entry) const { return Row(entry, true); }
  const void* ValueRow(int64_t entry) const { return Row(entry, false); }
  // Where rows first .. first + count - 1 lie, one after another; null where they lie in several segments, encoded, or
  // in a file.
  const void* KeyRows(int64_t first, int64_t count) const { return RowsInPlace(first, count, true); }
  const void* ValueRows(int64_t first, int64_t count) const { return RowsInPlace(first, count, false); }

 private:
  const void* At(const KvSegment& segment, int64_t entry, bool key) const {
    const int64_t offset = (segment.first + entry) * (key ? key_stride : value_stride);
    return static_cast<const std::byte*>(key ? segment.keys : segment.values) +
           static_cast<size_t>(offset) * DtypeSize(dtype());
  }
  const void* Row(int64_t entry, bool key) const { return RowsInPlace(entry, 1, key); }
  const void* RowsInPlace(int64_t first, int64_t count, bool key) const {
    if (contiguous()) return At({keys, values, length}, first, key);
    for (const KvSegment& segment : segments) {
      if (first < segment.length) {
        const bool plain = segment.encoding == nullptr && segment.mapping == nullptr;
        return first + count <= segment.length && plain ? At(segment, first, key) : nullptr;
      }
      first -= segment.length;
    }
    return nullptr;
  }
};

inline bool HasEncoded(std::span<const KvHeadView> heads) {
  for (const KvHeadView& head : heads) {
    if (head.encoded()) return true;
  }
  return false;
}

// Whether some entry of the heads has one.
inline bool HasBias(std::span<const KvHeadView> heads) {
  for (const KvHeadView& head : heads) {
    if (head.bias != nullptr) return true;
  }
  return false;
}

}  // namespace purekv
