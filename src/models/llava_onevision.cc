// LLaVA-OneVision (arXiv 2408.03326): SigLIP's tower, an image in tiles that become one map of tokens with newlines
// behind its rows, videos of smaller frames, Qwen2 with one position a token. transformers' layout.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <tuple>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "models/llava_onevision_config.h"
#include "models/one_axis_prompt.h"
#include "models/preprocessor_fields.h"
#include "models/registry.h"
#include "models/vit_plan.h"

namespace purekv {
namespace {

constexpr int64_t kFrames = 32;  // of a video, as the authors evaluate
constexpr int64_t kMostFrames = 512;

// As published with transformers' models.
constexpr char kTemplate[] =
    R"({%- for message in messages -%}
{{ '<|im_start|>' ~ message.role ~ '\n' }}
{%- if message.content is string -%}{{ message.content }}
{%- else -%}
{%- for part in message.content -%}{%- if part.type == 'image' -%}{{ '<image>\n' }}{%- endif -%}{%- endfor -%}
{%- for part in message.content -%}{%- if part.type == 'video' -%}{{ '<video>\n' }}{%- endif -%}{%- endfor -%}
{%- for part in message.content -%}{%- if part.type == 'text' -%}{{ part.text }}{%- endif -%}{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%})";

// numpy.linspace(0, frames - 1, count, dtype=int), as the authors' example has it.
std::vector<int64_t> SpacedFrames(FrameRange range, int64_t count) {
  std::vector<int64_t> indices;
  const double step = static_cast<double>(range.count - 1) / static_cast<double>(std::max<int64_t>(1, count - 1));
  for (int64_t i = 0; i < count; ++i) {
    const bool last = count > 1 && i == count - 1;
    indices.push_back(range.first + (last ? range.count - 1 : static_cast<int64_t>(static_cast<double>(i) * step)));
  }
  return indices;
}

struct LlavaOnevisionPlan final : VitPlan {
  using VitPlan::Set;
  using VitPlan::VitPlan;
  LlavaOnevisionConfig config;

  CellsOfPatches Cells() const {
    return [connector = config.connector](const Grid& patches, bool video) { return connector.cells(patches, video); };
  }
  std::unique_ptr<const Preprocessor> ReadPreprocessor() const override {
    // Several images are laid on a square each, whatever the file says of canvases' padding.
    const PictureSpec pictures = ReadPictureSpec(config.vision, files.directory(), true);
    const std::string path = JoinPath(files.directory(), "preprocessor_config.json");
    if (!files.directory().empty() && FileExists(path)) {
      const Json json = ReadJson(path);
      const JsonFields fields(json, path);
      if (fields.Has("image_grid_pinpoints") &&
          ReadPinpoints(fields, config.vision.image_size) != config.anyres.canvases) {
        Fail(path, ": image_grid_pinpoints contradicts config.json's");
      }
    }
    FixedPreprocessorConfig videos;
    videos.pictures = pictures;
    videos.pictures.framing.square.reset();
    videos.cells = Cells();
    videos.frames = kFrames;
    videos.most_frames = kMostFrames;
    videos.pads = false;
    videos.rule = SpacedFrames;
    return std::make_unique<const AnyresPreprocessor>(config.anyres, pictures, std::move(videos));
  }
  std::unique_ptr<const PromptFormat> ReadPrompt() const override {
    ChatHabits habits;
    habits.chat_template = kTemplate;
    ChatTexts texts = ReadChatTexts(files, config.text.eos_ids, decoder.vocabulary, habits);
    OneAxisPromptConfig prompt;
    prompt.cells = Cells();
    prompt.newlines = true;
    prompt.image = config.image_id;
    prompt.video = config.video_id;
    if (texts.tokenizer) {
      for (const auto& [token, key, id] : {std::tuple{"<image>", "image_token_index", config.image_id},
                                           std::tuple{"<video>", "video_token_index", config.video_id}}) {
        const int32_t known = NeededTokenId(*texts.tokenizer, token, decoder.vocabulary, files.where());
        if (known == id) continue;
        Fail(files.where(), ": config.json's ", key, " is ", id, ", the tokenizer's ", token, " is ", known);
      }
    }
    return std::make_unique<const OneAxisPrompt>(std::move(prompt), std::move(texts));
  }
  std::unique_ptr<const Connector> ReadConnector(const TensorSource& source,
                                                 const NumberFormats& formats) const override {
    return std::make_unique<const AnyresConnector>(config.connector, source, formats);
  }
};

// From the published config.json files.
const TextShape kShapes[] = {
    {"llava-onevision-0.5b", 896, 24, 14, 2, 64, 4864, 152000, 32768, 1e6, 1e-6, false},
    {"llava-onevision-7b", 3584, 28, 28, 4, 128, 18944, 152128, 32768, 1e6, 1e-6, false},
    {"llava-onevision-72b", 8192, 80, 64, 8, 128, 29568, 152128, 32768, 1e6, 1e-6, false},
};

std::vector<PublishedShape> PublishedShapes(const ModelFamily& family) {
  std::vector<PublishedShape> published;
  for (const TextShape& shape : kShapes) {
    Json text = TextFields(shape);
    text.update({{"model_type", "qwen2"}, {"hidden_act", "silu"}, {"eos_token_id", 151645}});
    published.push_back(
        {shape.name,
         {{"architectures", {family.architecture}}, {"model_type", family.name}, {"text_config", std::move(text)}}});
  }
  return published;
}

}  // namespace

const ModelFamily kLlavaOnevisionFamily = {
    "LlavaOnevisionForConditionalGeneration", "llava_onevision",
    [](const ModelFiles& files) -> std::unique_ptr<ModelPlan> {
      auto plan = std::make_unique<LlavaOnevisionPlan>(files);
      plan->config = ParseLlavaOnevisionConfig(files.config(), files.config_path());
      const LlavaOnevisionConfig& config = plan->config;
      plan->Set(kLlavaOnevisionFamily, config.text, config.vision, AnyresConnector::Tensors(config.connector));
      return plan;
    },
    [] { return PublishedShapes(kLlavaOnevisionFamily); }};

}  // namespace purekv
