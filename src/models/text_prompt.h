// The prompt of a family that reads text alone: a token, a position.
#pragma once

#include "models/family.h"

namespace purekv {

class TextPrompt final : public PromptFormat {
 public:
  using PromptFormat::PromptFormat;

  MediaMarkers Markers(bool) const override { return {}; }
  PromptTokens LayOut(const std::vector<int32_t>& ids, std::span<const PreparedMedia> media,
                      int32_t next_position) const override;
};

}  // namespace purekv
