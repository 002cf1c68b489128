// Sizes of published models, so that a machine can be measured without downloading anything.
#include <map>

#include "base/error.h"
#include "models/registry.h"

namespace purekv {
namespace {

struct PublishedShape {
  bool newer;  // Qwen2.5-VL, else Qwen2-VL
  int64_t hidden, layers, heads, kv_heads, intermediate, vocabulary;
  bool tied;
};

// From the published config.json files.
const std::map<std::string, PublishedShape>& Shapes() {
  static const std::map<std::string, PublishedShape> shapes = {
      {"qwen2.5-vl-3b", {true, 2048, 36, 16, 2, 11008, 151936, true}},
      {"qwen2.5-vl-7b", {true, 3584, 28, 28, 4, 18944, 152064, false}},
      {"qwen2.5-vl-32b", {true, 5120, 64, 40, 8, 27648, 152064, false}},
      {"qwen2.5-vl-72b", {true, 8192, 80, 64, 8, 29568, 152064, false}},
      {"qwen2-vl-2b", {false, 1536, 28, 12, 2, 8960, 151936, true}},
      {"qwen2-vl-7b", {false, 3584, 28, 28, 4, 18944, 152064, false}},
  };
  return shapes;
}

}  // namespace

Json PublishedConfig(const std::string& name) {
  const auto it = Shapes().find(name);
  if (it == Shapes().end()) {
    std::string known;
    for (const auto& [shape, sizes] : Shapes()) known += (known.empty() ? "" : ", ") + shape;
    FailUsage(Field{"shape"}, " ", name, ": unknown; known shapes: ", known);
  }
  const PublishedShape& shape = it->second;
  Json config = {{"architectures", {shape.newer ? kQwen25VlFamily.architecture : kQwen2VlFamily.architecture}},
                 {"model_type", shape.newer ? kQwen25VlFamily.name : kQwen2VlFamily.name},
                 {"hidden_act", "silu"},
                 {"hidden_size", shape.hidden},
                 {"num_hidden_layers", shape.layers},
                 {"num_attention_heads", shape.heads},
                 {"num_key_value_heads", shape.kv_heads},
                 {"intermediate_size", shape.intermediate},
                 {"vocab_size", shape.vocabulary},
                 {"max_position_embeddings", shape.newer ? 128000 : 32768},
                 {"rms_norm_eps", 1e-6},
                 {"rope_theta", 1e6},
                 {"rope_scaling", {{"type", "mrope"}, {"mrope_section", {16, 24, 24}}}},
                 {"tie_word_embeddings", shape.tied},
                 {"eos_token_id", 151645},
                 {"vision_start_token_id", 151652},
                 {"vision_end_token_id", 151653},
                 {"image_token_id", 151655},
                 {"video_token_id", 151656}};
  Json vision = {{"depth", 32},      {"num_heads", 16},          {"in_chans", 3},
                 {"patch_size", 14}, {"temporal_patch_size", 2}, {"spatial_merge_size", 2}};
  if (shape.newer) {
    vision.update({{"hidden_size", 1280},
                   {"hidden_act", "silu"},
                   {"intermediate_size", name == "qwen2.5-vl-32b" || name == "qwen2.5-vl-72b" ? 3456 : 3420},
                   {"out_hidden_size", shape.hidden},
                   {"window_size", 112},
                   {"fullatt_block_indexes", {7, 15, 23, 31}},
                   {"tokens_per_second", 2}});
  } else {
    vision.update({{"embed_dim", 1280}, {"hidden_act", "quick_gelu"}, {"hidden_size", shape.hidden}, {"mlp_ratio", 4}});
  }
  config["vision_config"] = vision;
  return config;
}

}  // namespace purekv
