// From ids with one placeholder per medium to the prompt's tokens: what each is, and its M-RoPE position (Qwen2-VL,
// arXiv 2409.12191, section 2.1; time in seconds: Qwen2.5-VL, arXiv 2502.13923, section 2.1.2).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "models/qwen_config.h"
#include "models/vision_language_model.h"

namespace purekv {

// Text advances all three axes by one. A medium's cells share the next free position as origin: t moves by
// trunc(slice * seconds per slice * tokens_per_second) (Qwen2-VL: by slice), h and w by row and column; what follows
// starts one behind the largest coordinate. Throws Error (kUsage) when placeholders and media do not match.
PromptTokens LayOutQwen(const QwenConfig& config, const std::vector<int32_t>& ids, std::span<const PreparedMedia> media,
                        int32_t next_position);

}  // namespace purekv
