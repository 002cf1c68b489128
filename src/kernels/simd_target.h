// Which instruction set the SIMD kernels run on.
#pragma once

#include <string>
#include <vector>

namespace purekv {

// Highway's name of it: "AVX3_DL", "AVX2", "SSE4", "NEON", ...
std::string SimdTarget();

// Those compiled in that would come first, but that this processor lacks.
std::vector<std::string> RefusedSimdTargets();

}  // namespace purekv
