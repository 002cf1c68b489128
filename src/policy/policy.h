// What a policy is: options in, and for each layer: what to observe, scores, a choice. A policy is const and has no
// state; what adds up during a conversation lives in the Compression (policy/compression.h), which calls it.
//
// Where layers read the entries of a lower one, a policy sees the lower one alone, as attended to by the query heads of
// all of them.
//
// The parts of a policy (docs/policies.md):
//   observer    Observes()   what the attention of a layer must report
//   scorer      Score()      a number per KV head and entry, high to stay (policy/scores.h has the common ones)
//   protector   Protects()   what stays whatever its score
//   selector    Select()     the kept entries, from scores and quota (the allocator's); the default fits one plane of
//                            scores
//   decode      `holds`      each step evicts the unprotected entry of lowest score; or nothing (the cache grows)
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/rope_spec.h"
#include "cache/kv_cache.h"
#include "policy/budget.h"
#include "policy/merging.h"
#include "policy/observation.h"
#include "policy/options.h"
#include "purekv/error.h"
#include "purekv/token_layout.h"

namespace purekv {

// The entries of one layer as its policy sees them.
struct LayerEntries {
  int64_t layer = 0;
  int64_t heads = 0;  // query heads that attend to them: the layer's, and those of layers that read its entries
  int64_t head_dim = 0;
  int64_t base = 0;                                // B of the budget, before the allocator
  int64_t repeated_from = 0;                       // the first token that the model repeated (PolicyInfo::repeats)
  std::vector<KvHeadView> kv;                      // [kv_heads], keys rotated
  std::vector<std::span<const int32_t>> tokens;    // [kv_heads][length] sequence index of each entry, ascending
  std::span<const TokenRecord> layout;             // by sequence index
  std::span<const Position> positions;             // by sequence index
  const RopeSpec* rope = nullptr;                  // how the keys were turned
  std::vector<std::span<const int32_t>> counts{};  // [kv_heads][length] entries that each one stands for; empty: itself

  int64_t kv_heads() const { return static_cast<int64_t>(kv.size()); }
  int64_t group() const { return heads / kv_heads(); }
  int64_t length(int64_t head) const { return kv[static_cast<size_t>(head)].length; }
};

// What was observed for the layer's Score; the observer says which members are there.
struct Observation {
  const AttentionSums* sums = nullptr;
  std::vector<std::span<const int32_t>> sum_tokens;  // [kv_heads] sequence index of each entry of `sums`: the layer's
                                                     // own entries, or those of the layer that SumsFrom names
  int64_t sum_group = 0;                             // query heads whose attention adds up in each KV head of `sums`
  const AttentionSums* own = nullptr;  // the layer's own sums, whichever SumsFrom names; maybe without planes
  // Of the layer's own query heads, then of each layer that reads its entries.
  std::vector<const QueryStats*> queries{};
  const KeyMaxima* maxima = nullptr;
};

using Scores = std::vector<std::vector<double>>;        // [kv_heads][entries]
using KeptEntries = std::vector<std::vector<int32_t>>;  // [kv_heads][kept], ascending entry indices

// What the allocator gives one layer.
struct Quota {
  std::vector<int64_t> counts;  // [kv_heads] entries to keep
  bool shared = false;          // ada: the sum of the counts is shared out by score,
  int64_t least = 0;            // but every head keeps at least its own best `least`
};

// Scores that count by the order they make, and how much beside others.
struct Ranking {
  double share = 1;
  Scores scores;
};

// The layer below a drop layer alone, by the mean over its heads; or all heads below, each as much as it copies.
enum class DropsBy { kLayerBelow, kCopyingHeads };

class Policy {
 public:
  virtual ~Policy() = default;

