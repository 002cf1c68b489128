// The KV cache: one list of keys and values per (layer, KV head), each with its own length and capacity.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/matrix.h"
#include "cache/kv_cache_spec.h"
#include "cache/kv_head.h"
#include "cache/kv_store.h"
#include "kernels/kv_view.h"
#include "purekv/token_layout.h"

namespace purekv {

// Not thread-safe: one conversation, one thread at a time. Caches that share entries (Fork) may be used from different
// threads.
class KvCache {
 public:
  explicit KvCache(const KvCacheSpec& spec);
  KvCache(KvCache&&) noexcept = default;
  KvCache& operator=(KvCache&&) noexcept = default;
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;

  // The first `tokens` tokens of this cache as a cache of their own. Entries are shared until one of the two changes
  // them; neither need outlive the other.
  KvCache Fork(int64_t tokens) const;
  // Shares the entries of one layer, of the tokens registered here, with an empty layer of this cache: a fork that
  // comes layer by layer, as reading would fill it.
  void ShareLayer(const KvCache& from, int64_t layer);

  const KvCacheSpec& spec() const { return spec_; }

  // Registers the next `count` tokens of the sequence; returns the sequence index of the first. Their keys and values
  // follow, layer by layer, with Append.
  int64_t AddTokens(int64_t count);
  int64_t tokens() const { return tokens_; }

  // Fills an empty head with entries that lie elsewhere (a mapped file) and stay there until the head changes: then
  // they are copied, or with a store (below) never, nor where a large head grows that forks look at, too. tokens:
  // ascending, registered; the entries 64-byte aligned, alive while `hold` is. mapping: all of the file.
  void View(int64_t layer, int64_t head, std::span<const int32_t> tokens, const KvStored& stored,
            const std::shared_ptr<const void>& hold, std::span<const std::byte> mapping);

  // From now on entries of full layers can leave memory for a file. Forks write to the same one.
  void KeepIn(std::shared_ptr<KvStore> store);
  bool stores() const { return store_ != nullptr; }
  // Moves what a layer has in memory to the file, when some head has `least` entries there; the newest stay. Throws
  // Error naming the directory when there is no room.
  void Store(int64_t layer, int64_t least);
  // `heads`, some of a layer's entries, with those in the file replaced by copies in memory, of which so many bytes as
  // the store says are held. segments: [kv_heads] of the views. Valid until the next call.
  void Fetch(int64_t layer, std::vector<KvHeadView>* heads, std::vector<std::vector<KvSegment>>* segments);
  // What has been read of a layer where it lies leaves memory.
  void DropMapped(int64_t layer) const;
  int64_t StoredBytes() const;                                           // of AllocatedBytes: in files
  int64_t FetchedBytes() const { return pages_ ? pages_->bytes() : 0; }  // beside AllocatedBytes: copies of those
  int64_t ReadBytes() const { return pages_ ? pages_->read() : 0; }      // copied so far

  // Makes room for `count` more entries in every head of `layer`, exactly: one growth instead of many.
  void Reserve(int64_t layer, int64_t count);
  // Appends to all heads of one layer. keys (rotated), values: [n, kv_heads * head_dim] f32, converted to the layer's
  // format. tokens: sequence index of each row, ascending, registered. [n] A layer that reads another's entries takes
  // none.
  void Append(int64_t layer, MatrixView<const float> keys, MatrixView<const float> values,
              std::span<const int32_t> tokens);
  // The same for consecutive tokens first_token ...
  void Append(int64_t layer, MatrixView<const float> keys, MatrixView<const float> values, int64_t first_token);

  // Appends the entries of the first `count` tokens of a layer once more, as those of the newest `count` tokens: for
  // measurements at depths that would take days to read. No head encodes.
  void AppendAgain(int64_t layer, int64_t count);

  int64_t Length(int64_t layer, int64_t head) const { return At(layer, head).length(); }
  KvHeadView Head(int64_t layer, int64_t head) const { return At(layer, head).View(); }
  std::vector<KvHeadView> Heads(int64_t layer) const;  // [kv_heads]
  // Bits of an element of keys, and of values, scales included: the mean over all entries.
  std::pair<double, double> ElementBits() const;
  double MeanLength() const;  // entries of a head, over the full layers (KvCacheSpec::full); of all where none is
  // Sequence index of each entry, ascending. [length]
  std::span<const int32_t> EntryTokens(int64_t layer, int64_t head) const { return At(layer, head).tokens(); }

