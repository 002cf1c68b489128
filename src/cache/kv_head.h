// The entries of one KV head of one layer: whose tokens they are, and where their keys and values lie.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/any_matrix.h"
#include "base/memory.h"
#include "cache/kv_cache_spec.h"
#include "kernels/kv_codec.h"
#include "kernels/kv_view.h"

namespace purekv {

// Bytes of one cache: now, and the most at any moment since the count began.
struct KvByteCount {
  int64_t now = 0, peak = 0;
  void Add(int64_t bytes) {
    now += bytes;
    peak = now > peak ? now : peak;
  }
};

// Entries that take others in: what they become.
struct KvRewrite {
  std::span<const int32_t> entries;      // ascending
  MatrixView<const float> keys, values;  // [entries, head_dim], converted; keys rotated
  std::span<const int32_t> counts;       // tokens that each one stands for now
  bool bias = false;                     // the logarithm of an entry's count is added to its logit from now on
};

// Entries of a head that lie elsewhere. keys, values: of the plain ones, behind `encoded` others.
struct KvStored {
  const void* keys = nullptr;
  const void* values = nullptr;
  int64_t encoded = 0;
  const void* encoded_keys = nullptr;
  const void* encoded_values = nullptr;
  std::vector<int16_t> key_channels{};  // that encoded keys hold; empty: all
};

// Two lists of segments: encoded entries, the oldest, and plain ones. A segment is memory that grows, memory that
// another head shares, a stretch of a file. Nobody writes to one that somebody else sees; who changes entries that lie
// in one takes memory of its own for what it keeps, and who appends behind one begins another, unless all of it is
// small. So that almost always there is one of each, which grow in place.
class KvHead {
 public:
  // head: which of the layer's.
  explicit KvHead(const KvLayerSpec& spec, int64_t head = 0)
      : head_(head), head_dim_(spec.head_dim), row_(spec.row_bytes()), format_(spec.format), codec_(spec.codec) {}

  int64_t length() const { return static_cast<int64_t>(tokens_.size()); }
  // Sequence index of each entry, ascending.
  std::span<const int32_t> tokens() const { return tokens_; }
  // Tokens that each entry stands for; empty: itself alone.
  std::span<const int32_t> counts() const { return counts_; }
  // Valid until the head changes.
  KvHeadView View() const;
  // The first so many entries are encoded,
  int64_t encoded() const { return encoded_length_; }
  // as this says; null: none ever was.
  const KvEncoding* encoding() const { return encoding_.get(); }

  // Room for `count` more entries, exactly.
  void Reserve(int64_t count, KvByteCount& bytes);
  // keys, values: [n, head_dim] f32, converted. tokens [n] ascending, behind the head's.
  void Append(MatrixView<const float> keys, MatrixView<const float> values, std::span<const int32_t> tokens,
              KvByteCount& bytes);
  // The first `count` entries, plain ones, once more: of tokens from `token` on.
  void AppendAgain(int64_t count, int32_t token, KvByteCount& bytes);
  // Encodes plain entries, as many times `residual` as there are. positions: by sequence index, where a basis needs
  // them. Returns how many; -1 where f16 does not hold an element, or a basis one that is not finite: the head is as it
  // was.
  int64_t Encode(std::span<const Position> positions, KvByteCount& bytes);
  // Makes encoded entries plain again.
  void Decode(KvByteCount& bytes);
  // The channels that encoded keys hold from now on, ascending. Before the first Encode.
  void SetKeyChannels(std::vector<int16_t> channels);
  // Keeps only these entries (ascending), with room for `spare` more; the rest of the memory goes back. Of encoded
  // entries whose groups reach over several, all or none.
  void Keep(std::span<const int32_t> entries, int64_t spare, KvByteCount& bytes);
  // Behind a Keep that has removed entries: some of the others change.
  void Rewrite(const KvRewrite& change, KvByteCount& bytes);
  // [length]
  void SetCounts(std::span<const int32_t> counts, bool bias, KvByteCount& bytes);
  // Forgets the entries of tokens from `token` on.
  void Truncate(int32_t token, KvByteCount& bytes);

