#include "models/internvl_config.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "models/text_backbone.h"

namespace purekv {
namespace {

// The text model's fields without a scaling that has no effect within the positions that the model takes: "dynamic"
// moves theta beyond them alone.
Json WithoutDynamicScaling(const JsonFields& fields) {
  Json text = fields.raw();
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (!fields.Has(key) || !text.at(key).is_object()) continue;
    const JsonFields scaling = fields.Object(key);
    if (scaling.String("rope_type", scaling.String("type", "")) != "dynamic") continue;
    if (scaling.Has("rope_theta")) text["rope_theta"] = scaling.raw().at("rope_theta");
    text.erase(key);
  }
  return text;
}

TextConfig ParseText(const JsonFields& root, const char* key, const JsonFields& states_tied) {
  const JsonFields fields = root.Object(key);
  const Json text = WithoutDynamicScaling(fields);
  TextConfig config = ParseBackbone(JsonFields(text, fields.where()), fields.String("model_type", "qwen2"));
  if (!config.tied && states_tied.Has("tie_word_embeddings")) {
    config.tied = states_tied.Bool("tie_word_embeddings", false);
  }
  return config;
}

// A side in pixels: a number, or a list of two equal ones.
int64_t Side(const JsonFields& fields, const char* key) {
  if (!fields.raw().contains(key) || !fields.raw().at(key).is_array()) return fields.Int(key, 1, 1 << 14);
  const std::vector<int64_t> sides = fields.Ints(key, 1, 1 << 14);
  if (sides.size() != 2 || sides[0] != sides[1]) Fail(fields.where(), ": ", key, ": two equal numbers are expected");
  return sides[0];
}

// What both formats say in the same words.
VitConfig ParseTower(const JsonFields& given, bool qk_norm, bool qkv_bias) {
  Json merged = {{"hidden_size", 1024},       {"intermediate_size", 4096}, {"num_hidden_layers", 24},
                 {"num_attention_heads", 16}, {"image_size", 448},         {"num_channels", 3},
                 {"patch_size", 14},          {"hidden_act", "gelu"},      {"layer_norm_eps", 1e-6}};
  for (const auto& [key, value] : given.raw().items()) {
    if (!value.is_null()) merged[key] = value;
  }
  const JsonFields lists(merged, given.where());
  const int64_t image_size = Side(lists, "image_size"), patch_size = Side(lists, "patch_size");
  merged["image_size"] = image_size;
  merged["patch_size"] = patch_size;
  const JsonFields fields(merged, given.where());
  VitConfig config = ParseVitSizes(fields);
  const std::string norms = fields.String("norm_type", "layer_norm");
  if (norms != "layer_norm" && norms != "rms_norm") {
    Fail(fields.where(), ": norm_type \"", norms, "\" is not supported; layer_norm and rms_norm are");
  }
  config.rms_norms = norms == "rms_norm";
  config.class_token = config.patch_bias = config.layer_scale = true;
  config.qk_norm = qk_norm;
  config.qkv_bias = qkv_bias;
  config.merge_size = 2;
  config.names.leading_ones = true;
  if (config.image_size % (2 * config.patch_size) != 0) {
    Fail(fields.where(), ": image_size ", config.image_size, " is not supported: cells of 2 x 2 patches of ",
         config.patch_size, " pixels do not fill it");
  }
  return config;
}

void NeedHalf(const JsonFields& root) {
  if (const double ratio = root.Number("downsample_ratio", 0, 1, 0.5); ratio != 0.5) {
    Fail(root.where(), ": downsample_ratio ", ratio, " is not supported; 0.5 is");
  }
}

template <class T>
void Need(const JsonFields& root, const char* key, const T& value, const T& expected) {
  if (value != expected) Fail(root.where(), ": ", key, " ", value, " is not supported; ", expected, " is");
}

MlpConnectorConfig ConnectorOf(const InternVlConfig& config, const std::string& norm, const std::string& first,
                               const std::string& second) {
  MlpConnectorConfig connector{config.vision.hidden, config.text.decoder.hidden, first, second, true};
  connector.cell_rows = config.vision.merge_size * config.vision.merge_size;
  connector.norm = norm;
  return connector;
}

}  // namespace

