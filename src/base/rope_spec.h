// Rotary position embedding as data: a frequency and an axis per rotated pair.
#pragma once

#include <cstdint>
#include <vector>

namespace purekv {

// Pair f of a head, dimensions (f, f + head_dim / 2), turns by position[axis[f]] * inv_freq[f].
struct RopeSpec {
  std::vector<float> inv_freq;  // [rotary_dim / 2]
  std::vector<uint8_t> axis;    // [rotary_dim / 2]: 0 t, 1 h, 2 w
  int64_t pairs() const { return static_cast<int64_t>(inv_freq.size()); }
};

}  // namespace purekv
