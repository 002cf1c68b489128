// config.json of Qwen2-VL, Qwen2.5-VL and Qwen3-VL, as published and as later transformers versions re-save it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/json.h"
#include "kernels/elementwise.h"
#include "models/decoder.h"

namespace purekv {

enum class QwenVersion { kQwen2, kQwen2_5, kQwen3 };

struct QwenVisionConfig {
  QwenVersion version = QwenVersion::kQwen2_5;
  int64_t depth = 0;
  int64_t hidden = 0;
  int64_t heads = 0;
  int64_t intermediate = 0;
  int64_t out_hidden = 0;
  int64_t patch_size = 14;
  int64_t temporal_patch_size = 2;
  int64_t merge_size = 2;
  int64_t window_size = 0;              // pixels; 0: every block attends over its whole slice
  std::vector<int64_t> full_attention;  // blocks that attend over the whole slice
  bool layer_norms = false;             // norms are LayerNorm, with a bias; else RMSNorm
  bool gated = true;                    // the feed-forward has a gate; else two layers with `activation` between them
  Activation activation = Activation::kSilu;
  bool patch_bias = false;
  int64_t position_side = 0;     // of the square table of learned positions; 0: there is none
  std::vector<int64_t> taps;     // blocks whose output the connector takes, too, ascending (Qwen3-VL)
  double tokens_per_second = 0;  // position steps per second; 0: one step per slice (Qwen2-VL), or no time (Qwen3-VL)
  int64_t head_dim() const { return hidden / heads; }
  int64_t patch_values() const { return 3 * temporal_patch_size * patch_size * patch_size; }
};

struct QwenConfig {
  DecoderConfig decoder;
  QwenVisionConfig vision;
  std::optional<bool> tied;  // as the file says, if it says
  int32_t image_id = 0, video_id = 0;
  std::optional<int32_t> vision_start_id, vision_end_id;
  std::vector<int32_t> eos_ids;
  double rope_theta = 0;
  std::vector<int64_t> sections;
};

// Checks every value it uses and refuses what is not implemented by name. Throws Error naming `path` and the field.
QwenConfig ParseQwenConfig(const Json& root, QwenVersion version, const std::string& path);

}  // namespace purekv
