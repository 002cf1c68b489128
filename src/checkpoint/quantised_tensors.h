// Published quantised checkpoints (AWQ, GPTQ, compressed-tensors, fp8) as matrices: where a file has X.qweight,
// X.scales, ..., a model finds X.weight [out, in] and reads its rows, or its codes.
#pragma once

#include <memory>
#include <string>

#include "checkpoint/quantisation_config.h"
#include "checkpoint/safetensors.h"

namespace purekv {

// `files` as they are but for quantised layers, which their tensors tell: X.qweight (AWQ or GPTQ, as the method has
// it), X.weight_packed, or X.weight of type I8 or F8_E4M3. Each is found as X.weight, f32 with a reader, and with
// QuantMatrix where own storage has such a form (base/quant_matrix.h); Quantised() says why not. Their parts have no
// names of their own any more. Nothing is expanded here, and no tensor is read but for small ones that hold shapes or
// groups. Shapes and types of parts are checked when a layer is read or asked about, values by RowReader::CheckFinite.
// Throws Error naming file and tensor.
std::unique_ptr<const TensorSource> ReadQuantised(std::unique_ptr<const SafetensorsSource> files,
                                                  const QuantisationConfig& config);

// Whether a tensor of a quantised checkpoint has scales that are not used: of activations (input_scale), whose own are
// at least as exact, or of the cache (k_scale, v_scale), which has the format that the user asks for.
bool IsUnusedScale(const std::string& name);

}  // namespace purekv
