// Keys and values in few bits (KIVI, arXiv 2402.02750): how the encoded entries of a KV head lie in memory, and what
// turns them into codes and back. Within a group of elements x becomes q = round((x - lo) / step), in 8, 4 or 2 bits;
// lo and step are f16, rounded outwards, so that nothing is cut off and |x - (lo + q step)| <= step / 2.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/kv_basis.h"
#include "kernels/kv_view.h"
#include "purekv/dtype.h"

namespace purekv {

// The widest head that is encoded.
constexpr int64_t kMostEncodedDim = 1024;

// What a group is: so many consecutive channels of one entry, or one channel of so many consecutive entries.
enum class KvGroupAxis : uint8_t { kToken, kChannel };

// Of the keys, or the values, of a layer.
struct KvSideCodec {
  int bits = 0;  // 8, 4 or 2; 0: elements of the cache's format
  KvGroupAxis axis = KvGroupAxis::kToken;
  int64_t group = 32;
  bool operator==(const KvSideCodec&) const = default;
};

// Of a layer. The first entries of a head, a multiple of `residual` of them, are encoded; the newest are plain.
struct KvCodec {
  KvSideCodec keys, values;
  int64_t residual = 32;
  int64_t key_channels = 0;  // channels that encoded keys keep (ThinK, arXiv 2407.21018); 0: all
  // Entries are held in these, and nothing else is on; null: in the head's own dimensions.
  std::shared_ptr<const KvLayerBasis> basis{};
  bool on() const { return keys.bits > 0 || values.bits > 0 || key_channels > 0 || basis != nullptr; }
  bool operator==(const KvCodec&) const = default;
};

// The encoded keys, or values, of one head: units one after another, each of `unit` entries (kChannel: a group's; else
// one). A unit holds its codes, then lo of every group, then step (plain elements: those alone). Codes: rows of `width`
// channels; where several share a byte the lower channel (kChannel: the lower entry of the same channel) is in the
// lower bits.
struct KvSide {
  int bits = 0;
  KvGroupAxis axis = KvGroupAxis::kToken;
  int64_t group = 32;
  KvFormat format = KvFormat::kF32;  // of the entries before and behind
  int64_t head_dim = 0;
  std::vector<int16_t> channels{};         // those that are held, ascending; the others are 0; empty: all
  std::shared_ptr<const KvBasis> basis{};  // not null, with no bits: a unit is an entry's weights and positions

  KvSide() = default;
  KvSide(const KvSideCodec& codec, KvFormat plain, int64_t dim)
      : bits(codec.bits), axis(codec.axis), group(codec.group), format(plain), head_dim(dim) {}

  int64_t width() const {
    if (basis != nullptr) return basis->rank();
    return channels.empty() ? head_dim : static_cast<int64_t>(channels.size());
  }
  bool by_channel() const { return bits > 0 && axis == KvGroupAxis::kChannel; }
  int64_t unit() const { return by_channel() ? group : 1; }
  // f16 of lo, and as many of step, behind a unit's codes.
  int64_t unit_groups() const { return bits == 0 ? 0 : by_channel() ? width() : (width() + group - 1) / group; }
  int64_t unit_code_bytes() const {
    if (bits == 0) return width() * static_cast<int64_t>(DtypeSize(ElementDtype(format)));
    return by_channel() ? width() * group * bits / 8 : (width() * bits + 7) / 8;
  }
  int64_t unit_positions() const { return basis != nullptr ? basis->positions() : 0; }
  int64_t unit_bytes() const { return unit_code_bytes() + (unit_groups() + unit_positions()) * 4; }
  // Of so many entries, whole units.
  int64_t Bytes(int64_t entries) const { return entries / unit() * unit_bytes(); }
  bool operator==(const KvSide&) const = default;
};

// Both sides of a head's encoded entries.
struct KvEncoding {
  KvSide keys, values;
};

// rows: [count, head_dim] of the side's format, whole units of it. Returns false where an element is not finite or its
// magnitude above 65504, which f16 does not hold; nothing is promised about `out` then. out: Bytes(count). positions
// [count]: of the rows, where a basis of keys needs them.
bool EncodeEntries(const KvSide& side, const void* rows, int64_t count, void* out,
                   std::span<const Position> positions = {});
// Entries first .. first + count - 1 of those at `data`: out [count, head_dim] of the side's format, rows one after
// another; rounded to it.
void DecodeEntries(const KvSide& side, const void* data, int64_t first, int64_t count, void* out);

// Whether lo and step of every group of the entries are finite: what EncodeEntries makes is, a file may hold anything.
bool EncodedFinite(const KvSide& side, const void* data, int64_t count);

// Keys, or values, first .. first + count - 1 of a segment in a file have been read, from front to back: what they took
// of memory is given back. row: bytes of a plain one.
void DropRead(const KvSegment& segment, bool keys, int64_t row, int64_t first, int64_t count);

namespace reference {
bool EncodeEntries(const KvSide& side, const void* rows, int64_t count, void* out);
void DecodeEntries(const KvSide& side, const void* data, int64_t first, int64_t count, void* out);
}  // namespace reference

// The largest f16 at most x, and the smallest at least x; |x| <= 65504.
uint16_t FloorF16(float x);
uint16_t CeilF16(float x);

}  // namespace purekv
