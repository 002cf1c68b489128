#include "kernels/simd_target.h"

// clang-format off
#include "kernels/simd.h"  // its settings come before Highway's own headers
#include "hwy/targets.h"
// clang-format on

#include <cstdint>

namespace purekv {
namespace {

// Highway gives better targets lower bits. HWY_TARGETS: what this build holds.
int64_t Best() {
  const int64_t usable = hwy::SupportedTargets() & HWY_TARGETS;
  return usable & -usable;
}

}  // namespace

std::string SimdTarget() {
  return hwy::TargetName(Best());
}

std::vector<std::string> RefusedSimdTargets() {
  std::vector<std::string> refused;
  for (int64_t bit = 1; bit < Best(); bit <<= 1) {
    if ((HWY_TARGETS & bit) != 0) refused.emplace_back(hwy::TargetName(bit));
  }
  return refused;
}

}  // namespace purekv
