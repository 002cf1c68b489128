#include "kernels/simd_target.h"

#include "kernels/simd.h"

#include <hwy/targets.h>

#include <cstdint>

namespace purekv {
namespace {

// Highway gives better targets lower bits. HWY_TARGETS: what this build holds.
int64_t Best() {
  const int64_t usable = hwy::SupportedTargets() & HWY_TARGETS;
  return usable & -usable;
}

}  // namespace

std::string SimdTarget() { return hwy::TargetName(Best()); }

std::vector<std::string> RefusedSimdTargets() {
  std::vector<std::string> refused;
  for (int64_t bit = 1; bit < Best(); bit <<= 1) {
    if ((HWY_TARGETS & bit) != 0) refused.emplace_back(hwy::TargetName(bit));
  }
  return refused;
}

}  // namespace purekv
