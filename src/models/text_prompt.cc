#include "models/text_prompt.h"

namespace purekv {

PromptTokens TextPrompt::LayOut(const std::vector<int32_t>& ids, std::span<const PreparedMedia> media,
                                int32_t next_position) const {
  if (!media.empty()) RefuseMedia(Say(media.front().path));
  PromptTokens prompt;
  prompt.next_position = next_position;
  for (const int32_t id : ids) prompt.AddText(id);
  return prompt;
}

}  // namespace purekv
