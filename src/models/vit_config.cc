#include "models/vit_config.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "models/decoder_fields.h"

namespace purekv {
namespace {

constexpr int64_t kMaxSide = 4096;  // pixels

// `given` over `defaults`; what is null is not given.
Json Over(const Json& given, Json defaults) {
  for (const auto& [key, value] : given.items()) {
    if (!value.is_null()) defaults[key] = value;
  }
  return defaults;
}

Activation ParseActivation(const JsonFields& fields) {
  const std::string name = fields.String("hidden_act");
  if (name == "quick_gelu") return Activation::kQuickGelu;
  if (name == "gelu_pytorch_tanh") return Activation::kGeluTanh;
  if (name == "gelu") return Activation::kGeluErf;
  Fail(fields.where(), ": hidden_act \"", name, "\" is not supported; quick_gelu, gelu and gelu_pytorch_tanh are");
}

}  // namespace

PatchSpec VitConfig::patch_spec() const {
  PatchSpec spec;
  spec.patch_size = patch_size;
  spec.temporal_patch_size = 1;
  spec.merge_size = merge_size;
  return spec;
}

ModelSummary::Vision VitConfig::summary() const {
  ModelSummary::Vision vision;
  vision.layers = run;
  vision.hidden = hidden;
  vision.heads = heads;
  vision.intermediate = intermediate;
  vision.patch = patch_size;
  vision.temporal_patch = 1;
  vision.merge = merge_size;
  return vision;
}

VitConfig ParseVitSizes(const JsonFields& fields) {
  VitConfig config;
  config.layers = fields.Int("num_hidden_layers", 1, kMaxVitLayers);
  config.hidden = fields.Int("hidden_size", 1, kMaxWidth);
  config.heads = fields.Int("num_attention_heads", 1, kMaxDepth);
  config.intermediate = fields.Int("intermediate_size", 1, kMaxWidth);
  config.image_size = fields.Int("image_size", 1, kMaxSide);
  config.patch_size = fields.Int("patch_size", 1, 256);
  config.activation = ParseActivation(fields);
  config.eps = static_cast<float>(fields.Number("layer_norm_eps", 0, 1));
  if (const int64_t channels = fields.Int("num_channels", 1, 64); channels != 3) {
    Fail(fields.where(), ": num_channels ", channels, " is not supported; 3 is");
  }
  if (config.hidden % config.heads != 0 || config.head_dim() % 2 != 0) {
    Fail(fields.where(), ": hidden_size ", config.hidden, " over num_attention_heads ", config.heads,
         " is not supported; the head dim must be even and whole");
  }
  if (config.side() < 1) {
    Fail(fields.where(), ": patch_size ", config.patch_size, " exceeds image_size ", config.image_size);
  }
  return config;
}

VitConfig ParseVitConfig(const JsonFields& given) {
  if (given.Has("vision_config")) return ParseVitConfig(given.Object("vision_config"));
  const std::string type = given.String("model_type", "clip_vision_model");
  const bool siglip = type == "siglip_vision_model" || type == "siglip";
  if (!siglip && type != "clip_vision_model" && type != "clip") {
    Fail(given.where(), ": model_type \"", type, "\" is not supported; clip_vision_model and siglip_vision_model are");
  }
  Json defaults = {{"hidden_size", 768},        {"intermediate_size", 3072}, {"num_hidden_layers", 12},
                   {"num_attention_heads", 12}, {"image_size", 224},         {"num_channels", 3}};
  defaults.update(siglip ? Json{{"patch_size", 16}, {"hidden_act", "gelu_pytorch_tanh"}, {"layer_norm_eps", 1e-6}}
                         : Json{{"patch_size", 32}, {"hidden_act", "quick_gelu"}, {"layer_norm_eps", 1e-5}});
  const Json merged = Over(given.raw(), std::move(defaults));
  const JsonFields fields(merged, given.where());
  VitConfig config = ParseVitSizes(fields);
  config.class_token = config.pre_norm = !siglip;
  config.patch_bias = siglip;
  return config;
}

VitConfig NamedVit(const std::string& name, const std::string& where) {
  const auto names = [&](const char* part) { return name.find(part) != name.npos; };
  Json config;
  if (names("clip-vit-large-patch14")) {
    config = {{"model_type", "clip_vision_model"},
              {"hidden_size", 1024},
              {"intermediate_size", 4096},
              {"num_hidden_layers", 24},
              {"num_attention_heads", 16},
              {"image_size", names("336") ? 336 : 224},
              {"patch_size", 14}};
  } else if (names("siglip-so400m-patch14-384")) {
    config = {{"model_type", "siglip_vision_model"},
              {"hidden_size", 1152},
              {"intermediate_size", 4304},
              {"num_hidden_layers", 27},
              {"num_attention_heads", 16},
              {"image_size", 384},
              {"patch_size", 14}};
  } else {
    Fail(where, " \"", name.substr(0, 200), "\" is not supported; openai/clip-vit-large-patch14-336 and ",
         "google/siglip-so400m-patch14-384 are, and folders of the model directory with a config.json");
  }
  return ParseVitConfig(JsonFields(config, where));
}

void SelectLayer(int64_t index, const std::string& where, VitConfig* config) {
  const int64_t run = index < 0 ? config->layers + 1 + index : index;
  if (run < 1 || run > config->layers) {
    Fail(where, " ", index, " names no layer of the ", config->layers, " that the vision tower has");
  }
  config->run = run;
}

}  // namespace purekv
