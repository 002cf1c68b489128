// Qwen3, dense (arXiv 2505.09388): no biases, a norm of every query and key head, a head dim of its own.
#include "models/layer_map.h"
#include "models/text_family.h"

namespace purekv {
namespace {

// From the published config.json files.
const std::vector<TextShape> kShapes = {
    {"qwen3-0.6b", 1024, 28, 16, 8, 128, 3072, 151936, 40960, 1e6, 1e-6, true},
    {"qwen3-1.7b", 2048, 28, 16, 8, 128, 6144, 151936, 40960, 1e6, 1e-6, true},
    {"qwen3-8b", 4096, 36, 32, 8, 128, 12288, 151936, 40960, 1e6, 1e-6, false},
};

}  // namespace

const ModelFamily kQwen3Family = {
    "Qwen3ForCausalLM", "qwen3",
    [](const ModelFiles& files) {
      const JsonFields fields(files.config(), files.config_path());
      TextConfig config = ParseTextConfig(fields, {"hidden_act", "silu", Activation::kSilu});
      config.decoder.qkv_bias = config.decoder.output_bias = fields.Bool("attention_bias", false);
      for (LayerConfig& layer : config.decoder.per_layer) layer.qk_norm = true;
      ParseQwenWindows(fields, &config.decoder);
      ParseLayerMap(fields, &config.decoder);
      return PlanText(files, kQwen3Family, std::move(config));
    },
    [] { return PublishedTextShapes(kShapes, kQwen3Family); }};

}  // namespace purekv
