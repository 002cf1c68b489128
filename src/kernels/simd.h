// Settings of Highway for this project; include before any hwy header. Every kernel file is compiled once per
// instruction set and chosen at run time (HWY_DYNAMIC_DISPATCH), so that one binary serves every machine.
#pragma once

// Kernels keep vectors in arrays (register tiles), which vectors without a compile-time size do not allow.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
