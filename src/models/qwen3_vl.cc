// Qwen3-VL, dense (arXiv 2511.21631): the decoder of Qwen3 with interleaved M-RoPE, a tower with learned positions and
// LayerNorm, rows of several of its depths added behind the decoder's first layers, time as text.
#include "models/qwen_plan.h"

namespace purekv {
namespace {

// From the published config.json files: what differs.
struct Qwen3VlShape {
  const char* name;
  int64_t hidden, layers, heads, intermediate;
  bool tied;
  bool larger_tower;
};
constexpr Qwen3VlShape kShapes[] = {
    {"qwen3-vl-2b", 2048, 28, 16, 6144, true, false},
    {"qwen3-vl-4b", 2560, 36, 32, 9728, true, false},
    {"qwen3-vl-8b", 4096, 36, 32, 12288, false, true},
    {"qwen3-vl-32b", 5120, 64, 64, 25600, false, true},
};

Json PublishedConfigOf(const Qwen3VlShape& shape) {
  const Json taps = shape.larger_tower ? Json{8, 16, 24} : Json{5, 11, 17};
  return {{"architectures", {kQwen3VlFamily.architecture}},
          {"model_type", kQwen3VlFamily.name},
          {"tie_word_embeddings", shape.tied},
          {"vision_start_token_id", 151652},
          {"vision_end_token_id", 151653},
          {"image_token_id", 151655},
          {"video_token_id", 151656},
          {"text_config",
           {{"hidden_act", "silu"},
            {"hidden_size", shape.hidden},
            {"num_hidden_layers", shape.layers},
            {"num_attention_heads", shape.heads},
            {"num_key_value_heads", 8},
            {"head_dim", 128},
            {"intermediate_size", shape.intermediate},
            {"vocab_size", 151936},
            {"max_position_embeddings", 262144},
            {"rms_norm_eps", 1e-6},
            {"rope_theta", 5e6},
            {"rope_scaling", {{"rope_type", "default"}, {"mrope_section", {24, 20, 20}}, {"mrope_interleaved", true}}},
            {"attention_bias", false},
            {"tie_word_embeddings", shape.tied},
            {"eos_token_id", 151645}}},
          {"vision_config",
           {{"depth", shape.larger_tower ? 27 : 24},
            {"hidden_size", shape.larger_tower ? 1152 : 1024},
            {"intermediate_size", shape.larger_tower ? 4304 : 4096},
            {"num_heads", 16},
            {"in_channels", 3},
            {"patch_size", 16},
            {"temporal_patch_size", 2},
            {"spatial_merge_size", 2},
            {"num_position_embeddings", 2304},
            {"hidden_act", "gelu_pytorch_tanh"},
            {"out_hidden_size", shape.hidden},
            {"deepstack_visual_indexes", taps}}}};
}

}  // namespace

const ModelFamily kQwen3VlFamily = {
    "Qwen3VLForConditionalGeneration", "qwen3_vl",
    [](const ModelFiles& files) { return PlanQwen(files, QwenVersion::kQwen3, kQwen3VlFamily); },
    [] {
      std::vector<PublishedShape> shapes;
      for (const Qwen3VlShape& one : kShapes) shapes.push_back({one.name, PublishedConfigOf(one)});
      return shapes;
    }};

}  // namespace purekv
