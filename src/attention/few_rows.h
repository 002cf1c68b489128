// AttendTile for decode: at most a handful of rows, so that reading the cache is the work.
#pragma once

#include <cstdint>

#include "attention/tile.h"

namespace purekv {

// Tiles of up to this many rows come here: one query row of a group of 8 heads (Qwen2.5-VL: 7 and 8).
constexpr int64_t kFewRows = 8;

// As AttendTile; scratch of TileScratchFloats.
void AttendFewRows(const AttentionTile& tile, const PartialState& state, float* scratch);

}  // namespace purekv
