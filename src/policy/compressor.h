// A policy at work on one conversation: what adds up layer by layer, and the evictions. The engine drives it:
//
//   Compressor compressor(options, decoder.cache_shape(), heads, inv_freq);
//   compressor.SetPart(tokens);                            once: the part that is compressed, which fixes B
//   compressor.Begin(Reading::kPart, first_token, rows);   rows that are read next, up to a compression
//     for each layer, KvCache::Reserve for all its rows (that B of --kv-bytes is a cap counts on it); for each block:
//       q before rotation:      if (compressor.WantsQueries(layer)) compressor.AddQueries(layer, tokens, q)
//       after its attention:    if (const RowRange rows = compressor.SumRows(layer, tokens); rows.count)
//                                 add column sums into compressor.Sums(layer, ...), with QueryWeights when weighted
//     after each layer:         compressor.AfterLayer(layer, cache, layout)
//     before the next one:      it runs only the rows of compressor.Alive(layer + 1), where that is not empty
//   compressor.Begin(Reading::kOnTop, ...)                 prompt tokens behind the part, later turns: kept
//   compressor.Begin(Reading::kStep, first_token, 1)       a generated token
//
// Copyable: a copy taken with a copy of the cache continues from there.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/matrix.h"
#include "cache/kv_cache.h"
#include "policy/observation.h"
#include "policy/policy.h"
#include "policy/registry.h"

namespace purekv {

// What the rows to come are.
enum class Reading {
  kPart,   // the part that is compressed, or a chunk of it: behind its last row every layer is cut to the budget
  kOnTop,  // read on top of the compressed part and kept: each head's capacity grows by them
  kStep    // one generated token: policies that hold evict back to capacity, others may compress every so many steps
};

struct RowRange {
  int64_t first = 0;  // inside the block
  int64_t count = 0;
};

class Compressor {
 public:
  // heads: query heads. inv_freq: frequency of each rotated pair. Throws Error (kUsage) as CheckKvOptions does, and
  // when an option or a drop layer does not fit the model.
  Compressor(const KvOptions& options, const KvCacheShape& shape, int64_t heads, std::vector<float> inv_freq);

  // False for `full`: nothing below need be called then.
  bool active() const { return setup_.policy != nullptr; }
  // True when every generated token must pass through all layers alone (decode-time eviction, or a count of steps).
  bool steps_alone() const { return active() && (setup_.info->holds || setup_.decode_every > 0); }
  // True when each of those steps evicts what it has read: a head needs room for one entry more than it keeps.
  bool holds() const { return active() && setup_.info->holds; }
  double n_attn() const { return setup_.n_attn; }
  // The highest layer whose attention must give column sums at some time; -1: none, keys, values and queries are
  // enough.
  int64_t last_scoring_layer() const;

  // The part has so many tokens; returns B. Throws Error (kUsage) when --kv-bytes does not hold one token per head.
  int64_t SetPart(int64_t tokens);
  int64_t base() const { return base_; }  // B
  // Entries that each head of `layer` keeps of the part (ada shares the layer's sum out). B >= N: all.
  int64_t Count(int64_t layer) const { return counts_[static_cast<size_t>(layer)]; }

  // The next rows through all layers are these tokens. A part read in several chunks without evicting in between is one
  // Begin; evicting after every chunk, one Begin per chunk.
  void Begin(Reading reading, int64_t first_token, int64_t rows);

  // What the attention of `layer` must report for the rows of the Begin.
  Observer Observes(int64_t layer) const;
  bool WantsQueries(int64_t layer) const { return Observes(layer).kind == Observer::Kind::kQueries; }
  // Queries before rotation of these tokens (sequence indices, ascending). q [tokens, heads * head_dim]
  void AddQueries(int64_t layer, std::span<const int32_t> tokens, MatrixView<const float> q);
  // In place of AddQueries: what was added up elsewhere, first_token of the observer already left out.
  void SetQueries(int64_t layer, QueryStats queries) { At(layer).queries = std::move(queries); }
  // Which rows of a block with these tokens belong to the column sums; their attention must give LSE when weighted.
  RowRange SumRows(int64_t layer, std::span<const int32_t> tokens) const;
  // Where the column sums of those rows (their sequence indices: `queries`) add up: every list is as long as its head
  // in the cache now, which holds the rows' own keys already.
  AttentionSums& Sums(int64_t layer, std::span<const int32_t> queries, const KvCache& cache);

