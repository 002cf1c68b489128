// The prompts of Qwen2-VL and Qwen2.5-VL: from ids with one placeholder per medium to what each token is and its M-RoPE
// position (Qwen2-VL, arXiv 2409.12191, section 2.1; time in seconds: Qwen2.5-VL, arXiv 2502.13923, section 2.1.2).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "models/family.h"
#include "models/qwen_config.h"

namespace purekv {

class QwenPrompt final : public PromptFormat {
 public:
  // Checks that tokenizer and config agree; completes the config's marker ids. Throws Error.
  static std::unique_ptr<const QwenPrompt> Read(QwenConfig config, const ModelFiles& files);
  QwenPrompt(QwenConfig config, ChatTexts texts);

  MediaMarkers Markers(bool video) const override;
  // Text advances all three axes by one. A medium's cells share the next free position as origin: t moves by
  // trunc(slice * seconds per slice * tokens_per_second) (Qwen2-VL: by slice), h and w by row and column; what follows
  // starts one behind the largest coordinate. Media are of one tile.
  PromptTokens LayOut(const std::vector<int32_t>& ids, std::span<const PreparedMedia> media,
                      int32_t next_position) const override;

 private:
  void AddMedium(const PreparedMedia& medium, int32_t item, PromptTokens* prompt) const;

  QwenConfig config_;
};

}  // namespace purekv
