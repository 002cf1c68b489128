// A policy at work on one sequence: what it has observed, what its layers may hold, and the evictions. Whoever passes
// rows through the layers (engine/prefill_pass.h, engine/decode_step.h) says which come next and when a layer has
// them; a value: a copy taken with a fork of the cache goes on from there.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/rope_spec.h"
#include "cache/kv_cache.h"
#include "policy/budget_plan.h"
#include "policy/codecs.h"
#include "policy/dropping.h"
#include "policy/key_channels.h"
#include "policy/observations.h"
#include "policy/policy.h"
#include "policy/registry.h"
#include "policy/retrieval.h"

namespace purekv {

// What was measured of a model, or trained for it; each where the options go by it.
struct ModelFindings {
  CopyingHeads copying{};                            // of its heads, for an allocator, or drop layers
  KvBases bases{};                                   // of its layers (KvOptions::basis)
  std::shared_ptr<const PageConvolution> predictor;  // of pages to look up (AttendOptions)
};

class Compression {
 public:
  // heads: query heads. rope: of the full layers. found: what the options go by. Throws Error (kUsage) as
  // CheckKvOptions does, and when an option or a drop layer does not fit the model.
  Compression(const KvOptions& options, const KvCacheSpec& spec, int64_t heads, RopeSpec rope,
              ModelFindings found = {});

  // The model's layers, with the codecs that the options ask for.
  const KvCacheSpec& spec() const { return spec_; }
  // False for `full`: nothing is observed and nothing evicted.
  bool active() const { return setup_.policy != nullptr; }
  // True when every generated token must pass through all layers alone (decode-time eviction, a count of steps, entries
  // that are encoded as soon as there are enough, or a choice of what each step reads).
  bool steps_alone() const { return encodes_ || evicts_by_steps() || retrieval_.active(); }
  // True when those steps evict one entry for another: a head needs room for one entry more than it keeps.
  bool holds() const { return active() && (setup_.info->holds || setup_.policy->has_fixed_point()); }
  // Whether a compression folds what goes into what stays.
  bool merges() const { return active() && setup_.merges(); }
  // Entries of the prefix that every head keeps whatever its scores.
  int64_t least_kept() const;
  // Whether entries that stand for several tokens weigh as many in the softmax.
  bool merge_bias() const { return setup_.merge.bias; }
  // n of the softmax that makes the output; 0: the ordinary one.
  double n_attn() const { return setup_.n_attn; }
  // The highest layer whose attention must give column sums of many queries at some time; -1: none, keys, values,
  // queries and what a few last queries (Observer::few) attend to are enough.
  int64_t last_scoring_layer() const;

  // The prefix that is compressed has so many tokens; returns B. Throws Error (kUsage) when a budget in bytes does not
  // hold one token per head. droppable: what its drop layers choose among; everything, where it has no media. question:
  // the first of its tokens that asks about them; -1: none does.
  int64_t SetPrefix(int64_t tokens, Droppable droppable = Droppable::kVisual, int64_t question = -1);
  const BudgetPlan& plan() const { return plan_; }
  // What a prefix of so many tokens would take, with `behind` tokens behind it. Throws as SetPrefix.
  PlannedBytes BytesOf(int64_t tokens, int64_t behind) const;
  int64_t prefix() const { return prefix_; }  // tokens of it

  // The rows that pass through all layers next, one of three kinds. Cache: KvCache::Reserve for all of them before they
  // are appended (that a budget in bytes is a cap counts on it).
  // The prefix, or a chunk of it: behind its last row every layer is cut to the budget. A prefix that is read in
  // several passes without evicting in between is begun once.
  void BeginPrefix(int64_t first_token, int64_t rows);
  // Prompt tokens behind the prefix, later turns: kept, so that every head may hold so many more.
  void BeginBehind(int64_t first_token, int64_t rows);
  // One generated token: policies that hold evict back to what they hold, others may compress every so many steps.
  void BeginStep(int64_t token);

  // Where entries are to lie.
  const StoreOptions& store() const { return options_.store; }
  // Whether the layer is what it will be of the rows that were begun last: nothing of it goes any more.
  bool Settled(int64_t layer, const KvCache& cache) const;

  // Which entries the rows read, and what is to be seen of them for that.
  Retrieval& retrieval() { return retrieval_; }
  const Retrieval& retrieval() const { return retrieval_; }

  // What is to be observed of the rows, and where it goes.
  Observations& observations() { return observations_; }
  const Observations& observations() const { return observations_; }

  // Whether the rows' rotated queries are wanted of a layer, for the channels that its keys will hold; and here they
  // are, block by block. q: [rows, heads * head_dim]
  bool WantsRotated(int64_t layer) const;
  void AddRotated(int64_t layer, MatrixView<const float> q);

