#include "policy/rotation.h"

#include <cmath>

namespace purekv {

KeyTurn::KeyTurn(const RopeSpec& rope, const Position& position) {
  const int32_t axes[] = {position.t, position.h, position.w};
  for (size_t f = 0; f < rope.inv_freq.size(); ++f) {
    const auto angle = static_cast<double>(static_cast<float>(axes[rope.axis[f]]) * rope.inv_freq[f]);
    cos_.push_back(std::cos(angle));
    sin_.push_back(std::sin(angle));
  }
}

void KeyTurn::Apply(double* key, int64_t head_dim, double sign) const {
  const int64_t half = head_dim / 2;
  for (size_t f = 0; f < cos_.size(); ++f) {
    const auto at = static_cast<int64_t>(f);
    const double c = cos_[f], s = sign * sin_[f];
    const double a = key[at], b = key[at + half];
    key[at] = a * c - b * s;
    key[at + half] = b * c + a * s;
  }
}

}  // namespace purekv
