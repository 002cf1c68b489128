// A stretch of the sequence, ready to be embedded: what a family's prompt format makes of ids and media.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "purekv/token_layout.h"

namespace purekv {

struct PromptTokens {
  std::vector<int32_t> ids;         // placeholders repeated once per visual token
  TokenLayout layout;               // [ids]
  std::vector<Position> positions;  // [ids]
  int32_t next_position = 0;        // of the text token that follows
  int64_t media_end = 0;            // tokens up to and including the last media item's closing marker; 0 without media
  int64_t text_end = 0;             // tokens up to the end of the context's text; 0 without one

  // Tokens in front of the question: the media's and the context's; 0 without either.
  int64_t context_end() const { return std::max(media_end, text_end); }

  // One more text token at the next position, the same on all axes.
  void AddText(int32_t id);
  // Puts `later`, laid out from this next_position, behind this.
  void Append(PromptTokens later);
};

}  // namespace purekv
