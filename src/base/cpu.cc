#include "base/cpu.h"

#include <fstream>

namespace purekv {

#if defined(__x86_64__)

bool HasFastBF16() {
  return __builtin_cpu_supports("avx512bf16") != 0;
}

std::string InstructionSet() {
  if (HasFastBF16()) return "avx512_bf16";
  const bool avx512 = __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
                      __builtin_cpu_supports("avx512dq") != 0 && __builtin_cpu_supports("avx512vl") != 0;
  if (avx512) return "avx512";
  if (__builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0) return "avx2";
  return "portable";
}

#else

bool HasFastBF16() {
  return false;
}
std::string InstructionSet() {
  return "portable";
}

#endif

std::string CpuName() {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line)) {
    if (line.rfind("model name", 0) != 0) continue;
    const size_t colon = line.find(':');
    if (colon != std::string::npos && colon + 2 <= line.size()) return line.substr(colon + 2);
  }
  return "unknown";
}

}  // namespace purekv
