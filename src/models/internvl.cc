// InternVL3 and InternVL3.5 (arXiv 2504.10479, 2508.18265): large images in tiles, InternViT, cells of 2 x 2 patches
// through a norm and two layers, Qwen2.5 or Qwen3 with one position a token. Two formats: transformers', and that of
// the authors.
#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "models/internvl_config.h"
#include "models/one_axis_prompt.h"
#include "models/preprocessor_fields.h"
#include "models/registry.h"
#include "models/vit_plan.h"

namespace purekv {
namespace {

constexpr int64_t kFrames = 32;  // of a video
constexpr int64_t kMostFrames = 512;

// As published with transformers' models.
constexpr char kTemplate[] =
    R"({%- for message in messages -%}
{{ '<|im_start|>' ~ message.role ~ '\n' }}
{%- if message.content is string -%}{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}{{ '<IMG_CONTEXT>\n' }}
{%- elif part.type == 'video' -%}{{ '<video>\n' }}
{%- elif part.type == 'text' -%}{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%})";

// The authors' conversation internvl2_5, whatever the tokenizer's files say.
constexpr char kChatTemplate[] =
    R"({%- set system = "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。" -%}
{%- if messages[0].role == 'system' -%}{%- set system = messages[0].content -%}{%- endif -%}
{{ '<|im_start|>system\n' ~ system ~ '<|im_end|>\n' }}
{%- for message in messages -%}
{%- if message.role != 'system' -%}{{ '<|im_start|>' ~ message.role ~ '\n' ~ message.content ~ '<|im_end|>\n' }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%})";

Grid CellsOf(const Grid& patches, bool) {
  return {patches.t, patches.h / 2, patches.w / 2};
}

// The middle of each of `count` parts of equal length, as the authors' example has it.
std::vector<int64_t> MiddleFrames(FrameRange range, int64_t count) {
  std::vector<int64_t> indices;
  const double part = static_cast<double>(range.count - 1) / static_cast<double>(count);
  for (int64_t i = 0; i < count; ++i) {
    const double at = part / 2 + RoundHalfEven(part * static_cast<double>(i));
    indices.push_back(range.first + std::clamp<int64_t>(static_cast<int64_t>(at), 0, range.count - 1));
  }
  return indices;
}

// The same as transformers' video processor has it: in float32, truncated.
std::vector<int64_t> ShiftedFrames(FrameRange range, int64_t count) {
  std::vector<int64_t> indices;
  const double part = static_cast<double>(range.count) / static_cast<double>(count);
  for (int64_t i = 0; i < count; ++i) {
    const auto at = static_cast<float>(part / 2 + part * static_cast<double>(i));
    indices.push_back(range.first + std::clamp<int64_t>(static_cast<int64_t>(at), 0, range.count - 1));
  }
  return indices;
}

std::string FrameText(int64_t frame) {
  return StrCat(frame == 0 ? "" : "\n", "Frame", frame + 1, ": ");
}

struct InternVlPlan final : VitPlan {
  using VitPlan::Set;
  using VitPlan::VitPlan;
  InternVlConfig config;

  bool by_authors() const { return !config.image_id; }

  std::unique_ptr<const Preprocessor> ReadPreprocessor() const override {
    TilingConfig tiling = config.tiling;
    FixedPreprocessorConfig fixed;
    Framing& framing = fixed.pictures.framing;
    framing.resized = framing.size = {tiling.side, tiling.side};
    PatchSpec& patches = fixed.pictures.patches;
    patches = config.vision.patch_spec();
    patches.mean = {0.485F, 0.456F, 0.406F};
    patches.std = {0.229F, 0.224F, 0.225F};
    const std::string path = JoinPath(files.directory(), "preprocessor_config.json");
    if (!files.directory().empty() && FileExists(path)) {
      const Json json = ReadJson(path);
      const JsonFields fields(json, path);
      CheckSteps(fields);
      ReadMeanStd(fields, patches);
      if (!by_authors()) ReadTiling(fields, &tiling);
    }
    fixed.cells = CellsOf;
    fixed.frames = kFrames;
    fixed.most_frames = kMostFrames;
    fixed.pads = false;
    fixed.rule = by_authors() ? MiddleFrames : ShiftedFrames;
    return std::make_unique<const TiledPreprocessor>(tiling, std::move(fixed));
  }

  static void ReadTiling(const JsonFields& fields, TilingConfig* tiling) {
    if (fields.Has("size")) {
      const JsonFields size = fields.Object("size");
      for (const char* side : {"height", "width"}) CheckEqual(size, side, tiling->side);
    }
    tiling->least = fields.Int("min_patches", 1, kMostTiles, tiling->least);
    tiling->most = fields.Int("max_patches", tiling->least, kMostTiles, std::max(tiling->least, tiling->most));
    if (!fields.Bool("crop_to_patches", true)) tiling->least = tiling->most = 1;
  }

