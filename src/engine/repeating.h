// Reading a part a second time: behind it the model is asked to repeat it, chunk by chunk, with the part's own tokens
// as what it says (KVzip, arXiv 2505.23416). What those rows attend to is what the part is needed for, whatever is
// asked of it later. Each chunk's rows see the whole part and themselves; they are forgotten behind it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "base/matrix.h"
#include "engine/layer_observer.h"
#include "engine/repeat_request.h"
#include "engine/sequence.h"
#include "models/decoder.h"

namespace purekv {

// The embeddings of the tokens that pass the first layer and that media brought, so that no tower runs again.
class VisualRows : public LayerObserver {
 public:
  // layout: of the sequence whose newest tokens the rows are; borrowed while they pass.
  explicit VisualRows(const TokenLayout& layout) : layout_(&layout) {}
  LayerWants Wants(int64_t layer) const override { return {.input = layer == 0, .queries = false, .attended = false}; }
  void Deep(const std::shared_ptr<const DeepRows>& rows) override { deep_ = rows; }
  void Input(int64_t layer, MatrixView<const float> hidden) override;

  // Of a token; empty: it is none of them. [hidden]
  std::span<const float> Row(int32_t token) const;
  // What they add behind the first layers; null: nothing.
  const DeepRows* deep() const { return deep_.get(); }

 private:
  const TokenLayout* layout_;
  std::shared_ptr<const DeepRows> deep_;
  std::map<int32_t, Matrix<float>> runs_;  // by the first token of a stretch of them: [tokens, hidden]
};

struct RepeatedPart {
  std::vector<KeyMaxima> maxima;  // [layers], over the query heads of a group; none for layers that keep no entries
  int64_t begin = 0;              // the first token that was repeated
  int64_t peak_bytes = 0;         // the most that the cache held meanwhile
};

struct Repeating {
  const Decoder& decoder;
  const Sequence& part;  // all that it has read: nothing is evicted yet; need not be whole
  const VisualRows& visual;
  const RepeatRequest& request;
  int64_t chunk = 0;       // tokens repeated at a time
  int64_t block_rows = 0;  // as PrefillPass
  KvOptions kv;            // policy full, with what changes the model itself
  DecoderWorkspace& workspace;
  // Called between steps, done of total in rows times layers; may throw.
  std::function<void(int64_t done, int64_t total)> progress;
};

// Repeats all but what stands in front of the media or, without any, in front of the user's text. The part itself is
// not changed.
RepeatedPart RepeatPart(const Repeating& repeating);

}  // namespace purekv
