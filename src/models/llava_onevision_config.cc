#include "models/llava_onevision_config.h"

#include <charconv>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "models/text_backbone.h"

namespace purekv {
namespace {

constexpr int64_t kMostTiles = 64;  // of a canvas
constexpr int64_t kTilesASide = 6;  // of the published canvases, at the most
constexpr char kAspect[] = "anyres_max_";

Json DefaultVision() {
  return {{"model_type", "siglip_vision_model"},
          {"hidden_size", 1152},
          {"intermediate_size", 4304},
          {"num_hidden_layers", 26},
          {"num_attention_heads", 16},
          {"image_size", 384},
          {"patch_size", 14}};
}

VitConfig ParseVision(const JsonFields& root) {
  const Json fallback = DefaultVision();
  VitConfig vision = ParseVitConfig(root.Has("vision_config") ? root.Object("vision_config")
                                                              : JsonFields(fallback, root.where() + ": vision_config"));
  vision.prefix = "vision_tower.vision_model.";
  SelectLayer(root.Int("vision_feature_layer", -kMaxVitLayers, kMaxVitLayers, -1),
              root.where() + ": vision_feature_layer", &vision);
  const std::string expected = vision.class_token ? "default" : "full";
  if (const std::string strategy = root.String("vision_feature_select_strategy", "full"); strategy != expected) {
    Fail(root.where(), ": vision_feature_select_strategy \"", strategy, "\" is not supported for this tower; \"",
         expected, "\" is");
  }
  return vision;
}

int64_t MostTiles(const JsonFields& root) {
  const std::string aspect = root.String("vision_aspect_ratio", "anyres_max_9");
  int64_t most = 0;
  if (aspect.starts_with(kAspect)) {
    const char* const end = aspect.data() + aspect.size();
    const auto [stopped, wrong] = std::from_chars(aspect.data() + sizeof(kAspect) - 1, end, most);
    if (stopped != end || wrong != std::errc()) most = 0;
  }
  if (most < 1 || most > 1024) {
    Fail(root.where(), ": vision_aspect_ratio \"", aspect, "\" is not supported; anyres_max_1 to anyres_max_1024 are");
  }
  return most;
}

}  // namespace

std::vector<Size> ReadPinpoints(const JsonFields& fields, int64_t side) {
  const char* const key = "image_grid_pinpoints";
  std::vector<Size> canvases;
  if (!fields.Has(key)) {
    for (int64_t rows = 1; rows <= kTilesASide; ++rows) {
      for (int64_t columns = 1; columns <= kTilesASide; ++columns) canvases.push_back({rows * side, columns * side});
    }
    return canvases;
  }
  const Json& list = fields.raw().at(key);
  if (!list.is_array() || list.empty() || list.size() > 4096) {
    Fail(fields.where(), ": ", key, ": a list of 1 to 4096 pairs [height, width] is expected");
  }
  for (const Json& pair : list) {
    const Json wrapped = {{"pair", pair}};
    const std::string where = StrCat(fields.where(), ": ", key, "[", canvases.size(), "]");
    const std::vector<int64_t> sides = JsonFields(wrapped, where).Ints("pair", 1, side * kMostTiles);
    if (sides.size() != 2) Fail(where, ": ", sides.size(), " numbers; [height, width] is expected");
    const Size canvas{sides[0], sides[1]};
    if (canvas.height % side != 0 || canvas.width % side != 0 ||
        canvas.height / side * (canvas.width / side) > kMostTiles) {
      Fail(where, ": ", canvas.height, " x ", canvas.width, " is not supported; at most ", kMostTiles,
           " whole tiles of ", side, " pixels are");
    }
    canvases.push_back(canvas);
  }
  return canvases;
}

LlavaOnevisionConfig ParseLlavaOnevisionConfig(const Json& json, const std::string& path) {
  const JsonFields root(json, path);
  LlavaOnevisionConfig config;
  const JsonFields text = root.Object("text_config");
  config.text = ParseBackbone(text, text.String("model_type", "qwen2"));
  // The published files store a head for every size, even where text_config says that there is none: they decide then.
  if (config.text.tied.value_or(false)) {
    config.text.tied.reset();
  } else {
    config.text.tied = root.Bool("tie_word_embeddings", false);
  }
  config.vision = ParseVision(root);
  const int64_t vocabulary = config.text.decoder.vocabulary;
  const auto id = [&](const char* index, const char* plain, int64_t published) {
    const char* const key = root.Has(index) ? index : plain;
    const int64_t found = root.Int(key, 0, vocabulary - 1, published);
    if (found >= vocabulary) {
      Fail(path, ": no ", index, ", and vocab_size ", vocabulary, " has no row for transformers' ", found);
    }
    return static_cast<int32_t>(found);
  };
  config.image_id = id("image_token_index", "image_token_id", 151646);
  config.video_id = id("video_token_index", "video_token_id", 151647);
  if (config.image_id == config.video_id) {
    Fail(path, ": video_token_index ", config.video_id, " is image_token_index, too");
  }
  if (const std::string act = root.String("projector_hidden_act", "gelu"); act != "gelu") {
    Fail(path, ": projector_hidden_act \"", act, "\" is not supported; \"gelu\" is");
  }
  if (!root.Bool("use_image_newline_parameter", true)) {
    Fail(path, ": use_image_newline_parameter false is not supported; true is");
  }
  config.connector.projector = {config.vision.hidden, config.text.decoder.hidden, "multi_modal_projector.linear_1",
                                "multi_modal_projector.linear_2", root.Bool("multimodal_projector_bias", true)};
  config.connector.newline = "image_newline";
  config.connector.side = config.vision.side();
  config.anyres.canvases = ReadPinpoints(root, config.vision.image_size);
  config.anyres.most_tiles = MostTiles(root);
  return config;
}

}  // namespace purekv
