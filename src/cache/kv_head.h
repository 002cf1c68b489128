// The entries of one KV head of one layer: whose tokens they are, and where their keys and values lie.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/any_matrix.h"
#include "base/memory.h"
#include "cache/kv_cache_spec.h"
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

// A list of segments: memory that grows, memory that another head shares, stretches of a file. Nobody writes to a
// segment that somebody else sees; who changes entries that lie in one takes memory of its own for what it keeps, and
// who appends behind one begins another, unless all of it is small. So that almost always there is one segment, which
// grows in place.
class KvHead {
 public:
  explicit KvHead(const KvLayerSpec& spec) : head_dim_(spec.head_dim), row_(spec.row_bytes()), format_(spec.format) {}

  int64_t length() const { return static_cast<int64_t>(tokens_.size()); }
  // Sequence index of each entry, ascending.
  std::span<const int32_t> tokens() const { return tokens_; }
  // Tokens that each entry stands for; empty: itself alone.
  std::span<const int32_t> counts() const { return counts_; }
  // Valid until the head changes.
  KvHeadView View() const;

  // Room for `count` more entries, exactly.
  void Reserve(int64_t count, KvByteCount& bytes);
  // keys, values: [n, head_dim] f32, converted. tokens [n] ascending, behind the head's.
  void Append(MatrixView<const float> keys, MatrixView<const float> values, std::span<const int32_t> tokens,
              KvByteCount& bytes);
  // Keeps only these entries (ascending), with room for `spare` more; the rest of the memory goes back.
  void Keep(std::span<const int32_t> entries, int64_t spare, KvByteCount& bytes);
  // Behind a Keep that has removed entries: some of the others change.
  void Rewrite(const KvRewrite& change, KvByteCount& bytes);
  // [length]
  void SetCounts(std::span<const int32_t> counts, bool bias, KvByteCount& bytes);
  // Forgets the entries of tokens from `token` on.
  void Truncate(int32_t token, KvByteCount& bytes);

  // Fills the empty head with entries that lie in a file: [tokens, head_dim], 64-byte aligned, alive while `hold` is.
  void ViewFile(std::span<const int32_t> tokens, const void* keys, const void* values, std::shared_ptr<const void> hold,
                KvByteCount& bytes);
  // Fills the empty head with another's entries of tokens before `token`, shared until one of the two changes them.
  // What is shared counts in both, as if each had taken exactly what it needs.
  void Share(const KvHead& from, int32_t token, KvByteCount& bytes);

 private:
  struct Memory {
    Buffer keys, values;               // [capacity, head_dim]
    std::shared_ptr<const void> file;  // holds the two below, in place of the buffers
    const void* file_keys = nullptr;
    const void* file_values = nullptr;
  };
  struct Segment {
    std::shared_ptr<Memory> memory;
    int64_t length = 0;   // of the memory's first entries these are the head's
    int64_t counted = 0;  // bytes of the memory in the cache's count
  };
  // Whether the last segment may be written to and grown.
  bool OwnsTail() const;
  // Makes the tail (owned, or none yet) hold so many entries.
  void SetCapacity(int64_t capacity, KvByteCount& bytes);
  // All entries but those at `kept` go; the rest moves to fresh memory.
  void Gather(std::span<const int32_t> kept, int64_t capacity, KvByteCount& bytes);
  void ListSegments();
  // The lists of counts are as long as `tokens_`; what they take is counted.
  void ResizeCounts(KvByteCount& bytes);
  // Gives back what entries that went have left.
  void ShrinkCounts() {
    counts_.shrink_to_fit();
    biases_.shrink_to_fit();
  }

  int64_t head_dim_;
  int64_t row_;  // bytes of keys, or values, of an entry
  KvFormat format_;
  std::vector<Segment> segments_;
  std::vector<KvSegment> listed_;  // as kernels see them; empty for one
  int64_t capacity_ = 0;           // of the tail, when it is owned
  std::vector<int32_t> tokens_;
  std::vector<int32_t> counts_;  // of each entry; empty until some entry stands for others
  std::vector<float> biases_;    // their logarithms; empty: not added to logits
  int64_t counted_ = 0;          // bytes of both in the cache's count
};

}  // namespace purekv
