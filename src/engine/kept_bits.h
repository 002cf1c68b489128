// Which visual tokens of a sequence were kept, as viewers take it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "purekv/token_layout.h"

namespace purekv {

// Sequence indices of the visual tokens.
std::vector<int32_t> VisualTokens(const TokenLayout& layout);

// Base64 of [layers][KV heads] bit sets over the visual tokens (lowest bit first, each set padded to bytes).
// kept: sequence indices, ascending, [layers][KV heads].
std::string KeptBits(const std::vector<std::vector<std::vector<int32_t>>>& kept, const std::vector<int32_t>& visual);

}  // namespace purekv
