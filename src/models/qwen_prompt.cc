#include "models/qwen_prompt.h"

#include <algorithm>
#include <cstdio>
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

int32_t QwenPrompt::AddSlice(const PreparedMedia& medium, int32_t item, int64_t slice, int32_t step,
                             PromptTokens* prompt) const {
  const Grid grid = medium.grid();
  const int64_t height = grid.h / config_.vision.merge_size;
  const int64_t width = grid.w / config_.vision.merge_size;
  const int32_t next = prompt->next_position;
  int32_t largest = next;
  for (int64_t y = 0; y < height; ++y) {
    for (int64_t x = 0; x < width; ++x) {
      const Position position{next + step, next + static_cast<int32_t>(y), next + static_cast<int32_t>(x)};
      largest = std::max({largest, position.t, position.h, position.w});
      prompt->ids.push_back(medium.is_video() ? config_.video_id : config_.image_id);
      prompt->positions.push_back(position);
      prompt->layout.push_back({medium.is_video() ? TokenRecord::Kind::kVideo : TokenRecord::Kind::kImage, item,
                                static_cast<int32_t>(slice), static_cast<int32_t>(y), static_cast<int32_t>(x)});
    }
  }
  return largest;
}

void QwenPrompt::AddMedium(const PreparedMedia& medium, int32_t item, PromptTokens* prompt) const {
  const QwenVisionConfig& vision = config_.vision;
  // As Qwen's reference: the product in float32, truncated. Images have one slice, so their rate does not matter.
  const float seconds = medium.sample_fps > 0
                            ? static_cast<float>(static_cast<double>(vision.temporal_patch_size) / medium.sample_fps)
                            : 1.0F;
  const int64_t slices = medium.grid().t;
  int32_t largest = prompt->next_position;
  for (int64_t t = 0; t < slices; ++t) {
    int32_t step = static_cast<int32_t>(t);
    if (vision.tokens_per_second > 0) {
      const float steps = static_cast<float>(t) * seconds * static_cast<float>(vision.tokens_per_second);
      if (!(steps < kMaxPosition)) {
        FailUsage("fps ", medium.sample_fps, ": slice ", t, " of the video comes ", steps,
                  " positions behind the first; at most ", kMaxPosition, " are possible");
      }
      step = static_cast<int32_t>(steps);
    }
    largest = std::max(largest, AddSlice(medium, item, t, step, prompt));
  }
  prompt->next_position = largest + 1;
}

bool QwenPrompt::TellsTime(bool video) const {
  return video && config_.vision.version == QwenVersion::kQwen3;
}

std::vector<int32_t> QwenPrompt::TimeIds(const PreparedMedia& medium, int64_t slice) const {
  if (!texts().tokenizer) return {};
  // Without times of its own, a video's frames follow one another from 0 on.
  const auto temporal = static_cast<double>(config_.vision.temporal_patch_size);
  const double frame = static_cast<double>(slice) * temporal + (temporal - 1) / 2;
  const double seconds = medium.slice_seconds.empty() ? frame / (medium.sample_fps > 0 ? medium.sample_fps : 2.0)
                                                      : medium.slice_seconds[static_cast<size_t>(slice)];
  char text[64];
  std::snprintf(text, sizeof(text), "<%.1f seconds>", seconds);
  return texts().tokenizer->Encode(text);
}

int64_t QwenPrompt::MarkerTokens(const PreparedMedia& medium) const {
  const int64_t markers = PromptFormat::MarkerTokens(medium);
  if (!TellsTime(medium.is_video())) return markers;
  int64_t tokens = 0;
  for (int64_t t = 0; t < medium.grid().t; ++t) {
    tokens += markers + static_cast<int64_t>(TimeIds(medium, t).size());
  }
  return tokens;
}

void QwenPrompt::AddTimedSlices(const PreparedMedia& medium, int32_t item, PromptTokens* prompt) const {
  const int64_t slices = medium.grid().t;
  if (const auto times = static_cast<int64_t>(medium.slice_seconds.size()); times > 0 && times != slices) {
    Fail(times, " times of slices for ", slices, " slices");
  }
  for (int64_t t = 0; t < slices; ++t) {
    for (const int32_t id : TimeIds(medium, t)) prompt->AddText(id);
    prompt->AddText(config_.vision_start_id.value());
    prompt->next_position = AddSlice(medium, item, t, 0, prompt) + 1;
    prompt->AddText(config_.vision_end_id.value());
  }
}

PromptTokens QwenPrompt::LayOut(const std::vector<int32_t>& ids, std::span<const PreparedMedia> media,
                                int32_t next_position) const {
  PromptTokens prompt;
  prompt.next_position = next_position;
  size_t item = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    // A video's slices bring their own markers.
    const bool replaced = TellsTime(true) && i + 2 < ids.size() && ids[i] == config_.vision_start_id &&
                          ids[i + 1] == config_.video_id && ids[i + 2] == config_.vision_end_id;
    const int32_t id = ids[replaced ? i + 1 : i];
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
    const PreparedMedia& medium = media[item];
    if (TellsTime(video)) {
      AddTimedSlices(medium, static_cast<int32_t>(item), &prompt);
      if (item + 1 == media.size()) prompt.media_end = static_cast<int64_t>(prompt.ids.size());
    } else {
      AddMedium(medium, static_cast<int32_t>(item), &prompt);
    }
    ++item;
    if (replaced) i += 2;
  }
  if (item != media.size()) FailUsage("the prompt has places for ", item, " of ", media.size(), " media items");
  if (item > 0 && prompt.media_end == 0) prompt.media_end = static_cast<int64_t>(prompt.ids.size());
  return prompt;
}

}  // namespace purekv
