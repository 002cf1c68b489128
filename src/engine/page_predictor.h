// The file of a trained predictor of pages: what attend_model=FILE names (docs/policies.md, "Looking up").
#pragma once

#include <memory>
#include <string>

#include "kernels/page_convolution.h"
#include "purekv/model_info.h"
#include "purekv/options.h"

namespace purekv {

// A safetensors file of at most 100,000 bytes: conv1.weight [16, 1, 3, 3], conv1.bias [16], conv2.weight
// [32, 16, 3, 3], conv2.bias [32], conv3.weight [1, 32, 1], conv3.bias [1], all F32, and in its metadata the
// `fingerprint` of the model that it was trained with. Throws Error naming the file and what is wrong: another model's,
// tensors that are missing, unknown, of another shape or type, numbers that are not finite.
std::shared_ptr<const PageConvolution> ReadPagePredictor(const std::string& path, const ModelInfo& model);

// What these options name; null where they name no file. Throws as ReadPagePredictor and as CheckAttendOptions.
std::shared_ptr<const PageConvolution> PredictorOf(const AttendOptions& options, const ModelInfo& model);

}  // namespace purekv
