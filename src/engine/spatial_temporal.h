// Which keys a query sees in spatial-temporal sparse attention (after ST-SpAttn of PureKV, arXiv 2510.25600, which
// gives the idea and no equations; docs/purekv.md has the definition), and the plan that computes it.
#pragma once

#include <cstdint>
#include <span>

#include "attention/sparse_plan.h"
#include "purekv/token_layout.h"

namespace purekv {

// A frame is a slice of a video, a cell one of its tokens' places.
struct SpatialTemporalPattern {
  int64_t sinks = 4;            // first tokens of the sequence, seen by all behind them
  int64_t temporal_radius = 0;  // cells to every side, in earlier frames
  int64_t temporal_window = 0;  // frames back; 0: all
  int64_t anchor_every = 0;     // frames k, 2k, ... are anchors beside frame 0; 0: frame 0 alone; kNoAnchors: none
  bool spatial = true;
  bool temporal = true;

  static constexpr int64_t kNoAnchors = -1;
};

// Pairs of query and key by the part that counts them; each pair has one, the first of this order that fits.
struct PatternPairs {
  double text_rows = 0;  // everything that text queries see
  double prefix = 0;     // text and sinks, of visual queries
  double spatial = 0;    // their own frame or image, themselves included
  double anchors = 0;
  double temporal = 0;
  double dense = 0;  // what dense attention would see: the rest is not computed

  double sum() const { return text_rows + prefix + spatial + anchors + temporal; }
  void Add(const PatternPairs& other);
};

// The pattern's definition: whether the query at sequence index `query` sees the key at index `key`. layout: records by
// sequence index.
bool Sees(const SpatialTemporalPattern& pattern, std::span<const TokenRecord> layout, int64_t query, int64_t key);

// The plan of a block. rows: sequence indices of its queries, ascending; keys: of the tokens whose keys exist, rows
// included, ascending: not every token need be there. Slices of one medium come in order. pairs (may be null) is added
// to.
SparsePlan PlanSpatialTemporal(const SpatialTemporalPattern& pattern, std::span<const TokenRecord> layout,
                               std::span<const int32_t> rows, std::span<const int32_t> keys, PatternPairs* pairs);

}  // namespace purekv
