// A complete model directory of random weights: for tests, and for measuring sizes that need not be downloaded.
#pragma once

#include <cstdint>
#include <string>

#include "checkpoint/json.h"
#include "purekv/dtype.h"

namespace purekv {

struct RandomModelOptions {
  uint64_t seed = 0;
  Dtype dtype = Dtype::kBF16;         // on disk
  bool language_model_names = false;  // model.language_model.* and model.visual.* instead of the published names
  int shards = 1;
};

// Writes the weights that `dir`/config.json asks for into `dir`, as model.safetensors or shards with an index. Values:
// checkpoint/random_tensors.h. Throws Error.
void WriteRandomWeights(const std::string& dir, const RandomModelOptions& options);

// config.json of a published shape ("qwen2.5-vl-3b") of `layers` decoder layers (0: all, or as many as the map has).
// layer_map: a JSON file, the list that models/layer_map.h describes, or an object that has it; "": none. Throws Error.
Json ConfigOfShape(const std::string& shape, int64_t layers, const std::string& layer_map);

// Makes `dir` with it. Throws Error.
void WritePublishedConfig(const std::string& dir, const std::string& shape, int64_t layers,
                          const std::string& layer_map = "");

}  // namespace purekv