  // Fills the empty head with entries that lie in a file, 64-byte aligned, alive while `hold` is. mapping: all of the
  // file, where they are to stay; empty: they are copied when the head grows, a large one that others share excepted.
  void ViewFile(std::span<const int32_t> tokens, const KvStored& stored, const std::shared_ptr<const void>& hold,
                std::span<const std::byte> mapping, KvByteCount& bytes);
  // Entries in memory that can leave it for a file: encoded ones where the head encodes, else plain ones, in blocks of
  // `block`; and their keys and values, one piece behind the other.
  int64_t Movable(int64_t block) const;
  std::vector<std::span<const std::byte>> Pieces(int64_t movable, bool keys) const;
  // They lie there now: in a mapping of a file that stays while `hold` is.
  void MoveTo(int64_t movable, const void* keys, const void* values, const std::shared_ptr<const void>& hold,
              std::span<const std::byte> mapping, KvByteCount& bytes);
  // Bytes of the entries that stay in files.
  int64_t stored_bytes() const;
  // What has been read of them through the mapping leaves the resident set.
  void DropMapped() const;
  // Fills the empty head with another's entries of tokens before `token`, shared until one of the two changes them.
  // What is shared counts in both, as if each had taken exactly what it needs.
  void Share(const KvHead& from, int32_t token, KvByteCount& bytes);

 private:
  struct Memory {
    Buffer keys, values;               // [capacity, head_dim]; encoded: units
    std::shared_ptr<const void> file;  // holds the two below, in place of the buffers
    const void* file_keys = nullptr;
    const void* file_values = nullptr;
    KvMapping mapping;  // of the file, where entries stay in it; empty: they do not
    const void* Keys() const { return file ? file_keys : keys.data(); }
    const void* Values() const { return file ? file_values : values.data(); }
    int64_t allocated() const { return static_cast<int64_t>(keys.allocated() + values.allocated()); }
  };
  struct Segment {
    std::shared_ptr<Memory> memory;
    int64_t length = 0;   // of the memory's first entries these are the head's
    int64_t counted = 0;  // bytes of the memory in the cache's count
  };
  static bool Owned(const std::vector<Segment>& list);
  static bool Stays(const Segment& one) { return !one.memory->mapping.bytes.empty(); }
  // Both lists, encoded entries first.
  template <class Body>
  void ForStored(const Body& body) const {
    for (const auto* list : {&encoded_, &segments_}) {
      for (const Segment& one : *list) {
        if (Stays(one)) body(one, list == &encoded_);
      }
    }
  }
  // Whether the last plain segment may be written to and grown.
  bool OwnsTail() const { return Owned(segments_); }
  int64_t plain() const;  // entries that are
  int64_t unit() const;   // encoded entries that belong together
  void MakeEncoding(std::vector<int16_t> key_channels);
  // What encoded keys and values of so many entries take.
  int64_t EncodedBytes(int64_t entries) const;
  // Where a plain entry's row lies, counted from the first plain one.
  const std::byte* PlainRow(int64_t entry, bool key) const;
  // Makes the tail (owned, or none yet) hold so many entries.
  void SetCapacity(int64_t capacity, KvByteCount& bytes);
  // Makes the last encoded segment (owned) what so many entries take.
  void ResizeEncoded(int64_t entries, KvByteCount& bytes);
  // All plain entries but these (counted from the first plain one) go; the rest moves to fresh memory.
  void Gather(std::span<const int32_t> kept, int64_t capacity, KvByteCount& bytes);
  // Both: what Keep does, entries counted from the first of the list. Whether memory went back.
  bool KeepPlain(std::span<const int32_t> kept, int64_t spare, KvByteCount& bytes);
  bool KeepEncoded(std::span<const int32_t> kept, KvByteCount& bytes);
  // The encoded entries from the first on; the rest becomes plain where a block is cut through. No plain ones are
  // there.
  void CutEncoded(int64_t count, KvByteCount& bytes);
  void Release(std::vector<Segment>& list, KvByteCount& bytes);
  void ListSegments();
  // The lists of counts are as long as `tokens_`; what they take is counted.
  void ResizeCounts(KvByteCount& bytes);
  // Gives back what entries that went have left.
  void ShrinkCounts() {
    counts_.shrink_to_fit();
    biases_.shrink_to_fit();
  }

  int64_t head_;
  int64_t head_dim_;
  int64_t row_;  // bytes of plain keys, or values, of an entry
  KvFormat format_;
  KvCodec codec_;
  std::shared_ptr<const KvEncoding> encoding_;
  std::vector<Segment> encoded_;
  int64_t encoded_length_ = 0;
  std::vector<Segment> segments_;  // plain ones
  std::vector<KvSegment> listed_;  // as kernels see them; empty for a plain one
  int64_t capacity_ = 0;           // of the tail, when it is owned
  std::vector<int32_t> tokens_;
  std::vector<int32_t> counts_;  // of each entry; empty until some entry stands for others
  std::vector<float> biases_;    // their logarithms; empty: not added to logits
  int64_t counted_ = 0;          // bytes of both in the cache's count
};

}  // namespace purekv