  // The first so many entries of a head are encoded, as Encoding says (null: none ever was).
  int64_t EncodedLength(int64_t layer, int64_t head) const { return At(layer, head).encoded(); }
  const KvEncoding* Encoding(int64_t layer, int64_t head) const { return At(layer, head).encoding(); }
  // Encodes the oldest plain entries of a layer's heads, as many times KvCodec::residual as there are; nothing where
  // the layer has no codec. positions: by sequence index, where the codec is a basis. Throws Error that names layer and
  // head where f16 does not hold an element.
  void Encode(int64_t layer, std::span<const Position> positions = {});
  // Makes a layer's encoded entries plain, for a choice among all of them; Encode follows.
  void Decode(int64_t layer);
  // The channels that a head's encoded keys hold, ascending; once, before its first Encode.
  void SetKeyChannels(int64_t layer, int64_t head, std::vector<int16_t> channels) {
    At(layer, head).SetKeyChannels(std::move(channels));
  }

  // Tokens that each entry stands for; empty: itself alone. [length]
  std::span<const int32_t> EntryCounts(int64_t layer, int64_t head) const { return At(layer, head).counts(); }

  // Keeps only these entries (ascending entry indices) of one head and gives the freed memory back to the system, but
  // for the room of `spare` more: what is evicted at every step of decoding is wanted again at the next one.
  void Keep(int64_t layer, int64_t head, std::span<const int32_t> entries, int64_t spare = 0);
  // Behind a Keep that has removed entries of the head: `sources` of them have been merged into others, which change.
  void Rewrite(int64_t layer, int64_t head, const KvRewrite& change, int64_t sources);
  // Tokens that the entries of a head stand for, as EntryCounts gave them; bias: see KvRewrite.
  void SetCounts(int64_t layer, int64_t head, std::span<const int32_t> counts, bool bias) {
    At(layer, head).SetCounts(counts, bias, bytes_);
  }
  // Entries merged into others so far.
  int64_t merged() const { return merged_; }
  void SetMerged(int64_t count) { merged_ = count; }  // of a cache that was saved
  // Of a layer with a window, gives back what no later row will see; `slack`: entries beyond the window that may stay,
  // so that not every token moves all others.
  void SlideWindow(int64_t layer, int64_t slack);
  // Forgets every token with sequence index >= `tokens` in all layers (rolls a turn back) and gives their memory back.
  void Truncate(int64_t tokens);
  // Entries that Keep has removed, or Encode rounded, so far: while it stands still, Truncate leads back to what was
  // there.
  int64_t removed() const { return removed_; }

  // Bytes of keys and values held now, and the most at any moment so far: what was taken from the system for them, room
  // reserved for tokens to come included, the entries that are viewed in a file (resident as soon as they are read),
  // and those shared with a fork, as if they were not. Not counted: the lists of EntryTokens (4 bytes an entry, up to 8
  // while a head grows), and the copy of at most a page that exists for a moment when a head of less than a page
  // changes its size.
  int64_t AllocatedBytes() const { return bytes_.now; }
  int64_t PeakBytes() const { return bytes_.peak; }
  // Counts the peak anew, from now on.
  void RestartPeak() { bytes_.peak = bytes_.now; }
  // What a full cache of `tokens` tokens takes when filled by one prompt: real allocation sizes, rounding included.
  static int64_t FullBytes(const KvCacheSpec& spec, int64_t tokens);

 private:
  KvHead& At(int64_t layer, int64_t head);
  const KvHead& At(int64_t layer, int64_t head) const;  // of a layer that reads another's entries: that one's

  KvCacheSpec spec_;
  std::vector<std::vector<KvHead>> layers_;  // [layers][kv_heads]
  int64_t tokens_ = 0;
  KvByteCount bytes_;
  int64_t removed_ = 0;
  int64_t merged_ = 0;
  std::shared_ptr<KvStore> store_;
  std::unique_ptr<KvPageCache> pages_;
};

}  // namespace purekv
