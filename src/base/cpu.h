// What this processor can do.
#pragma once

#include <string>

namespace purekv {

// True where bf16 products have instructions of their own (AVX512-BF16, AMX).
bool HasFastBF16();
// "avx512_bf16", "avx512", "avx2" or "portable": the best instruction set of this machine.
std::string InstructionSet();
// "Intel(R) Xeon(R) Platinum 8480+" as /proc/cpuinfo says; "unknown" where it does not.
std::string CpuName();

}  // namespace purekv
