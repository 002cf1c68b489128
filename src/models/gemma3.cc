// Gemma 3, text (arXiv 2503.19786): five of six layers see a window only and rotate by a base of their own; norms
// multiply by 1 + weight and stand before and behind each half of a layer; embeddings are scaled; the gate is a GELU.
#include <cmath>

#include "base/error.h"
#include "models/layer_map.h"
#include "models/text_family.h"

namespace purekv {
namespace {

constexpr int64_t kPattern = 6;  // every so many layers one is full, where config.json does not say

// From the published config.json files.
const std::vector<TextShape> kShapes = {
    {"gemma3-270m", 640, 18, 4, 1, 256, 2048, 262144, 32768, 1e6, 1e-6, true},
    {"gemma3-1b", 1152, 26, 4, 1, 256, 6912, 262144, 32768, 1e6, 1e-6, true},
};

int64_t Pattern(const JsonFields& fields) {
  for (const char* key : {"sliding_window_pattern", "_sliding_window_pattern"}) {
    if (fields.Has(key)) return fields.Int(key, 1, 4096);
  }
  return kPattern;
}

TextConfig ParseGemma3(const JsonFields& fields) {
  TextConfig config = ParseTextConfig(fields, {"hidden_activation", "gelu_pytorch_tanh", Activation::kGeluTanh});
  if (!config.tied) config.tied = true;  // the class's default, which published files leave out
  DecoderConfig& decoder = config.decoder;
  decoder.qkv_bias = decoder.output_bias = fields.Bool("attention_bias", false);
  decoder.norms_add_one = decoder.post_norms = decoder.scaled_embeddings = true;
  decoder.attention_scale = 1.0 / std::sqrt(fields.Number("query_pre_attn_scalar", 1e-3, 1e6, 256));
  const int64_t pattern = Pattern(fields);
  ParseWindows(
      fields, [&](int64_t layer) { return (layer + 1) % pattern != 0; }, &decoder);
  ParseLayerMap(fields, &decoder);
  // The base of windowed layers knows no scaling.
  decoder.ropes.push_back(PlainRope(decoder.head_dim, fields.Number("rope_local_base_freq", 1, 1e15, 10000)));
  for (LayerConfig& layer : decoder.per_layer) {
    layer.qk_norm = true;
    layer.rope = layer.window > 0 ? 1 : 0;
  }
  return config;
}

}  // namespace

const ModelFamily kGemma3Family = {"Gemma3ForCausalLM", "gemma3_text",
                                   [](const ModelFiles& files) {
                                     return PlanText(files, kGemma3Family,
                                                     ParseGemma3(JsonFields(files.config(), files.config_path())));
                                   },
                                   [] {
                                     return PublishedTextShapes(kShapes, kGemma3Family,
                                                                {{"hidden_activation", "gelu_pytorch_tanh"},
                                                                 {"query_pre_attn_scalar", 256},
                                                                 {"sliding_window", 512},
                                                                 {"sliding_window_pattern", kPattern},
                                                                 {"rope_local_base_freq", 10000.0}});
                                   }};

}  // namespace purekv
