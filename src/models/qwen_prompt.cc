#include "models/qwen_prompt.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/error.h"

namespace purekv {
namespace {

constexpr float kMaxPosition = 1 << 29;  // of a slice; far from the end of int32 whatever follows

}  // namespace

std::unique_ptr<const QwenPrompt> QwenPrompt::Read(QwenConfig config, const ModelFiles& files) {
  const int64_t vocabulary = config.decoder.vocabulary;
  ChatTexts texts = ReadChatTexts(files, config.eos_ids, vocabulary);
  if (texts.tokenizer) {
    const auto check = [&](const std::string& token, const char* field, std::optional<int32_t> id) {
      const int32_t known = NeededTokenId(*texts.tokenizer, token, vocabulary, files.where());
      if (id.value_or(known) != known) {
        Fail(files.where(), ": config.json's ", field, " is ", *id, ", the tokenizer's ", token, " is ", known);
      }
      return known;
    };
    check("<|image_pad|>", "image_token_id", config.image_id);
    check("<|video_pad|>", "video_token_id", config.video_id);
    config.vision_start_id = check("<|vision_start|>", "vision_start_token_id", config.vision_start_id);
    config.vision_end_id = check("<|vision_end|>", "vision_end_token_id", config.vision_end_id);
  }
  return std::make_unique<const QwenPrompt>(std::move(config), std::move(texts));
}

QwenPrompt::QwenPrompt(QwenConfig config, ChatTexts texts)
    : PromptFormat(std::move(texts)), config_(std::move(config)) {}

MediaMarkers QwenPrompt::Markers(bool video) const {
  return {video ? config_.video_id : config_.image_id, config_.vision_start_id, config_.vision_end_id};
}

void QwenPrompt::AddMedium(const PreparedMedia& medium, int32_t item, PromptTokens* prompt) const {
  const QwenVisionConfig& vision = config_.vision;
  const Grid grid = medium.grid();
  const int64_t height = grid.h / vision.merge_size;
  const int64_t width = grid.w / vision.merge_size;
  const int32_t next = prompt->next_position;
  // As Qwen's reference: the product in float32, truncated. Images have one slice, so their rate does not matter.
  const float seconds = medium.sample_fps > 0
                            ? static_cast<float>(static_cast<double>(vision.temporal_patch_size) / medium.sample_fps)
                            : 1.0F;
  int32_t largest = next;
  for (int64_t t = 0; t < grid.t; ++t) {
    int32_t step = static_cast<int32_t>(t);
    if (vision.tokens_per_second > 0) {
      const float steps = static_cast<float>(t) * seconds * static_cast<float>(vision.tokens_per_second);
      if (!(steps < kMaxPosition)) {
        FailUsage("fps ", medium.sample_fps, ": slice ", t, " of the video comes ", steps,
                  " positions behind the first; at most ", kMaxPosition, " are possible");
      }
      step = static_cast<int32_t>(steps);
    }
    for (int64_t y = 0; y < height; ++y) {
      for (int64_t x = 0; x < width; ++x) {
        const Position position{next + step, next + static_cast<int32_t>(y), next + static_cast<int32_t>(x)};
        largest = std::max({largest, position.t, position.h, position.w});
        prompt->ids.push_back(medium.is_video() ? config_.video_id : config_.image_id);
        prompt->positions.push_back(position);
        prompt->layout.push_back({medium.is_video() ? TokenRecord::Kind::kVideo : TokenRecord::Kind::kImage, item,
                                  static_cast<int32_t>(t), static_cast<int32_t>(y), static_cast<int32_t>(x)});
      }
    }
  }
  prompt->next_position = largest + 1;
}

PromptTokens QwenPrompt::LayOut(const std::vector<int32_t>& ids, std::span<const PreparedMedia> media,
                                int32_t next_position) const {
  PromptTokens prompt;
  prompt.next_position = next_position;
  size_t item = 0;
  for (const int32_t id : ids) {
    if (id != config_.image_id && id != config_.video_id) {
      prompt.AddText(id);
      if (item > 0 && item == media.size() && prompt.media_end == 0) {
        // Right behind the last medium: its closing marker, when it is there, still belongs to it.
        prompt.media_end = static_cast<int64_t>(prompt.ids.size()) - (id == config_.vision_end_id.value_or(-1) ? 0 : 1);
      }
      continue;
    }
    const bool video = id == config_.video_id;
    if (item >= media.size() || media[item].is_video() != video) {
      FailUsage("the prompt holds ", video ? "<|video_pad|>" : "<|image_pad|>", ", a marker reserved for media");
    }
    AddMedium(media[item], static_cast<int32_t>(item), &prompt);
    ++item;
  }
  if (item != media.size()) FailUsage("the prompt has places for ", item, " of ", media.size(), " media items");
  if (item > 0 && prompt.media_end == 0) prompt.media_end = static_cast<int64_t>(prompt.ids.size());
  return prompt;
}

}  // namespace purekv
