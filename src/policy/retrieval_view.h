// What a way of looking up is: nothing is evicted, each step reads the entries that it chooses (docs/policies.md,
// "Looking up"). A view has the index and the history of one sequence; policy/retrieval.h calls it.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/matrix.h"
#include "base/rope_spec.h"
#include "cache/kv_cache.h"
#include "kernels/page_convolution.h"
#include "policy/options.h"
#include "purekv/token_layout.h"

namespace purekv {

// Entries begin .. end - 1 of a head.
struct EntryRange {
  int64_t begin = 0, end = 0;
  bool operator==(const EntryRange&) const = default;
};
using EntryRanges = std::vector<EntryRange>;  // ascending, apart from one another

// Rows that pass the layers together: those of the part that is compressed, prompt rows behind it, one generated token.
enum class PassedRows { kPart, kBehind, kStep };

// One layer's entries as a view sees them.
struct RetrievalLayer {
  int64_t layer = 0;
  int64_t heads = 0;              // query heads; KV head g serves heads / kv_heads of them
  int64_t head_dim = 0;           // of a key
  int64_t own = 0;                // rows that attend: their entries are the newest
  std::span<const int64_t> most;  // [kv_heads] T: entries that a head may attend to
  const KvCache& cache;
  TokensSoFar tokens;
  const RopeSpec& rope;

  int64_t kv_heads() const { return static_cast<int64_t>(most.size()); }
  int64_t group() const { return heads / kv_heads(); }
  int64_t length(int64_t head) const { return cache.Length(layer, head); }
};

// Layers that do not look up (KvLayerSpec::window, the first ones) never come here.
class RetrievalView {
 public:
  virtual ~RetrievalView() = default;
  virtual std::unique_ptr<RetrievalView> Clone() const = 0;

  // Whether prompt rows behind the part choose, all together; else they attend to everything.
  virtual bool rows_choose() const { return false; }
  // Whether it wants the rows' queries before rotation.
  virtual bool wants_queries(PassedRows /*rows*/) const { return false; }
  // Of how many of the last rows it wants the probabilities; 0: of none.
  virtual int64_t probability_rows() const { return 0; }

  // Rows come next that run through all layers. question: of the part, the first token that asks about its media.
  virtual void Begin(PassedRows /*rows*/, int64_t /*first_token*/, int64_t /*question*/) {}
  // Some of them, in order. tokens [rows], q [rows, heads * head_dim] not rotated
  virtual void AddQueries(int64_t /*layer*/, std::span<const int32_t> /*tokens*/, MatrixView<const float> /*q*/) {}
  // The part has been read and compressed.
  virtual void EndPart(const RetrievalLayer& layer) = 0;
  // The entries that the newest rows of the layer attend to, their own among them. q: of the rows, rotated
  // [own, heads * head_dim].
  virtual std::vector<EntryRanges> Choose(const RetrievalLayer& layer, MatrixView<const float> q) = 0;

  // Whether the step's probabilities are wanted as if it had attended to everything.
  virtual bool WantsAll(int64_t /*layer*/) const { return false; }
  // Of one more row: the largest probability that a query head of the group gave each entry, 0 where none looked.
  // [kv_heads][length]
  virtual void AddProbabilities(int64_t /*layer*/, std::span<const std::vector<float>> /*of_heads*/) {}

  // Bytes of index and history, as allocated; and those that a choice in the layer reads.
  virtual int64_t index_bytes() const = 0;
  virtual int64_t IndexBytesRead(int64_t layer) const = 0;
};

// What a view is made for.
struct RetrievalContext {
  const KvCacheSpec& spec;
  int64_t heads = 0;  // query heads
  int64_t first = 0;  // layer that looks up
  // Of the file that attend_model names; null where none is named.
  std::shared_ptr<const PageConvolution> predictor;
};

// A view's entry in the list.
struct RetrievalInfo {
  std::string name;
  std::string summary;  // one line
  std::string paper;
  Cost cost;
  std::vector<PolicyOption> options;
  bool needs_budget = true;  // else it has another measure
  bool one_choice = false;   // one for all heads of a layer, which must have as many entries
  bool by_frames = false;    // needs media
  std::string variant;       // an option whose default is another method than the paper's, and is named in results
  // Throws Error (kUsage) for options that do not go together. given: as typed. May be null.
  void (*check)(const std::map<std::string, std::string>& given, const OptionValues& values) = nullptr;
  std::unique_ptr<RetrievalView> (*make)(const OptionValues& values, const RetrievalContext& context) = nullptr;
  // Index and history of so many entries in one head.
  int64_t (*index_bytes)(const OptionValues& values, const KvLayerSpec& spec, int64_t entries) = nullptr;
};
const std::vector<RetrievalInfo>& RetrievalViews();

// One file each.
RetrievalInfo QuestView();
RetrievalInfo ActQkvView();
RetrievalInfo AttentionPredictorView();
RetrievalInfo ReKvView();

}  // namespace purekv
