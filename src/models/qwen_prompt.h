// The prompts of Qwen2-VL, Qwen2.5-VL and Qwen3-VL: from ids with one placeholder per medium to what each token is and
// its M-RoPE position (Qwen2-VL, arXiv 2409.12191, section 2.1; time in seconds: Qwen2.5-VL, arXiv 2502.13923,
// section 2.1.2; time as text: Qwen3-VL, arXiv 2511.21631).
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
  int64_t MarkerTokens(const PreparedMedia& medium) const override;
  // Text advances all three axes by one. A medium's cells share the next free position as origin: t moves by
  // trunc(slice * seconds per slice * tokens_per_second) (Qwen2-VL: by slice), h and w by row and column; what follows
  // starts one behind the largest coordinate. Media are of one tile.
  // Qwen3-VL: every slice of a video is a medium of its own as far as positions go, between markers of its own, with
  // its time as text in front: "<0.5 seconds>"; together they replace the placeholder and its markers. The text is
  // encoded by itself, and left out where there is no tokenizer.
  PromptTokens LayOut(const std::vector<int32_t>& ids, std::span<const PreparedMedia> media,
                      int32_t next_position) const override;

 private:
  void AddMedium(const PreparedMedia& medium, int32_t item, PromptTokens* prompt) const;
  // Whether a medium is written slice by slice, each with its time in front.
  bool TellsTime(bool video) const;
  void AddTimedSlices(const PreparedMedia& medium, int32_t item, PromptTokens* prompt) const;
  // Of a slice of such a video; empty without a tokenizer.
  std::vector<int32_t> TimeIds(const PreparedMedia& medium, int64_t slice) const;
  // One cell after another of slice `slice`, at next_position + (step, row, column). Returns the largest coordinate.
  int32_t AddSlice(const PreparedMedia& medium, int32_t item, int64_t slice, int32_t step, PromptTokens* prompt) const;

  QwenConfig config_;
};

}  // namespace purekv
