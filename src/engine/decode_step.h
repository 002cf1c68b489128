// One token of each of many sequences. The dense layers see all rows as one matrix; attention, observation and eviction
// are each sequence's own.
#pragma once

#include <cstdint>
#include <span>

#include "engine/sequence.h"
#include "models/decoder.h"

namespace purekv {

struct DecodeRow {
  Sequence* sequence = nullptr;  // borrowed; each once
  int32_t id = 0;                // text: the token that goes behind it, in [0, vocabulary)
};

// Appends the tokens; behind it every sequence's last_hidden is that of its own. A row's bits do not depend on the rows
// beside it while there are at most kMatrixVectorRows (kernels/packed_weights.h); beyond that the products are those of
// a prompt. Throws Error when a policy's score is not finite; sequences that are not whole then stopped half-way.
void DecodeStep(const Decoder& decoder, std::span<const DecodeRow> rows, DecoderWorkspace& workspace);

}  // namespace purekv
