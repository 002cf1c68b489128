// What each prompt token is. Policies and sparse attention read these records, never "first and last visual token".
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace purekv {

// Rotary position on the three axes of M-RoPE; text has all three equal (plain RoPE).
struct Position {
  int32_t t = 0;
  int32_t h = 0;
  int32_t w = 0;
  bool operator==(const Position&) const = default;
};

struct TokenRecord {
  enum class Kind : uint8_t { kText, kImage, kVideo };
  Kind kind = Kind::kText;
  // Media item, in prompt order; -1 for text, but for the newlines that a family puts between the rows of a medium
  // (LLaVA-OneVision): these are text that belongs to it, and no id gives their embedding.
  int32_t item = -1;
  int32_t slice = -1;  // temporal slice inside the item
  int32_t row = -1;    // merged cell
  int32_t column = -1;
};

// One record per token of the sequence so far (prompt, answers, later turns), by sequence index.
using TokenLayout = std::vector<TokenRecord>;

// What is known of the tokens of a sequence beside their ids, by sequence index; evicted or not.
struct TokensSoFar {
  std::span<const TokenRecord> layout;
  std::span<const Position> positions;  // of the rotation
  int64_t size() const { return static_cast<int64_t>(layout.size()); }
};

}  // namespace purekv
