#include "models/text_backbone.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "models/layer_map.h"

namespace purekv {
namespace {

// What transformers' LlamaConfig has where nobody says it.
Json WithLlamaDefaults(const Json& given) {
  Json merged = {{"hidden_size", 4096},        {"num_hidden_layers", 32}, {"num_attention_heads", 32},
                 {"intermediate_size", 11008}, {"vocab_size", 32000},     {"max_position_embeddings", 2048},
                 {"rms_norm_eps", 1e-6},       {"rope_theta", 10000.0},   {"hidden_act", "silu"},
                 {"eos_token_id", 2}};
  for (const auto& [key, value] : given.items()) {
    if (!value.is_null()) merged[key] = value;
  }
  return merged;
}

}  // namespace

TextConfig ParseBackbone(const JsonFields& given, const std::string& kind) {
  const ActivationField silu{"hidden_act", "silu", Activation::kSilu};
  const Json merged = kind == "llama" ? WithLlamaDefaults(given.raw()) : given.raw();
  const JsonFields fields(merged, given.where());
  TextConfig config;
  if (kind == "llama") {
    config = ParseTextConfig(fields, silu);
    config.decoder.qkv_bias = config.decoder.output_bias = fields.Bool("attention_bias", false);
  } else if (kind == "mistral") {
    config = ParseTextConfig(fields, silu);
    if (fields.Has("sliding_window")) {
      ParseWindows(
          fields, [](int64_t) { return true; }, &config.decoder);
    }
  } else if (kind == "qwen2") {
    config = ParseTextConfig(fields, silu);
    config.decoder.qkv_bias = true;
    ParseQwenWindows(fields, &config.decoder);
  } else if (kind == "qwen3") {
    config = ParseTextConfig(fields, silu);
    config.decoder.qkv_bias = config.decoder.output_bias = fields.Bool("attention_bias", false);
    for (LayerConfig& layer : config.decoder.per_layer) layer.qk_norm = true;
    ParseQwenWindows(fields, &config.decoder);
  } else {
    Fail(given.where(), ": model_type \"", kind, "\" is not supported; llama, mistral, qwen2 and qwen3 are");
  }
  ParseLayerMap(fields, &config.decoder);
  return config;
}

}  // namespace purekv
