// Which tokens of a sequence are visual, which hold a question's evidence, and which of them were kept.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "eval/dataset.h"
#include "purekv/token_layout.h"

namespace purekv {

// Sequence indices of the visual tokens, and of the evidence's. Throws Error when a cell is not in the layout.
std::vector<int32_t> VisualTokens(const TokenLayout& layout);
std::vector<int32_t> EvidenceTokens(const TokenLayout& layout, const EvalQuestion& question);

// Base64 of [layers][KV heads] bit sets over the visual tokens (lowest bit first, each set padded to bytes).
std::string KeptBits(const std::vector<std::vector<std::vector<int32_t>>>& kept, const std::vector<int32_t>& visual);

}  // namespace purekv
