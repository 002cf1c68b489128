// The KV cache: one list of keys and values per (layer, KV head), each with its own length and capacity.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/matrix.h"
#include "base/memory.h"
#include "kernels/kv_view.h"
#include "purekv/token_layout.h"

namespace purekv {

struct KvCacheShape {
  int64_t layers = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  Dtype dtype = Dtype::kF32;  // f32 or bf16

  // Bytes of keys and values of one token in one head.
  int64_t entry_bytes() const { return 2 * head_dim * static_cast<int64_t>(DtypeSize(dtype)); }
};

// Not thread-safe: one conversation, one thread at a time.
class KvCache {
 public:
  explicit KvCache(const KvCacheShape& shape);
  // The same contents in memory of its own; heads that view a file go on viewing it.
  KvCache Clone() const;
  // The first `tokens` tokens of this cache, viewed where they lie: this one must neither change nor go while the alias
  // has heads that it has not changed.
  KvCache Alias(int64_t tokens) const;

  const KvCacheShape& shape() const { return shape_; }

  // Registers the next tokens of the sequence; returns the sequence index of the first. Their keys and values follow,
  // layer by layer, with Append.
  int64_t AddTokens(std::span<const Position> positions);
  int64_t tokens() const { return static_cast<int64_t>(positions_.size()); }
  // Rotary position of every token of the sequence, evicted or not. [tokens]
  std::span<const Position> positions() const { return positions_; }

  // Fills an empty head with entries that lie elsewhere (a mapped file) and stay there until the head changes: then
  // they are copied. tokens: ascending, registered; keys, values: [tokens, head_dim], 64-byte aligned, alive while
  // `hold` is.
  void View(int64_t layer, int64_t head, std::span<const int32_t> tokens, const void* keys, const void* values,
            std::shared_ptr<const void> hold);

  // Makes room for `count` more entries in every head of `layer`, exactly: one growth instead of many.
  void Reserve(int64_t layer, int64_t count);
  // Appends to all heads of one layer. keys (rotated), values: [n, kv_heads * head_dim] f32, converted to the cache's
  // dtype. tokens: sequence index of each row, ascending, registered. [n]
  void Append(int64_t layer, MatrixView<const float> keys, MatrixView<const float> values,
              std::span<const int32_t> tokens);
  // The same for consecutive tokens first_token ...
  void Append(int64_t layer, MatrixView<const float> keys, MatrixView<const float> values, int64_t first_token);

  int64_t Length(int64_t layer, int64_t head) const;
  KvHeadView Head(int64_t layer, int64_t head) const;
  // Sequence index of each entry, ascending. [length]
  std::span<const int32_t> EntryTokens(int64_t layer, int64_t head) const;

  // Keeps only these entries (ascending entry indices) of one head and gives the freed memory back to the system, but
  // for the room of `spare` more: what is evicted at every step of decoding is wanted again at the next one.
  void Keep(int64_t layer, int64_t head, std::span<const int32_t> entries, int64_t spare = 0);
  // Forgets every token with sequence index >= `tokens` in all layers (rolls a turn back) and gives their memory back.
  void Truncate(int64_t tokens);
  // Entries that Keep has removed so far: while it stands still, Truncate leads back to what was there.
  int64_t removed() const { return removed_; }

  // Bytes of keys and values held now, and the most at any moment so far: what was taken from the system for them, room
  // reserved for tokens to come included, and the entries that are viewed in a file (resident as soon as they are
  // read). Not counted: the lists of EntryTokens (4 bytes an entry, up to 8 while a head grows), and the copy of at
  // most a page that exists for a moment when a head of less than a page changes its size.
  int64_t AllocatedBytes() const { return allocated_; }
  int64_t PeakBytes() const { return peak_; }
  // Says what the peak was where this cache was not filled the usual way (an alias cut afterwards).
  void SetPeak(int64_t bytes) { peak_ = bytes; }
  // What a full cache of `tokens` tokens takes when filled by one prompt: real allocation sizes, rounding included.
  static int64_t FullBytes(const KvCacheShape& shape, int64_t tokens);

 private:
  // One KV head of one layer: in memory of its own, or in a file while `viewed` is set.
  struct Entries {
    Buffer keys;    // [capacity, head_dim]
    Buffer values;  // [capacity, head_dim]
    std::shared_ptr<const void> viewed;
    const void* viewed_keys = nullptr;
    const void* viewed_values = nullptr;
    bool borrowed = false;  // viewed in another cache (Alias), not in a file
    std::vector<int32_t> tokens;
    int64_t capacity = 0;
  };
  Entries& At(int64_t layer, int64_t head);
  const Entries& At(int64_t layer, int64_t head) const;
  void SetCapacity(Entries& entries, int64_t capacity);
  void CopyViewed(Entries& entries, int64_t capacity);
  void KeepOfViewed(Entries& entries, std::span<const int32_t> kept, int64_t spare);
  size_t row_bytes() const { return static_cast<size_t>(shape_.head_dim) * DtypeSize(shape_.dtype); }

  KvCacheShape shape_;
  std::vector<Entries> entries_;  // [layers * kv_heads]
  std::vector<Position> positions_;
  int64_t allocated_ = 0;
  int64_t peak_ = 0;
  int64_t removed_ = 0;
};

}  // namespace purekv