  std::unique_ptr<const PromptFormat> ReadPrompt() const override {
    ChatHabits habits;
    habits.chat_template = by_authors() ? kChatTemplate : kTemplate;
    ChatTexts texts = ReadChatTexts(files, config.text.eos_ids, decoder.vocabulary, habits);
    if (by_authors() && texts.tokenizer) {
      texts.chat_template =
          ChatTemplate::FromText(kChatTemplate, "the conversation internvl2_5", {}, texts.tokenizer->added_tokens());
      texts.end_of_turn_id = NeededTokenId(*texts.tokenizer, "<|im_end|>", decoder.vocabulary, files.where());
    }
    OneAxisPromptConfig prompt;
    prompt.cells = CellsOf;
    prompt.writes_markers = true;
    prompt.slice_text = FrameText;
    prompt.image = config.image_id.value_or(0);
    if (texts.tokenizer) {
      const auto id = [&](const char* token) {
        return NeededTokenId(*texts.tokenizer, token, decoder.vocabulary, files.where());
      };
      prompt.image = id("<IMG_CONTEXT>");
      if (config.image_id.value_or(*prompt.image) != *prompt.image) {
        Fail(files.where(), ": config.json's image_token_id is ", *config.image_id,
             ", the tokenizer's <IMG_CONTEXT> is ", *prompt.image);
      }
      prompt.before = id("<img>");
      prompt.after = id("</img>");
      // The published config.json names the end of any text alone.
      if (const int32_t end = texts.end_of_turn_id; end >= 0) {
        const auto at = std::lower_bound(texts.stop_ids.begin(), texts.stop_ids.end(), end);
        if (at == texts.stop_ids.end() || *at != end) texts.stop_ids.insert(at, end);
      }
    }
    prompt.written = prompt.image;
    if (by_authors() || !texts.tokenizer) {
      prompt.video =
          texts.tokenizer ? FreeTokenId(texts, decoder.vocabulary, files.where()) : (*prompt.image == 0 ? 1 : 0);
      if (texts.tokenizer) {
        prompt.image_word = "<image>";
        prompt.video_word = "<video>";
        prompt.numbers_images = true;
      }
    } else {
      prompt.video = NeededTokenId(*texts.tokenizer, "<video>", decoder.vocabulary, files.where());
    }
    return std::make_unique<const OneAxisPrompt>(std::move(prompt), std::move(texts));
  }

  std::unique_ptr<const Connector> ReadConnector(const TensorSource& source,
                                                 const NumberFormats& formats) const override {
    return std::make_unique<const MlpConnector>(config.connector, source, formats);
  }
};

std::unique_ptr<ModelPlan> PlanInternVl(const ModelFiles& files, const ModelFamily& family, InternVlConfig config) {
  auto plan = std::make_unique<InternVlPlan>(files);
  plan->Set(family, config.text, config.vision, MlpConnector::Tensors(config.connector));
  plan->config = std::move(config);
  return plan;
}

// From the published config.json files.
struct Shape {
  const char* text;  // model_type
  TextShape sizes;
};
const Shape kShapes[] = {
    {"qwen2", {"internvl3-1b", 896, 24, 14, 2, 64, 4864, 151674, 32768, 1e6, 1e-6, false}},
    {"qwen2", {"internvl3-2b", 1536, 28, 12, 2, 128, 8960, 151674, 32768, 1e6, 1e-6, false}},
    {"qwen2", {"internvl3-8b", 3584, 28, 28, 4, 128, 18944, 151674, 32768, 1e6, 1e-6, false}},
    {"qwen3", {"internvl3.5-1b", 1024, 28, 16, 8, 128, 3072, 151936, 40960, 1e6, 1e-6, false}},
    {"qwen3", {"internvl3.5-4b", 2560, 36, 32, 8, 128, 9728, 151936, 40960, 1e6, 1e-6, false}},
    {"qwen3", {"internvl3.5-8b", 4096, 36, 32, 8, 128, 12288, 151936, 40960, 1e6, 1e-6, false}},
};

std::vector<PublishedShape> PublishedShapes(const ModelFamily& family) {
  std::vector<PublishedShape> published;
  for (const Shape& shape : kShapes) {
    const bool newer = std::string(shape.text) == "qwen3";
    Json text = TextFields(shape.sizes);
    text.update({{"model_type", shape.text}, {"hidden_act", "silu"}, {"eos_token_id", 151645}});
    const Json vision = {{"model_type", "internvl_vision"}, {"hidden_size", 1024},       {"num_hidden_layers", 24},
                         {"num_attention_heads", 16},       {"intermediate_size", 4096}, {"attention_bias", true},
                         {"image_size", {448, 448}},        {"patch_size", {14, 14}}};
    published.push_back({shape.sizes.name,
                         {{"architectures", {family.architecture}},
                          {"model_type", family.name},
                          {"downsample_ratio", 0.5},
                          {"image_seq_length", 256},
                          {"image_token_id", newer ? 151671 : 151667},
                          {"text_config", text},
                          {"vision_config", vision}}});
  }
  return published;
}

}  // namespace

const ModelFamily kInternVlFamily = {"InternVLForConditionalGeneration", "internvl",
                                     [](const ModelFiles& files) {
                                       return PlanInternVl(files, kInternVlFamily,
                                                           ParseInternVlConfig(files.config(), files.config_path()));
                                     },
                                     [] { return PublishedShapes(kInternVlFamily); }};

const ModelFamily kInternVlChatFamily = {
    "InternVLChatModel", "internvl_chat",
    [](const ModelFiles& files) {
      return PlanInternVl(files, kInternVlChatFamily, ParseInternVlChatConfig(files.config(), files.config_path()));
    },
    [] { return std::vector<PublishedShape>{}; }};

}  // namespace purekv
