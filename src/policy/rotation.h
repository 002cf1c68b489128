// A key turned back from its rotary position, or to one: where keys of different places are compared or averaged.
#pragma once

#include <cstdint>
#include <vector>

#include "base/rope_spec.h"
#include "purekv/token_layout.h"

namespace purekv {

// The turn from position 0 to `position`, as cosine and sine of every pair: made once for the keys of all heads there.
class KeyTurn {
 public:
  // Angles in f32, as the models compute them.
  KeyTurn(const RopeSpec& rope, const Position& position);
  // key [head_dim], in place.
  void To(double* key, int64_t head_dim) const { Apply(key, head_dim, 1); }
  void Back(double* key, int64_t head_dim) const { Apply(key, head_dim, -1); }

 private:
  void Apply(double* key, int64_t head_dim, double sign) const;

  std::vector<double> cos_, sin_;  // [pairs]
};

}  // namespace purekv
