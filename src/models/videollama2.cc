// VideoLLaMA2 and 2.1 (arXiv 2406.07476): CLIP's or SigLIP's tower, a spatial-temporal convolution connector, Mistral
// or Qwen2. A video is a fixed number of frames, an image as many equal ones.
#include <nlohmann/json.hpp>
#include <utility>

#include "models/fixed_preprocessor.h"
#include "models/one_axis_prompt.h"
#include "models/registry.h"
#include "models/videollama2_config.h"
#include "models/vit_plan.h"

namespace purekv {
namespace {

// Of the first release, its conversation llama2: Mistral's directories have no template that takes a system message.
constexpr char kMistralTemplate[] =
    R"({%- set system = "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe.  Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. Please ensure that your responses are socially unbiased and positive in nature.\n\nIf a question does not make any sense, or is not factually coherent, explain why instead of answering something not correct. If you don't know the answer to a question, please don't share false information." -%}
{%- set turns = messages -%}
{%- if messages[0].role == 'system' -%}{%- set system = messages[0].content -%}{%- set turns = messages[1:] -%}{%- endif -%}
{{ '<s>' }}
{%- for message in turns -%}
{%- if message.role == 'user' -%}
{{ '[INST] ' ~ ('<<SYS>>\n' ~ system ~ '\n<</SYS>>\n\n' if loop.first and system else '') ~ message.content ~ ' [/INST]' }}
{%- elif message.role == 'assistant' -%}{{ ' ' ~ message.content ~ ' </s>' }}
{%- endif -%}
{%- endfor -%})";

struct VideoLlama2Plan final : VitPlan {
  using VitPlan::Set;
  using VitPlan::VitPlan;
  VideoLlama2Config config;
  std::string chat_template;  // where the directory has none; "": ChatML

  CellsOfPatches Cells() const {
    return [connector = config.connector](const Grid& patches, bool) { return connector.cells(patches); };
  }
  std::unique_ptr<const Preprocessor> ReadPreprocessor() const override {
    FixedPreprocessorConfig fixed;
    fixed.pictures = ReadPictureSpec(config.tower.vision, config.tower.directory, config.tower.pad);
    fixed.cells = Cells();
    fixed.frames = config.frames;
    fixed.most_frames = kVideoLlama2MostFrames;
    fixed.rule = SegmentMiddles;
    return std::make_unique<const FixedPreprocessor>(std::move(fixed));
  }
  std::unique_ptr<const PromptFormat> ReadPrompt() const override {
    ChatHabits habits;
    habits.chat_template = chat_template;
    ChatTexts texts = ReadChatTexts(files, config.text.eos_ids, decoder.vocabulary, habits);
    OneAxisPromptConfig prompt;
    prompt.image = prompt.video = FreeTokenId(texts, decoder.vocabulary, files.where());
    prompt.image_word = "<image>";
    prompt.video_word = "<video>";
    prompt.cells = Cells();
    return std::make_unique<const OneAxisPrompt>(std::move(prompt), std::move(texts));
  }
  std::unique_ptr<const Connector> ReadConnector(const TensorSource& source,
                                                 const NumberFormats& formats) const override {
    return std::make_unique<const StcConnector>(config.connector, source, formats);
  }
};

std::unique_ptr<ModelPlan> PlanVideoLlama2(const ModelFiles& files, const ModelFamily& family, const char* backbone,
                                           const char* chat_template) {
  auto plan = std::make_unique<VideoLlama2Plan>(files);
  plan->config = ParseVideoLlama2Config(files.config(), backbone, files.config_path(), files.directory());
  const VideoLlama2Config& config = plan->config;
  plan->Set(family, config.text, config.tower.vision, StcConnector::Tensors(config.connector));
  plan->identity = config.tower.config;
  plan->chat_template = chat_template;
  return plan;
}

Json Multimodal(const char* tower, int64_t width, const char* connector, int64_t frames, int64_t eos) {
  return {{"eos_token_id", eos},          {"image_aspect_ratio", "pad"},
          {"mm_hidden_size", width},      {"mm_projector_type", connector},
          {"mm_vision_select_layer", -2}, {"mm_vision_select_feature", "patch"},
          {"mm_vision_tower", tower},     {"num_frames", frames}};
}

// From the published config.json files and the code that reads them.
std::vector<PublishedShape> MistralShapes() {
  std::vector<PublishedShape> shapes;
  for (const auto& [name, frames] : {std::pair{"videollama2-7b", 8}, std::pair{"videollama2-7b-16f", 16}}) {
    const TextShape text{name, 4096, 32, 32, 8, 128, 14336, 32000, 32768, 1e6, 1e-5, false};
    const Json more = Multimodal("openai/clip-vit-large-patch14-336", 1024, "stc_connector", frames, 2);
    shapes.push_back(PublishedTextShapes({&text, 1}, kVideoLlama2MistralFamily, more).front());
  }
  return shapes;
}

std::vector<PublishedShape> Qwen2Shapes() {
  const TextShape text{"videollama2.1-7b-16f", 3584, 28, 28, 4, 128, 18944, 152064, 32768, 1e6, 1e-6, false};
  return PublishedTextShapes({&text, 1}, kVideoLlama2Qwen2Family,
                             Multimodal("google/siglip-so400m-patch14-384", 1152, "stc_connector_v35", 16, 151645));
}

}  // namespace

const ModelFamily kVideoLlama2MistralFamily = {"Videollama2MistralForCausalLM", "videollama2_mistral",
                                               [](const ModelFiles& files) {
                                                 return PlanVideoLlama2(files, kVideoLlama2MistralFamily, "mistral",
                                                                        kMistralTemplate);
                                               },
                                               MistralShapes};

const ModelFamily kVideoLlama2Qwen2Family = {
    "Videollama2Qwen2ForCausalLM", "videollama2_qwen2",
    [](const ModelFiles& files) { return PlanVideoLlama2(files, kVideoLlama2Qwen2Family, "qwen2", ""); }, Qwen2Shapes};

}  // namespace purekv
