// A sequence of tokens that a model has read, and all that it remembers of them. A value: it knows no model, no chat
// and no options.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/matrix.h"
#include "cache/kv_cache.h"
#include "policy/compression.h"
#include "purekv/token_layout.h"

namespace purekv {

// Of a store's entries in memory, unless another number is asked for.
constexpr int64_t kResidentBytes = int64_t{256} << 20;

class Sequence {
 public:
  // compression: knows the layers of the cache.
  explicit Sequence(Compression compression);

  int64_t size() const { return cache_.tokens(); }
  const std::vector<int32_t>& ids() const { return ids_; }
  const TokenLayout& layout() const { return layout_; }
  // Layout and rotary positions. Valid until the next Append.
  TokensSoFar tokens() const { return {layout_, positions_}; }
  // Rotary position of the text token that comes next.
  int32_t next_position() const { return next_position_; }
  // Of the newest token, behind the last layer: [1, hidden]; nothing before the first.
  MatrixView<const float> last_hidden() const { return last_hidden_.View(); }

  KvCache& cache() { return cache_; }
  const KvCache& cache() const { return cache_; }
  Compression& compression() { return compression_; }
  const Compression& compression() const { return compression_; }

  // Registers tokens and returns the index of the first; their entries follow layer by layer. Until Finish says that
  // all layers have them, the sequence is not whole. All three are as long.
  int64_t Append(std::span<const int32_t> ids, std::span<const TokenRecord> layout,
                 std::span<const Position> positions);
  // One token of text, at next_position.
  int64_t AppendText(int32_t id);
  // hidden: of the newest token.
  void Finish(int32_t next_position, std::span<const float> hidden);
  // False after an Append without its Finish: something failed in between, and cache and ids may disagree.
  bool whole() const { return whole_; }
  // What was read is not to be believed.
  void Spoil() { whole_ = false; }

  // Whether forgetting what is appended from now on leads back to here: nothing is evicted by steps, or by windows.
  bool only_grows() const { return !compression_.steps_alone() && !cache_.spec().windowed(); }
  // When `layer` holds all rows that pass: entries that its window has left go (KvCache::SlideWindow), once no higher
  // layer will read them any more.
  void SlideWindow(int64_t layer, int64_t slack);

  // When `layer` holds all rows of a prompt that pass: what is settled of it, and of layers below that waited, leaves
  // memory for the store's file, if there is one.
  void Store(int64_t layer);

  // The same a second time. Entries are shared until one of the two changes them.
  Sequence Fork() const;
  // Its first tokens a second time, fewer than all, the next of which was text. Nothing of them may have been evicted.
  Sequence Fork(int64_t tokens) const;

  // Where the sequence stands, for coming back to by forgetting what was appended since.
  struct Point {
    int64_t tokens = 0;
    int64_t removed = 0;  // entries evicted until then
    int32_t next_position = 0;
    std::vector<float> last_hidden;
    Compression compression;
  };
  Point Here() const;
  // Whether that leads back: not once entries have been evicted since.
  bool CanReturn(const Point& point) const { return cache_.removed() == point.removed; }
  void Return(const Point& point);

 private:
  KvCache cache_;
  Compression compression_;
  std::vector<int32_t> ids_;
  TokenLayout layout_;
  std::vector<Position> positions_;
  int32_t next_position_ = 0;
  Matrix<float> last_hidden_;
  bool whole_ = true;
};

}  // namespace purekv