  // For a session that is saved right behind the part and goes on elsewhere: the sums that the policy still adds to
  // while decoding. Null: it needs nothing but the cache.
  const AttentionSums* ContinuingSums(int64_t layer) const;
  // In place of SetPart and reading: `cache` holds a part of `tokens` tokens, compressed with B `base` in 1 .. tokens;
  // sums (as many as ContinuingSums then says) are put back with RestoreSums.
  void Resume(int64_t tokens, int64_t base, const KvCache& cache);
  void RestoreSums(int64_t layer, int64_t first_query, int64_t last_query,
                   std::span<const std::span<const double>> lists);

  // When `layer` holds all rows of the Begin: evicts what has to go, from it and from layers below that waited for it.
  // layout: records of all tokens in the cache, the rows' included. Throws Error when a score is not finite.
  void AfterLayer(int64_t layer, KvCache& cache, std::span<const TokenRecord> layout);

  // After AfterLayer(layer - 1): the tokens of the Begin that `layer` and all above still run, ascending. Empty: no
  // change, the same as the layer below.
  std::span<const int32_t> Alive(int64_t layer) const;
  // Per drop layer: tokens of the part that it ran.
  std::vector<int64_t> AliveCounts() const;

 private:
  struct LayerState {
    AttentionSums sums;
    QueryStats queries;
    std::vector<int64_t> capacity;  // [kv_heads] entries held behind the part
  };
  // The sums of one layer that others score with, on the entries that it had before its own eviction.
  struct Snapshot {
    int64_t layer = -1;
    AttentionSums sums;
    std::vector<std::vector<int32_t>> tokens;
  };
  LayerState& At(int64_t layer) { return layers_[static_cast<size_t>(layer)]; }
  const LayerState& At(int64_t layer) const { return layers_[static_cast<size_t>(layer)]; }
  std::vector<int64_t> CountsOf(int64_t base, int64_t tokens) const;  // [layers] entries per head
  CappedPart Capped(int64_t tokens) const;
  void TakeBase(int64_t base, int64_t tokens);
  int64_t StepsLeft() const;  // until the next compression while decoding
  bool CompressesNow() const;
  LayerEntries Entries(int64_t layer, const KvCache& cache, std::span<const TokenRecord> layout) const;
  bool NextReads(int64_t layer, int64_t source) const;  // whether the layer above `layer` scores with `source`'s sums
  bool Awaited(int64_t layer) const;                    // whether the layer below it waits for its sums
  void TakeSnapshot(const LayerEntries& entries);
  Observation Observed(const LayerEntries& entries) const;
  Quota QuotaOf(const LayerEntries& entries) const;
  static bool KeepsAll(const LayerEntries& entries, const Quota& quota);
  int64_t DropAt(int64_t layer) const;  // its index among the drop layers, or -1
  void ChooseAlive(size_t drop, const LayerEntries& entries, const std::vector<Scores>& planes);
  void Compress(const LayerEntries& entries, KvCache& cache);
  void Hold(const LayerEntries& entries, KvCache& cache);
  void Keep(int64_t layer, int64_t head, std::span<const int32_t> entries, KvCache& cache);

  PolicySetup setup_;
  KvOptions options_;
  KvCacheShape shape_;
  int64_t heads_ = 0;
  std::vector<float> inv_freq_;
  int64_t base_ = 0;             // B
  std::vector<int64_t> counts_;  // [layers]
  Reading reading_ = Reading::kPart;
  int64_t first_token_ = 0, rows_ = 0;
  int64_t steps_ = 0;  // tokens generated so far
  // [drop layers] tokens of the part that go on from there, of all chunks so far.
  std::vector<std::vector<int32_t>> alive_;
  std::vector<LayerState> layers_;
  Snapshot snapshot_;
};

}  // namespace purekv
