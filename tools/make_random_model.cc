// Writes a model directory of random weights: from a config.json, or of a published shape. The numbers are those of
// tools/reference/random_weights.py.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>

#include "engine/random_model.h"
#include "purekv/error.h"

int main(int argc, char** argv) {
  CLI::App app{"Writes random weights for DIR/config.json, or for a published shape, into DIR"};
  std::string dir, shape, layer_map, dtype = "bf16", layout = "published";
  int64_t layers = 0;
  purekv::RandomModelOptions options;
  app.add_option("dir", dir, "model directory")->required();
  app.add_option("--shape", shape, "make config.json of this published shape first, e.g. qwen2.5-vl-3b");
  app.add_option("--layers", layers, "with --shape: decoder layers, 0 for all");
  app.add_option("--layer-map", layer_map,
                 "with --shape: a JSON file of windows and shared layers (docs/text-models.md)");
  app.add_option("--seed", options.seed);
  app.add_option("--dtype", dtype)->check(CLI::IsMember({"f32", "bf16", "f16"}));
  app.add_option("--layout", layout, "tensor names")->check(CLI::IsMember({"published", "language_model"}));
  app.add_option("--shards", options.shards);
  CLI11_PARSE(app, argc, argv);
  options.dtype = dtype == "f32" ? purekv::Dtype::kF32 : dtype == "bf16" ? purekv::Dtype::kBF16 : purekv::Dtype::kF16;
  options.language_model_names = layout == "language_model";
  try {
    if (!shape.empty()) purekv::WritePublishedConfig(dir, shape, layers, layer_map);
    purekv::WriteRandomWeights(dir, options);
  } catch (const purekv::Error& error) {
    const std::string message = error.message().Naming([](const std::string& field) { return "--" + field; });
    std::fprintf(stderr, "purekv-make-random-model: error: %s\n", message.c_str());
    return error.kind() == purekv::Error::Kind::kUsage ? 2 : 1;
  }
  return 0;
}
