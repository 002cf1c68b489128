// Which instruction set the SIMD kernels run on: Highway's choice, limited by the level in use (base/cpu.h).
#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "base/cpu.h"

namespace purekv {

// For UseCpuLevel only.
extern std::atomic<int> g_simd_level;
void ApplyCpuLevel(CpuLevel level);

// Makes Highway's dispatch follow Cpu(). Every kernel calls it before HWY_DYNAMIC_DISPATCH (outside parallel loops); it
// costs two loads where nothing changed.
inline void UseCpuLevel() {
  const CpuLevel level = Cpu();
  if (g_simd_level.load(std::memory_order_acquire) != static_cast<int>(level)) ApplyCpuLevel(level);
}

// Highway's name of the instruction set in use: "AVX3_DL", "AVX2", "SSE4", "NEON", ...; "reference" where the slow
// twins run.
std::string SimdTarget();

// Those compiled in that would come first, each with what stands against it: "AVX3: PUREKV_CPU=avx2", "AVX3_DL: this
// processor lacks it".
std::vector<std::string> RefusedSimdTargets();

// Why an implementation that needs `level` is refused here: "PUREKV_CPU=avx2", or "this processor lacks it". Empty
// where it is not.
std::string WhyNot(CpuLevel level);

}  // namespace purekv
