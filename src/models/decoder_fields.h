// What every family's config.json says of its decoder in the same words.
#pragma once

#include <cstdint>

#include "checkpoint/json.h"
#include "models/decoder.h"

namespace purekv {

// More than any model has: sizes of rows, and counts of layers and heads.
constexpr int64_t kMaxWidth = 1 << 20;
constexpr int64_t kMaxDepth = 4096;

// Reads hidden, layers, heads, kv_heads, intermediate, vocabulary and max_positions. Throws Error naming the field.
void ParseSizes(const JsonFields& fields, DecoderConfig* decoder);

// Throws Error when query heads do not share KV heads evenly, or a head cannot be rotated in pairs.
void CheckHeads(const JsonFields& fields, const DecoderConfig& decoder);

}  // namespace purekv
