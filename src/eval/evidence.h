// Which tokens of a sequence hold a question's evidence.
#pragma once

#include <cstdint>
#include <vector>

#include "eval/dataset.h"
#include "purekv/token_layout.h"

namespace purekv {

// Sequence indices of the evidence's tokens. Throws Error when a cell is not in the layout.
std::vector<int32_t> EvidenceTokens(const TokenLayout& layout, const EvalQuestion& question);

}  // namespace purekv