InternVlConfig ParseInternVlConfig(const Json& json, const std::string& path) {
  const JsonFields root(json, path);
  InternVlConfig config;
  config.text = ParseText(root, "text_config", root);
  const JsonFields vision = root.Object("vision_config");
  config.vision = ParseTower(vision, vision.Bool("use_qk_norm", false), vision.Bool("attention_bias", false));
  if (!vision.Bool("use_mean_pooling", true) || vision.Bool("use_mask_token", false) ||
      !vision.Bool("use_absolute_position_embeddings", true)) {
    Fail(vision.where(), ": use_mean_pooling, use_mask_token, use_absolute_position_embeddings: only true, false and ",
         "true are supported");
  }
  config.vision.prefix = "vision_tower.";
  VitNames& names = config.vision.names;
  names.class_embedding = "embeddings.cls_token";
  names.patch = "embeddings.patch_embeddings.projection";
  names.positions = "embeddings.position_embeddings";
  names.layers = "encoder.layer.";
  names.norm1 = "layernorm_before";
  names.norm2 = "layernorm_after";
  names.qkv = {"attention.q_proj", "attention.k_proj", "attention.v_proj"};
  names.out = "attention.projection_layer";
  names.q_norm = "attention.q_norm";
  names.k_norm = "attention.k_norm";
  names.scale1 = "lambda_1";
  names.scale2 = "lambda_2";
  SelectLayer(root.Int("vision_feature_layer", -kMaxVitLayers, kMaxVitLayers, -1), path + ": vision_feature_layer",
              &config.vision);
  Need<std::string>(root, "vision_feature_select_strategy", root.String("vision_feature_select_strategy", "default"),
                    "default");
  Need<std::string>(root, "projector_hidden_act", root.String("projector_hidden_act", "gelu"), "gelu");
  NeedHalf(root);
  config.connector = ConnectorOf(config, "multi_modal_projector.layer_norm", "multi_modal_projector.linear_1",
                                 "multi_modal_projector.linear_2");
  config.tiling.side = config.vision.image_size;
  const int64_t tokens = config.vision.patches() / 4;
  if (const int64_t length = root.Int("image_seq_length", 1, 1 << 24, tokens); length != tokens) {
    Fail(path, ": image_seq_length ", length, " contradicts the ", tokens, " cells of its tower");
  }
  const int64_t vocabulary = config.text.decoder.vocabulary;
  config.image_id = static_cast<int32_t>(root.Int("image_token_id", 0, vocabulary - 1));
  return config;
}

InternVlConfig ParseInternVlChatConfig(const Json& json, const std::string& path) {
  const JsonFields root(json, path);
  InternVlConfig config;
  const JsonFields llm = root.Object("llm_config");
  config.text = ParseText(root, "llm_config", llm);
  const JsonFields vision = root.Object("vision_config");
  Need<std::string>(vision, "model_type", vision.String("model_type", "intern_vit_6b"), "intern_vit_6b");
  config.vision = ParseTower(vision, vision.Bool("qk_normalization", false), vision.Bool("qkv_bias", true));
  config.vision.prefix = "vision_model.";
  VitNames& names = config.vision.names;
  names.positions = "embeddings.position_embedding";
  names.norm1 = "norm1";
  names.norm2 = "norm2";
  names.qkv = {"attn.qkv"};
  names.out = "attn.proj";
  names.q_norm = "attn.q_norm";
  names.k_norm = "attn.k_norm";
  names.scale1 = "ls1";
  names.scale2 = "ls2";
  SelectLayer(root.Int("select_layer", -kMaxVitLayers, kMaxVitLayers, -1), path + ": select_layer", &config.vision);
  NeedHalf(root);
  Need<std::string>(root, "ps_version", root.String("ps_version", "v1"), "v2");
  Need<std::string>(root, "template", root.String("template", "internvl2_5"), "internvl2_5");
  if (root.Bool("pad2square", false)) Fail(path, ": pad2square true is not supported; false is");
  const int64_t size = root.Int("force_image_size", 1, 1 << 14, config.vision.image_size);
  if (size != config.vision.image_size) {
    Fail(path, ": force_image_size ", size, " is not supported beside vision_config's image_size ",
         config.vision.image_size, ": positions would have to be interpolated");
  }
  config.connector = ConnectorOf(config, "mlp1.0", "mlp1.1", "mlp1.3");
  config.tiling.side = size;
  config.tiling.least = root.Int("min_dynamic_patch", 1, kMostTiles, 1);
  config.tiling.most = root.Int("max_dynamic_patch", config.tiling.least, kMostTiles, 12);
  config.tiling.thumbnail = root.Bool("use_thumbnail", true);
  if (!root.Bool("dynamic_image_size", true)) config.tiling.least = config.tiling.most = 1;
  return config;
}

}  // namespace purekv