  virtual Observer Observes(int64_t layer, int64_t base) const;
  // The lowest layer that can drop tokens from the prefill: the one before it has the policy's scores.
  virtual int64_t FirstDropLayer() const { return 1; }
  // Whose scores choose the tokens that go on (policy/dropping.h).
  virtual DropsBy drops_by() const { return DropsBy::kLayerBelow; }
  // And what they say. scores: Score's. Default: those.
  virtual std::vector<Ranking> DropRankings(const LayerEntries& entries, const Observation& observed,
                                            const Scores& scores) const;
  // The layer whose sums Score gets; most policies read their own. One above `layer` makes it wait: it is compressed
  // when that one is, as must be all layers between them.
  virtual int64_t SumsFrom(int64_t layer) const { return layer; }
  virtual Protection Protects(int64_t base) const = 0;
  // The same where the entries are known; the default does not look at them.
  virtual Protection ProtectsOf(const LayerEntries& entries) const { return Protects(entries.base); }
  // Planes of scores; most policies have one.
  virtual std::vector<Scores> Score(const LayerEntries& entries, const Observation& observed) const = 0;
  // Per head exactly quota.counts entries (shared: exactly their sum in all; a policy that merges by itself: at most as
  // many), the protected ones among them.
  virtual KeptEntries Select(const LayerEntries& entries, const std::vector<Scores>& planes, const Quota& quota) const;
  // Of a policy that merges by itself (PolicyInfo::merges), behind Select: what the kept entries of a head take in.
  virtual std::vector<MergedEntry> Merges(const LayerEntries& entries, const std::vector<Scores>& planes, int64_t head,
                                          int64_t count) const;
  // Of one that holds: the entry of a head that a decode step evicts; count: entries that the head keeps of the prefix.
  virtual int32_t Evicts(const LayerEntries& entries, const std::vector<Scores>& planes, int64_t head,
                         int64_t count) const;
  // Whether a decode step evicts at one place of every list, without scores, whenever a layer has more than its share
  // of what has been generated; and that place, an index, for a layer that keeps `kept` entries of the prefix.
  virtual bool has_fixed_point() const { return false; }
  virtual int64_t FixedPoint(int64_t kept) const { return kept; }
  // What allocator prefix goes by: no score is negative (PolicyInfo::mass). Default: the scores.
  virtual Scores Masses(const LayerEntries& entries, const std::vector<Scores>& planes) const;
  // Why these options have no such scores; "": they have.
  virtual std::string NoMass() const { return ""; }
};

// The layer behind whose rows a full layer is compressed: the last that attends to its entries, or to those of the
// layer whose sums it is scored with.
int64_t CompressedBehind(const Policy& policy, const KvCacheSpec& spec, int64_t layer);

// What a policy is made for.
struct PolicyContext {
  const KvCacheSpec& spec;
  MergeOptions merge{};
  bool unseen = false;   // the part is compressed before its question is read (KvOptions::When::kContext)
  bool chunked = false;  // and cut as often as a chunk of it has been read (KvOptions::chunk)
};

// A policy's entry in the registry.
struct PolicyInfo {
  std::string name;
  std::string summary;  // one line
  std::string paper;    // "" when there is none
  Cost cost;
  std::vector<PolicyOption> options;
  bool ada = false;           // has scores that can be compared between heads, as the ada allocator and dropping need
  bool mass = false;          // one plane of scores that are never negative, as the prefix allocator needs
  std::string merge;          // the rule that evicted entries are merged by unless another is asked for; "": none
  bool merge_likest = false;  // averaged and weighted drop what is less like its target than the mean, unless asked
  bool merges = false;        // merges by itself
  bool calibrated = false;    // `purekv calibrate` finds its options; there is one such policy
  bool one_set = false;       // all heads of a layer keep the same tokens
  bool holds = false;         // scores and evicts at every decode step, so that the cache stops growing
  bool so_far = false;  // judges a key by the queries so far that see it, so that a part can be cut while it is read
  // Has the part read a second time before anything goes (Observer::Kind::kRepeatMaxima in every layer), and shares
  // B times all layers and heads out to the highest scores of all of them; every head keeps its protected entries.
  bool repeats = false;
  // Advice behind "needs the scores of the last layer" and "judges a key by queries of the whole part"; "": there is
  // none.
  Message score_lower, score_window;
  // What the allocator "auto" stands for with these options, as the caller typed them; null: uniform.
  std::function<std::string(const std::map<std::string, std::string>& given)> allocator;
  // Throws Error (kUsage) for options that contradict one another. given: as the caller typed them. May be empty.
  std::function<void(const std::map<std::string, std::string>& given, const OptionValues& values)> check;
  // Throws Error (kUsage) when an option does not fit the model. Null for `full`, which has nothing to decide.
  std::function<std::unique_ptr<const Policy>(const OptionValues&, const PolicyContext&)> make;

  bool chooses = false;  // its scores cannot be compared between heads, but can choose tokens to drop all the same
  bool drops() const { return (ada && !holds) || chooses; }  // can choose tokens to drop from the prefill
};

}  // namespace purekv
