#include "models/qwen_layout.h"

#include <algorithm>

#include "base/error.h"

namespace purekv {
namespace {

constexpr float kMaxPosition = 1 << 29;  // of a slice; far from the end of int32 whatever follows

}  // namespace

PromptTokens LayOutQwen(const QwenConfig& config, const std::vector<int32_t>& ids, std::span<const PreparedMedia> media,
                        int32_t next_position) {
  PromptTokens prompt;
  size_t item = 0;
  int32_t next = next_position;
  const int64_t merge = config.vision.merge_size;
  for (size_t i = 0; i < ids.size(); ++i) {
    const int32_t id = ids[i];
    if (id != config.image_id && id != config.video_id) {
      prompt.ids.push_back(id);
      prompt.layout.push_back({});
      prompt.positions.push_back({next, next, next});
      ++next;
      if (item > 0 && item == media.size() && prompt.media_end == 0) {
        // Right behind the last medium: its closing marker, when it is there, still belongs to it.
        prompt.media_end = static_cast<int64_t>(prompt.ids.size()) - (id == config.vision_end_id.value_or(-1) ? 0 : 1);
      }
      continue;
    }
    const bool video = id == config.video_id;
    if (item >= media.size() || media[item].is_video() != video) {
      FailUsage("the prompt holds ", video ? "<|video_pad|>" : "<|image_pad|>", ", a marker reserved for media");
    }
    const PreparedMedia& one = media[item];
    const int64_t height = one.grid.h / merge;
    const int64_t width = one.grid.w / merge;
    // As Qwen's reference: the product in float32, truncated. Images have one slice, so their rate does not matter.
    const float seconds =
        one.sample_fps > 0 ? static_cast<float>(static_cast<double>(config.vision.temporal_patch_size) / one.sample_fps)
                           : 1.0F;
    int32_t largest = next;
    for (int64_t t = 0; t < one.grid.t; ++t) {
      int32_t step = static_cast<int32_t>(t);
      if (config.vision.tokens_per_second > 0) {
        const float steps = static_cast<float>(t) * seconds * static_cast<float>(config.vision.tokens_per_second);
        if (!(steps < kMaxPosition)) {
          FailUsage("fps ", one.sample_fps, ": slice ", t, " of the video comes ", steps,
                    " positions behind the first; at most ", kMaxPosition, " are possible");
        }
        step = static_cast<int32_t>(steps);
      }
      for (int64_t y = 0; y < height; ++y) {
        for (int64_t x = 0; x < width; ++x) {
          const Position position{next + step, next + static_cast<int32_t>(y), next + static_cast<int32_t>(x)};
          largest = std::max({largest, position.t, position.h, position.w});
          prompt.ids.push_back(id);
          prompt.positions.push_back(position);
          prompt.layout.push_back({video ? TokenRecord::Kind::kVideo : TokenRecord::Kind::kImage,
                                   static_cast<int32_t>(item), static_cast<int32_t>(t), static_cast<int32_t>(y),
                                   static_cast<int32_t>(x)});
        }
      }
    }
    next = largest + 1;
    ++item;
  }
  if (item != media.size()) FailUsage("the prompt has places for ", item, " of ", media.size(), " media items");
  if (item > 0 && prompt.media_end == 0) prompt.media_end = static_cast<int64_t>(prompt.ids.size());
  prompt.next_position = next;
  return prompt;
}

}  // namespace purekv
