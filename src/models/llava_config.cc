#include "models/llava_config.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "models/named_tower.h"
#include "models/text_backbone.h"

namespace purekv {
namespace {

// What LlavaConfig has where there is no vision_config at all.
Json DefaultVision() {
  return {{"model_type", "clip_vision_model"},
          {"hidden_size", 1024},
          {"intermediate_size", 4096},
          {"num_hidden_layers", 24},
          {"num_attention_heads", 16},
          {"image_size", 336},
          {"patch_size", 14}};
}

VitConfig ParseVision(const JsonFields& root) {
  VitConfig vision;
  if (root.Has("vision_config")) {
    vision = ParseVitConfig(root.Object("vision_config"));
  } else {
    const Json fallback = DefaultVision();
    vision = ParseVitConfig(JsonFields(fallback, root.where() + ": vision_config"));
  }
  vision.prefix = "vision_tower.vision_model.";
  if (root.Has("vision_feature_layer") && root.raw().at("vision_feature_layer").is_array()) {
    Fail(root.where(), ": vision_feature_layer: a list is not supported; one layer is");
  }
  SelectLayer(root.Int("vision_feature_layer", -kMaxVitLayers, kMaxVitLayers, -2),
              root.where() + ": vision_feature_layer", &vision);
  // All patches and nothing else: what "default" leaves out is the class token, where there is one.
  const std::string strategy = root.String("vision_feature_select_strategy", "default");
  const std::string expected = vision.class_token ? "default" : "full";
  if (strategy != expected) {
    Fail(root.where(), ": vision_feature_select_strategy \"", strategy, "\" is not supported for this tower; \"",
         expected, "\" is");
  }
  if (const int64_t length = root.Int("image_seq_length", 1, 1 << 24, vision.patches()); length != vision.patches()) {
    Fail(root.where(), ": image_seq_length ", length, " contradicts the ", vision.patches(), " patches of its tower");
  }
  return vision;
}

}  // namespace

LlavaConfig ParseLlavaConfig(const Json& json, const std::string& path, const std::string& directory) {
  const JsonFields root(json, path);
  LlavaConfig config;
  const Json none = Json::object();
  const JsonFields text =
      root.Has("text_config") ? root.Object("text_config") : JsonFields(none, path + ": text_config");
  config.text = ParseBackbone(text, text.String("model_type", "llama"));
  const bool states_tied = config.text.tied.has_value();
  if (!states_tied && root.Has("tie_word_embeddings")) config.text.tied = root.Bool("tie_word_embeddings", false);
  config.vision = ParseVision(root);
  const int64_t vocabulary = config.text.decoder.vocabulary;
  const char* const key = root.Has("image_token_index") ? "image_token_index" : "image_token_id";
  config.image_id = static_cast<int32_t>(root.Int(key, 0, vocabulary - 1, 32000));
  if (*config.image_id >= vocabulary) {
    Fail(path, ": no image_token_index, and vocab_size ", vocabulary, " has no row for transformers' ",
         *config.image_id);
  }
  if (const std::string act = root.String("projector_hidden_act", "gelu"); act != "gelu") {
    Fail(path, ": projector_hidden_act \"", act, "\" is not supported; \"gelu\" is");
  }
  config.connector = {config.vision.hidden, config.text.decoder.hidden, "multi_modal_projector.linear_1",
                      "multi_modal_projector.linear_2", root.Bool("multimodal_projector_bias", true)};
  config.tower_directory = directory;
  return config;
}

LlavaConfig ParseOriginalLlavaConfig(const Json& json, const std::string& path, const std::string& directory) {
  const JsonFields root(json, path);
  LlavaConfig config;
  config.text = ParseBackbone(root, "llama");
  const NamedTower tower = ReadNamedTower(root, directory);
  config.vision = tower.vision;
  config.tower_config = tower.config;
  config.tower_directory = tower.directory;
  config.pad = tower.pad;
  if (const std::string type = root.String("mm_projector_type"); type != "mlp2x_gelu") {
    Fail(path, ": mm_projector_type \"", type, "\" is not supported; \"mlp2x_gelu\" is");
  }
  if (const std::string merge = root.String("mm_patch_merge_type", "flat"); merge != "flat") {
    Fail(path, ": mm_patch_merge_type \"", merge, "\" is not supported; \"flat\" is");
  }
  config.connector = {config.vision.hidden, config.text.decoder.hidden, "model.mm_projector.0", "model.mm_projector.2",
                      true};
  return config;
}

}  // namespace purekv
