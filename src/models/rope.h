// Rotary position embedding of the published models, as data (base/rope_spec.h): kernels and policies know nothing of
// M-RoPE.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/matrix.h"
#include "base/rope_spec.h"
#include "purekv/token_layout.h"

namespace purekv {

// Sectioned M-RoPE (Qwen2-VL, arXiv 2409.12191): the first sections[0] pairs turn by t, the next by h, the rest by w;
// frequencies theta^(-2f / head_dim). The sections sum to head_dim / 2.
RopeSpec SectionedRope(int64_t head_dim, double theta, std::span<const int64_t> sections);

// Interleaved M-RoPE (Qwen3-VL): pairs turn by t, h, w, t, h, w .. while the sections of h and w last, the rest by t;
// frequencies and the sum of the sections as above.
RopeSpec InterleavedRope(int64_t head_dim, double theta, std::span<const int64_t> sections);

// How the frequencies of a text model were changed for longer texts ("rope_scaling" of config.json).
struct RopeScaling {
  enum class Kind { kNone, kLinear, kLlama3, kFactors };
  Kind kind = Kind::kNone;
  double factor = 1;  // linear, llama3: what long waves are divided by
  // llama3: waves longer than original / low_factor positions are divided, those shorter than original / high_factor
  // are not, and those between are mixed.
  double low_factor = 1, high_factor = 4, original = 8192;
  std::vector<float> factors;  // [rotary pairs], factors: each frequency is divided by its own
};

// One axis, all pairs of a head: frequencies theta^(-2f / head_dim), scaled.
RopeSpec PlainRope(int64_t head_dim, double theta, const RopeScaling& scaling = {});

// 2-D rotary of the vision towers: the first half of the pairs turns by the row, the second by the column, both with
// frequencies 10000^(-2j / (head_dim / 2)).
RopeSpec VisionRope(int64_t head_dim);

// cos and sin of every angle, computed in f32 as the reference does: [positions.size(), pairs] each.
void RopeTables(const RopeSpec& spec, std::span<const Position> positions, MatrixView<float> cos,
                MatrixView<float> sin);

}  // namespace purekv