  // When `layer` holds all rows that were begun: evicts what has to go, from it and from layers below that waited for
  // it, and encodes what then is to be. Layers with a window are none of a policy's business (KvCacheSpec::full), and
  // what others read waits for the last of them.
  // tokens: all in the cache, the rows' included. Throws Error when a score is not finite.
  void AfterLayer(int64_t layer, KvCache& cache, const TokensSoFar& tokens);
  // Tokens of the prefix that the model shall repeat at a time, once all its rows have passed, for a policy that judges
  // by that (PolicyInfo::repeats): AfterLayer then leaves the prefix whole. 0: none, or nothing has to go.
  int64_t repeats() const;
  // When Observations::SetMaxima has been told of every layer's: cuts them all. tokens: all in the cache. begin: the
  // first token that was repeated. Throws Error when a score is not finite.
  void AfterRepeating(KvCache& cache, const TokensSoFar& tokens, int64_t begin);
  // After AfterLayer(layer - 1): the tokens that `layer` and all above still run, ascending. Empty: no change.
  std::span<const int32_t> Alive(int64_t layer) const;
  // Per drop layer: tokens of the prefix that it ran.
  std::vector<int64_t> AliveCounts() const { return dropping_.Counts(); }

  // In place of SetPrefix and reading: `cache` holds a prefix of `tokens` tokens, compressed with B `base`. What
  // Observations::Continuing asks for is put back with Observations::Restore.
  void Resume(int64_t tokens, int64_t base, const KvCache& cache);

 private:
  // What happens to a layer that has the rows.
  enum class Then {
    kGrow,           // nothing
    kCutToBudget,    // the prefix
    kCutToCapacity,  // a step that compresses what has grown since
    kFixedPoint,     // a step that evicts at one place what is more than the layer's share of what was generated
    kEvictOne        // a step of a policy that holds
  };
  bool evicts_by_steps() const { return active() && setup_.steps_alone(); }
  void EvictAfterLayer(int64_t layer, KvCache& cache, const TokensSoFar& tokens);
  // The full layers that are compressed behind the rows of `layer`: those that score with their own sums first.
  std::vector<int64_t> Ready(int64_t layer) const;
  // Behind the last layer that reads it, unless rows of the same part are still to attend to it in full.
  void EncodeAfterLayer(int64_t layer, KvCache& cache, const TokensSoFar& tokens);
  // The first time, behind the part: with the channels that keys hold from then on.
  void Encode(int64_t layer, KvCache& cache, const TokensSoFar& tokens);
  void Adopt(BudgetPlan plan, Droppable droppable = Droppable::kVisual);
  void Begin(const PassingRows& rows, Then then, bool fresh);
  LayerEntries Entries(int64_t layer, const KvCache& cache, const TokensSoFar& tokens) const;
  // What is observed of the layer is scored; nothing is cut before the last layer has been.
  void ScoreForMass(int64_t layer, KvCache& cache, const TokensSoFar& tokens);
  void CutByMass(KvCache& cache, const TokensSoFar& tokens);
  void Cut(const LayerEntries& entries, KvCache& cache);
  void Evict(const LayerEntries& entries, const std::vector<Scores>& planes, const Quota& quota, bool prefix,
             KvCache& cache);
  void SetCapacity(int64_t layer, const KvCache& cache);
  void EvictOne(const LayerEntries& entries, KvCache& cache);
  void EvictAtFixedPoint(int64_t layer, KvCache& cache);
  void Keep(int64_t layer, int64_t head, std::span<const int32_t> entries, int64_t spare, KvCache& cache);
  // What the kept entries of a head take in by the rule of --kv-merge.
  std::vector<MergedEntry> MergedByRule(const LayerEntries& entries, int64_t head, std::span<const int32_t> kept) const;
  // Keep, with `merged` of the entries that go folded into those that stay.
  void KeepMerged(const LayerEntries& entries, int64_t head, std::span<const int32_t> kept,
                  std::span<const MergedEntry> merged, int64_t spare, KvCache& cache);

  PolicySetup setup_;
  KvOptions options_;
  KvCacheSpec spec_;
  bool encodes_ = false;  // some layer does
  int64_t heads_ = 0;
  RopeSpec rope_;
  CopyingHeads copying_;
  Retrieval retrieval_;
  int64_t prefix_ = 0;  // tokens that are compressed
  BudgetPlan plan_;
  PassingRows rows_;
  Then then_ = Then::kGrow;
  int64_t steps_ = 0;                           // tokens generated so far
  int64_t behind_ = 0;                          // tokens of prompts behind the prefix
  std::vector<std::vector<Scores>> planes_;     // [layers] by mass: while layers wait for the last one
  std::vector<std::vector<int64_t>> capacity_;  // [layers][kv_heads] entries that a head may hold behind the prefix
  HeadCounts kept_;                             // that it kept of the prefix
  std::vector<bool> cut_;                       // [layers] whether the prefix was, in the layer
  Observations observations_;
  Dropping dropping_;
  std::vector<LastSquares> squares_;   // [layers] of rotated queries, until channels are chosen
  std::vector<bool> channels_chosen_;  // [layers]
};

}  // namespace purekv
