// What a policy has observed of a sequence so far: per layer the column sums of its attention and the statistics of its
// queries. They add up while rows pass, follow what is evicted, and are used up by a compression.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "base/matrix.h"
#include "cache/kv_cache.h"
#include "policy/policy.h"
#include "policy/registry.h"

namespace purekv {

struct RowRange {
  int64_t first = 0;  // inside the block
  int64_t count = 0;
};

// Rows that pass through all layers together, and when what is seen of them will be asked for.
struct PassingRows {
  static constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
  int64_t first_token = 0;  // they are this token and those behind it
  int64_t rows = 0;
  bool observed = false;  // false: nothing of them is needed
  // Tokens that will follow them before the policy scores with what its window saw. kNever: no window counts them.
  int64_t until_scored = kNever;

  int64_t end() const { return first_token + rows; }
  // Whether a window over the last `window` queries reaches into these rows.
  bool InWindow(int64_t window) const { return until_scored < window; }
};

class Observations {
 public:
  Observations() = default;
  // setup: of an active policy; base: B. heads: query heads.
  Observations(const PolicySetup& setup, const KvCacheSpec& spec, int64_t heads, int64_t base);

  // The rows come next. fresh: what windows saw before is forgotten.
  void Begin(const PassingRows& rows, bool fresh);

  // What the attention of `layer` must report for the rows. A layer that reads another's entries reports for that one:
  // its column sums add up in the same lists, behind the other's rows.
  Observer Request(int64_t layer) const;
  // Queries before rotation of these tokens (sequence indices, ascending). q [tokens, heads * head_dim]
  void AddQueries(int64_t layer, std::span<const int32_t> tokens, MatrixView<const float> q);
  // In place of AddQueries: what was added up elsewhere, the observer's first_token already left out.
  void SetQueries(int64_t layer, QueryStats queries) { At(layer).queries = std::move(queries); }
  // What the repeating queries gave the layer's entries.
  void SetMaxima(int64_t layer, KeyMaxima maxima) { At(layer).maxima = std::move(maxima); }
  // Which rows of a block with these tokens belong to the column sums; their attention must give LSE when weighted.
  RowRange SumRows(int64_t layer, std::span<const int32_t> tokens) const;
  // Of a block, the rows of the tail that the observer asks for apart (Observer::tail).
  RowRange TailRows(int64_t layer, std::span<const int32_t> tokens) const;
  // Where the column sums of those rows (their sequence indices: `queries`) add up: every list is as long as its head
  // in the cache now, which holds the rows' own keys already.
  AttentionSums& AnnounceSums(int64_t layer, std::span<const int32_t> queries, const KvCache& cache);

  // The same for rows that have been announced.
  AttentionSums& SumsOf(int64_t layer) { return At(spec_.owner(layer)).sums; }

  // Before `entries` are evicted from: their sums stay readable for the other layers that score with them.
  void Lend(const LayerEntries& entries);
  // What can be compressed behind the rows of `layer` has been: forgets what nobody above will score with.
  void EndLoans(int64_t layer);
  // What the policy scores the layer with: its own, or what the layer that SumsFrom names has lent.
  Observation Of(const LayerEntries& entries) const;
  // Follows an eviction: only these entries (ascending) of a head remain.
  void Keep(int64_t layer, int64_t head, std::span<const int32_t> entries) { At(layer).sums.Keep(head, entries); }
  // The layer has been compressed: what a window saw, and the queries, are used up; sums over all queries go on.
  void Use(int64_t layer);

  // Sums that go on after a compression, for a sequence that is saved there. Null: it needs nothing but the cache.
  const AttentionSums* Continuing(int64_t layer) const;
  // Puts them back: the lists of Continuing, of the queries first_query .. last_query.
  void Restore(int64_t layer, int64_t first_query, int64_t last_query, std::span<const std::span<const double>> lists);

 private:
  struct Layer {
    AttentionSums sums;
    QueryStats queries;
    KeyMaxima maxima;
  };
  // The sums of one layer that others score with, on the entries that it had before its own eviction.
  struct Loan {
    AttentionSums sums;
    std::vector<std::vector<int32_t>> tokens;
  };
  Layer& At(int64_t layer) { return layers_[static_cast<size_t>(layer)]; }
  const Layer& At(int64_t layer) const { return layers_[static_cast<size_t>(layer)]; }
  RowRange LastRows(int64_t window, std::span<const int32_t> tokens) const;
  // The layers that score with `source`'s sums, itself left out.
  std::vector<int64_t> ScoredWith(int64_t source) const;

  PolicySetup setup_;
  KvCacheSpec spec_;
  int64_t heads_ = 0;
  int64_t base_ = 0;
  PassingRows rows_;
  std::vector<Layer> layers_;
  std::map<int64_t, Loan> loans_;  // by layer
};

}  // namespace purekv
