#include "base/cpu.h"

#include <array>
#include <atomic>
#include <cstdlib>
#include <fstream>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "base/error.h"

namespace purekv {
namespace {

constexpr std::array<const char*, 6> kNames = {"reference", "portable", "avx2", "avx512", "avx512_bf16", "amx_bf16"};

#if defined(__x86_64__) && defined(__linux__)

// Tiles need the processor's bits and the system's permission for this process (arch/x86: XTILEDATA is 18).
bool HasAmxBf16() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  const bool tiles = (d & (1U << 24)) != 0 && (d & (1U << 22)) != 0;  // AMX-TILE, AMX-BF16
  constexpr long kRequestPermission = 0x1023;                         // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;
  return tiles && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

CpuLevel Detect() {
  const bool avx2 = __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
                      __builtin_cpu_supports("avx512dq") != 0 && __builtin_cpu_supports("avx512vl") != 0 &&
                      __builtin_cpu_supports("avx512cd") != 0;
  if (!avx2) return CpuLevel::kPortable;
  if (!avx512) return CpuLevel::kAvx2;
  if (__builtin_cpu_supports("avx512bf16") == 0) return CpuLevel::kAvx512;
  return HasAmxBf16() ? CpuLevel::kAmxBf16 : CpuLevel::kAvx512Bf16;
}

#else

CpuLevel Detect() {
  return CpuLevel::kPortable;
}

#endif

CpuLevel FromEnvironment() {
  const char* name = std::getenv("PUREKV_CPU");
  if (name == nullptr || *name == '\0') return BestCpuLevel();
  const auto best = static_cast<size_t>(BestCpuLevel());
  std::string known;
  for (size_t i = 0; i <= best; ++i) known += (i == 0 ? "" : ", ") + std::string(kNames[i]);
  for (size_t i = 0; i < kNames.size(); ++i) {
    if (std::string(name) != kNames[i]) continue;
    if (i > best) FailUsage("PUREKV_CPU=", name, ": this machine lacks it; it has: ", known);
    return static_cast<CpuLevel>(i);
  }
  FailUsage("PUREKV_CPU=", name, ": unknown; this machine has: ", known);
}

constexpr int kUndecided = -1;
std::atomic<int> g_level{kUndecided};

}  // namespace

std::string CpuLevelName(CpuLevel level) {
  return kNames[static_cast<size_t>(level)];
}

CpuLevel BestCpuLevel() {
  static const CpuLevel best = Detect();
  return best;
}

CpuLevel Cpu() {
  const int level = g_level.load(std::memory_order_relaxed);
  if (level != kUndecided) return static_cast<CpuLevel>(level);
  const CpuLevel chosen = FromEnvironment();
  g_level.store(static_cast<int>(chosen), std::memory_order_relaxed);
  return chosen;
}

void SetCpuForTest(CpuLevel level) {
  PUREKV_CHECK(level <= BestCpuLevel(), "this machine lacks ", CpuLevelName(level));
  g_level.store(static_cast<int>(level), std::memory_order_relaxed);
}

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
