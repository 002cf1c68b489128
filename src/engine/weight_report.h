// In which form a model's weights are asked for and kept: checks, and what is told of it.
#pragma once

#include <string>

#include "checkpoint/tensor_source.h"
#include "models/registry.h"
#include "purekv/model_info.h"

namespace purekv {

// Decides what formats->quantisation leaves to the model. Throws Error (kUsage) naming the option: a group size that
// there is not, a tower that the model lacks, codes to be made of weights that are codes already, rows of 8 bits for
// weights that are plain numbers.
void ResolveWeightOptions(const ModelPlan& plan, const TensorSource& tensors, NumberFormats* formats);

// options (resolved) and source, and what of the tensors is expanded.
WeightInfo DescribeWeights(const NumberFormats& formats, const ModelPlan& plan, const TensorSource& tensors);
// Adds what the model would keep, without reading more than scales.
void EstimateStorage(const NumberFormats& formats, const ModelPlan& plan, const TensorSource& tensors,
                     WeightInfo* info);
// Adds what the packed model keeps.
void AddStorage(const LanguageModel& model, WeightInfo* info);

// What a fingerprint must know beside configuration and tensors; "": plain numbers, or codes as they are stored.
std::string WeightIdentity(const WeightInfo& info);

}  // namespace purekv
