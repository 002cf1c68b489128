// LLaVA-1.5 (arXiv 2310.03744): CLIP's tower, a connector of two layers, Llama; images alone. Two layouts:
// transformers', and that of the authors.
#include <utility>

#include "base/error.h"
#include "models/fixed_preprocessor.h"
#include "models/llava_config.h"
#include "models/one_axis_prompt.h"
#include "models/registry.h"
#include "models/vit_plan.h"

namespace purekv {
namespace {

// As published with transformers' models.
constexpr char kTemplate[] =
    R"({%- macro texts(content) -%}
{%- if content is string -%}{{ content ~ ' ' }}
{%- else -%}
{%- for part in content -%}{%- if part.type == 'image' -%}{{ '<image>\n' }}{%- endif -%}{%- endfor -%}
{%- for part in content -%}{%- if part.type == 'text' -%}{{ part.text ~ ' ' }}{%- endif -%}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- for message in messages -%}
{%- if message.role != 'system' -%}{{ message.role | upper ~ ': ' }}{%- endif -%}
{{ texts(message.content) }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'ASSISTANT:' }}{%- endif -%})";

// The authors' conversation llava_v1.
constexpr char kOriginalTemplate[] =
    R"({%- set system = "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the human's questions." -%}
{%- if messages[0].role == 'system' -%}{%- set system = messages[0].content -%}{%- endif -%}
{{ system ~ ' ' }}
{%- for message in messages -%}
{%- if message.role == 'user' -%}{{ 'USER: ' ~ message.content ~ ' ' }}
{%- elif message.role == 'assistant' -%}{{ 'ASSISTANT: ' ~ message.content ~ '</s>' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'ASSISTANT:' }}{%- endif -%})";

Grid PatchesAsTokens(const Grid& patches, bool) {
  return patches;
}

struct LlavaPlan final : VitPlan {
  using VitPlan::Set;
  using VitPlan::VitPlan;
  LlavaConfig config;

  std::unique_ptr<const Preprocessor> ReadPreprocessor() const override {
    FixedPreprocessorConfig fixed;
    fixed.pictures = ReadPictureSpec(config.vision, config.tower_directory, config.pad);
    fixed.cells = PatchesAsTokens;
    return std::make_unique<const FixedPreprocessor>(std::move(fixed));
  }
  std::unique_ptr<const PromptFormat> ReadPrompt() const override {
    OneAxisPromptConfig prompt;
    prompt.cells = PatchesAsTokens;
    ChatHabits habits;
    habits.encodes_as_text = habits.stop_closes = true;
    habits.chat_template = config.image_id ? kTemplate : kOriginalTemplate;
    ChatTexts texts = ReadChatTexts(files, config.text.eos_ids, decoder.vocabulary, habits);
    if (config.image_id) {
      prompt.image = config.image_id;
      if (texts.tokenizer) {
        const int32_t known = NeededTokenId(*texts.tokenizer, "<image>", decoder.vocabulary, files.where());
        if (known != *config.image_id) {
          Fail(files.where(), ": config.json's image_token_index is ", *config.image_id,
               ", the tokenizer's <image> is ", known);
        }
      }
    } else {
      prompt.image = FreeTokenId(texts, decoder.vocabulary, files.where());
      prompt.image_word = "<image>";
    }
    return std::make_unique<const OneAxisPrompt>(std::move(prompt), std::move(texts));
  }
  std::unique_ptr<const Connector> ReadConnector(const TensorSource& source,
                                                 const NumberFormats& formats) const override {
    return std::make_unique<const MlpConnector>(config.connector, source, formats);
  }
};

std::unique_ptr<ModelPlan> PlanLlava(const ModelFiles& files, const ModelFamily& family, LlavaConfig config) {
  auto plan = std::make_unique<LlavaPlan>(files);
  plan->Set(family, config.text, config.vision, MlpConnector::Tensors(config.connector));
  plan->identity = config.tower_config;
  plan->config = std::move(config);
  return plan;
}

// From the published config.json files.
const std::vector<TextShape> kShapes = {
    {"llava-1.5-7b", 4096, 32, 32, 32, 128, 11008, 32000, 4096, 1e4, 1e-5, false},
    {"llava-1.5-13b", 5120, 40, 40, 40, 128, 13824, 32000, 4096, 1e4, 1e-5, false},
};

}  // namespace

const ModelFamily kLlavaFamily = {
    "LlavaForConditionalGeneration", "llava",
    [](const ModelFiles& files) {
      return PlanLlava(files, kLlavaFamily, ParseLlavaConfig(files.config(), files.config_path(), files.directory()));
    },
    [] { return std::vector<PublishedShape>{}; }};

const ModelFamily kOriginalLlavaFamily = {
    "LlavaLlamaForCausalLM", "llava_llama",
    [](const ModelFiles& files) {
      return PlanLlava(files, kOriginalLlavaFamily,
                       ParseOriginalLlavaConfig(files.config(), files.config_path(), files.directory()));
    },
    [] {
      return PublishedTextShapes(kShapes, kOriginalLlavaFamily,
                                 {{"eos_token_id", 2},
                                  {"image_aspect_ratio", "pad"},
                                  {"mm_hidden_size", 1024},
                                  {"mm_projector_type", "mlp2x_gelu"},
                                  {"mm_vision_select_feature", "patch"},
                                  {"mm_vision_select_layer", -2},
                                  {"mm_vision_tower", "openai/clip-vit-large-patch14-336"}});
    }};

}  // namespace purekv
