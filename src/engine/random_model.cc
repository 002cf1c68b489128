#include "engine/random_model.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/json.h"
#include "checkpoint/random_tensors.h"
#include "checkpoint/safetensors_writer.h"
#include "models/layer_map.h"
#include "models/registry.h"

namespace purekv {
namespace {

std::string StoredName(const std::string& name, bool language_model_names) {
  if (!language_model_names || name.starts_with("lm_head.")) return name;
  if (!name.starts_with("model.")) return "model." + name;
  return "model.language_model." + name.substr(std::string("model.").size());
}

}  // namespace

void WriteRandomWeights(const std::string& dir, const RandomModelOptions& options) {
  if (options.shards < 1 || options.shards > 999) FailUsage("shards ", options.shards, ": out of range 1 .. 999");
  const auto files = OpenModelConfig(dir);
  const auto plan = PlanModel(*files);
  const auto source = RandomTensors(plan->tensors, options.seed, options.dtype);
  std::vector<StoredTensor> tensors;
  for (const TensorSpec& spec : plan->tensors)
    tensors.push_back({spec.name, StoredName(spec.name, options.language_model_names)});
  if (options.shards == 1) {
    WriteSafetensors(JoinPath(dir, "model.safetensors"), *source, tensors);
    return;
  }
  Json map = Json::object();
  const size_t per_shard =
      (tensors.size() + static_cast<size_t>(options.shards) - 1) / static_cast<size_t>(options.shards);
  for (int shard = 0; shard < options.shards; ++shard) {
    const size_t begin = std::min(tensors.size(), static_cast<size_t>(shard) * per_shard);
    const size_t end = std::min(tensors.size(), begin + per_shard);
    char name[64];
    std::snprintf(name, sizeof(name), "model-%05d-of-%05d.safetensors", shard + 1, options.shards);
    const std::vector<StoredTensor> part(tensors.begin() + static_cast<std::ptrdiff_t>(begin),
                                         tensors.begin() + static_cast<std::ptrdiff_t>(end));
    for (const StoredTensor& tensor : part) map[tensor.stored_name] = name;
    WriteSafetensors(JoinPath(dir, name), *source, part);
  }
  const Json index = {{"metadata", Json::object()}, {"weight_map", map}};
  WriteFile(JoinPath(dir, "model.safetensors.index.json"), index.dump(1));
}

Json ConfigOfShape(const std::string& shape, int64_t layers, const std::string& layer_map) {
  Json config = PublishedConfig(shape);
  Json& text = config.contains("text_config") ? config["text_config"] : config;
  if (!layer_map.empty()) {
    const Json file = ReadJson(layer_map);
    const Json& map = file.is_object() && file.contains(kLayerMapKey) ? file.at(kLayerMapKey) : file;
    if (!map.is_array()) Fail(layer_map, ": neither a list nor an object with \"", kLayerMapKey, "\"");
    if (layers == 0) layers = static_cast<int64_t>(map.size());
    text[kLayerMapKey] = map;
  }
  const auto all = text.at("num_hidden_layers").get<int64_t>();
  if (layers < 0 || layers > all)
    FailUsage(Field{"layers"}, " ", layers, ": out of range 0 (all) .. ", all, " for ", shape);
  if (layers > 0) text["num_hidden_layers"] = layers;
  return config;
}

void WritePublishedConfig(const std::string& dir, const std::string& shape, int64_t layers,
                          const std::string& layer_map) {
  const Json config = ConfigOfShape(shape, layers, layer_map);
  std::error_code code;
  std::filesystem::create_directories(dir, code);
  if (!DirectoryExists(dir)) Fail(dir, ": cannot make this directory: ", code.message());
  WriteFile(JoinPath(dir, "config.json"), config.dump(1));
}

}  // namespace purekv
