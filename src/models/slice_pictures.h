// The frames that stand for a prompt's visual tokens: one for each temporal slice.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "models/prepared_media.h"
#include "purekv/token_layout.h"

namespace purekv {

// A slice of a medium: the tokens of slice i are its rows x columns cells, row by row, and follow those of the slices
// before.
struct Slice {
  int32_t item = 0, slice = 0;  // which medium, which of its slices
  int64_t rows = 0, columns = 0;
};

// In the order of the visual tokens.
std::vector<Slice> SlicesOf(const TokenLayout& layout);

// Of each, the first frame that it shows, of its medium's stream.
struct SliceFrame : Slice {
  int64_t frame = 0;
};
std::vector<SliceFrame> SliceFrames(const std::vector<PreparedMedia>& media, const TokenLayout& layout);

// Of each medium, of each of its slices, a JPEG of the frame with sides of at most `side` pixels. Reads the media's
// sources, one frame at a time; nothing of one that has none. Throws Error.
std::vector<std::vector<std::string>> SliceJpegs(const std::vector<PreparedMedia>& media, const TokenLayout& layout,
                                                 int64_t side);

}  // namespace purekv
