// Which keys the spatial-temporal sparse prefill lets a visual query see (docs/purekv.md), as a predicate on two
// tokens: what calibration measures the attention mass of.
#pragma once

#include <cstdint>
#include <cstdlib>

#include "cache/token_layout.h"
#include "policy/observation.h"

namespace purekv {

struct SparsePattern {
  bool spatial = true;   // the query's own slice
  bool temporal = true;  // the same cell in earlier slices
  bool anchors = true;   // the first slice of the video
  int64_t sinks = 4;
};

// Whether a query that is a video token sees an earlier key (or itself). key_index: its place in the prompt.
inline bool Sees(const SparsePattern& pattern, const TokenRecord& query, const TokenRecord& key, int64_t key_index) {
  if (!IsVisual(key) || key_index < pattern.sinks) return true;
  if (key.item != query.item) return false;
  return (pattern.spatial && key.slice == query.slice) ||
         (pattern.temporal && key.row == query.row && key.column == query.column) ||
         (pattern.anchors && key.slice == 0);
}

}  // namespace purekv
