// Qwen2 and Qwen2.5 (arXiv 2407.10671, 2412.15115): the Llama block with biases of q, k and v.
#include "models/layer_map.h"
#include "models/text_family.h"

namespace purekv {
namespace {

// From the published config.json files.
const std::vector<TextShape> kShapes = {
    {"qwen2.5-0.5b", 896, 24, 14, 2, 64, 4864, 151936, 32768, 1e6, 1e-6, true},
    {"qwen2.5-1.5b", 1536, 28, 12, 2, 128, 8960, 151936, 32768, 1e6, 1e-6, true},
    {"qwen2.5-7b", 3584, 28, 28, 4, 128, 18944, 152064, 32768, 1e6, 1e-6, false},
};

}  // namespace

const ModelFamily kQwen2Family = {
    "Qwen2ForCausalLM", "qwen2",
    [](const ModelFiles& files) {
      const JsonFields fields(files.config(), files.config_path());
      TextConfig config = ParseTextConfig(fields, {"hidden_act", "silu", Activation::kSilu});
      config.decoder.qkv_bias = true;
      ParseQwenWindows(fields, &config.decoder);
      ParseLayerMap(fields, &config.decoder);
      return PlanText(files, kQwen2Family, std::move(config));
    },
    [] { return PublishedTextShapes(kShapes, kQwen2Family); }};

}  // namespace purekv
