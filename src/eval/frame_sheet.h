// The frames of a prompt's media on one picture, a tile per temporal slice, for the report's viewer.
#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "models/language_model.h"
#include "purekv/token_layout.h"

namespace purekv {

// Tiles in the order of the visual tokens: the tokens of tile i are its rows x columns cells, row by row, and follow
// those of the tiles before.
struct FrameSheet {
  std::string jpeg;
  int64_t tile_height = 0, tile_width = 0, per_row = 0;  // pixels, pixels, tiles
  std::vector<std::array<int64_t, 2>> cells;             // [tiles] rows, columns
};

// The first frame of each slice, scaled down to at most `side` pixels; long videos to smaller tiles, so that the sheet
// stays within what JPEG can hold. Reads the media's sources, one frame at a time.
FrameSheet MakeFrameSheet(const std::vector<PreparedMedia>& media, const TokenLayout& layout, int64_t side = 160);

// {"tile": [height, width], "per_row": n, "cells": [[rows, columns], ...]}
nlohmann::ordered_json SheetJson(const FrameSheet& sheet);

}  // namespace purekv
