// Llama 2 and 3 (arXiv 2307.09288, 2407.21783), and those that take their block: SmolLM2 (arXiv 2502.02737).
#include "models/layer_map.h"
#include "models/text_family.h"

namespace purekv {
namespace {

// From the published config.json files.
const std::vector<TextShape> kShapes = {
    {"smollm2-135m", 576, 30, 9, 3, 64, 1536, 49152, 8192, 1e5, 1e-5, true},
    {"llama3-8b", 4096, 32, 32, 8, 128, 14336, 128256, 8192, 5e5, 1e-5, false},
};

}  // namespace

const ModelFamily kLlamaFamily = {
    "LlamaForCausalLM", "llama",
    [](const ModelFiles& files) {
      const JsonFields fields(files.config(), files.config_path());
      TextConfig config = ParseTextConfig(fields, {"hidden_act", "silu", Activation::kSilu});
      config.decoder.qkv_bias = config.decoder.output_bias = fields.Bool("attention_bias", false);
      ParseLayerMap(fields, &config.decoder);
      return PlanText(files, kLlamaFamily, std::move(config));
    },
    [] { return PublishedTextShapes(kShapes, kLlamaFamily); }};

}  // namespace purekv
