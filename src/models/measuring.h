// What only measuring asks of a model: media made up, and which kernels run.
#pragma once

#include <string>
#include <vector>

#include "models/decoder.h"
#include "models/family.h"

namespace purekv {

// A medium of one tile of random pixels. Throws as Preprocessor::TokensOfGrid.
PreparedMedia RandomMedia(const Preprocessor& preprocessor, const Grid& grid);

// Which implementation runs for a primitive, and those before it in its list with what stands against them.
struct KernelChoice {
  std::string primitive;             // "matmul", "attention.decode", ...
  std::string kernel;                // "amx_bf16 (own)"
  std::vector<std::string> refused;  // "amx_bf16: PUREKV_CPU=avx2"
};

// One per primitive, for --verbose and the JSON results. `sees`: a tower runs beside the decoder.
std::vector<KernelChoice> KernelsOf(const Decoder& decoder, bool sees);

}  // namespace purekv
