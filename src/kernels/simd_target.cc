#include "kernels/simd_target.h"

// clang-format off
#include "kernels/simd.h"  // its settings come before Highway's own headers
#include "hwy/targets.h"
// clang-format on

#include <cstdint>
#include <mutex>

namespace purekv {
namespace {

// Highway gives better targets lower bits. HWY_TARGETS: what this build holds.
int64_t Best(int64_t targets) {
  const int64_t usable = targets & HWY_TARGETS;
  return usable & -usable;
}

// What a level forbids: by name on x86; elsewhere there is one target, and every level may use it.
int64_t Forbidden([[maybe_unused]] CpuLevel level) {
#if HWY_ARCH_X86
  if (level < CpuLevel::kAvx2) return HWY_AVX2 | HWY_AVX3 | HWY_AVX3_DL;
  if (level < CpuLevel::kAvx512) return HWY_AVX3 | HWY_AVX3_DL;
#endif
  return 0;
}

// hwy::SupportedTargets() of the processor itself, before any level forbade anything.
int64_t OfProcessor() {
  static const int64_t targets = hwy::SupportedTargets();
  return targets;
}

}  // namespace

std::atomic<int> g_simd_level{-1};

void ApplyCpuLevel(CpuLevel level) {
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  OfProcessor();
  hwy::DisableTargets(Forbidden(level));
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  g_simd_level.store(static_cast<int>(level), std::memory_order_release);
}

std::string SimdTarget() {
  if (Cpu() == CpuLevel::kReference) return "reference";
  UseCpuLevel();
  return hwy::TargetName(Best(hwy::SupportedTargets()));
}

std::vector<std::string> RefusedSimdTargets() {
  UseCpuLevel();
  std::vector<std::string> refused;
  const int64_t end = Best(hwy::SupportedTargets()) << (Cpu() == CpuLevel::kReference ? 1 : 0);
  for (int64_t bit = 1; bit < end; bit <<= 1) {
    if ((HWY_TARGETS & bit) == 0) continue;
    const bool has = (OfProcessor() & bit) != 0;
    refused.push_back(std::string(hwy::TargetName(bit)) + ": " +
                      (has ? "PUREKV_CPU=" + CpuLevelName(Cpu()) : "this processor lacks it"));
  }
  return refused;
}

std::string WhyNot(CpuLevel level) {
  if (Cpu() >= level) return "";
  return BestCpuLevel() >= level ? "PUREKV_CPU=" + CpuLevelName(Cpu()) : "this processor lacks it";
}

}  // namespace purekv
