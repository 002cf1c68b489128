// What this processor can do, and which of it the kernels may use.
#pragma once

#include <string>

namespace purekv {

// The kernels' implementations, worst first. Each level may use everything below it, except kReference, which runs the
// slow twins of all kernels. Levels below the machine's best are for tests, comparisons and hunting a wrong kernel.
enum class CpuLevel {
  kReference,   // plain loops, sums in double
  kPortable,    // Highway on what any processor of the architecture may have: up to SSE4 on x86, NEON
  kAvx2,        // with FMA
  kAvx512,      // F, BW, DQ, VL, CD
  kAvx512Bf16,  // products of bf16 pairs
  kAmxBf16,     // bf16 tiles
};

// "reference", "portable", "avx2", "avx512", "avx512_bf16", "amx_bf16".
std::string CpuLevelName(CpuLevel level);

// The best level of this machine: processor and operating system (which must grant tiles) together.
CpuLevel BestCpuLevel();

// The level in use: PUREKV_CPU=NAME where it is set, else the best. Decided at the first call. Throws Error (kUsage)
// when the name is unknown or the machine lacks the level: nothing is replaced quietly.
CpuLevel Cpu();

// For tests: another level than the one in use, until the next call. Kernels follow at once; layers already packed stay
// in their form, and oneDNN, which decides at its first use, stays as it was. Aborts when the machine lacks the level.
void SetCpuForTest(CpuLevel level);

// True where bf16 products have instructions of their own at the level in use.
inline bool HasFastBF16() {
  return Cpu() >= CpuLevel::kAvx512Bf16;
}

// "Intel(R) Xeon(R) Platinum 8480+" as /proc/cpuinfo says; "unknown" where it does not.
std::string CpuName();

}  // namespace purekv
