// How Qwen2-VL, Qwen2.5-VL and Qwen3-VL look at files: frames chosen and sized as qwen-vl-utils and transformers do,
// one tile. Qwen3-VL follows transformers unless asked otherwise: a video's limits are then of all its frames together.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "media/sampling.h"
#include "media/video.h"
#include "models/family.h"
#include "models/qwen_config.h"

namespace purekv {

// Height x width of a frame after resizing.
struct PixelLimits {
  int64_t min_pixels = 0;
  int64_t max_pixels = 0;
};

struct QwenPixelLimits {
  PixelLimits image;
  std::optional<PixelLimits> video;  // unset: qwen-vl-utils' rule
  // Of the frames chosen from a video, where the caller does not say.
  double fps = 2;
  int64_t min_frames = 4;
  int64_t max_frames = 768;
};

class QwenPreprocessor final : public Preprocessor {
 public:
  // `dir`/preprocessor_config.json and video_preprocessor_config.json; published defaults where there is none. Throws
  // Error.
  static std::unique_ptr<const QwenPreprocessor> Read(const QwenConfig& config, const std::string& dir);
  // max_positions: a medium of more tokens is refused before a pixel of it is resized.
  QwenPreprocessor(const PatchSpec& patches, const QwenPixelLimits& limits, int64_t max_positions, QwenVersion version)
      : Preprocessor(patches), limits_(limits), max_positions_(max_positions), version_(version) {}

  const QwenPixelLimits& limits() const { return limits_; }
  PreparedMedia Load(const MediaSource& source, const MediaOptions& options, int64_t images,
                     const FrameProgress& progress) const override;
  // Throws Error (kUsage) when the pixel options contradict one another.
  PreparedMedia PlanVideo(int64_t frames, int64_t height, int64_t width, const MediaOptions& options) const override;
  int64_t TokensOfGrid(const Grid& grid) const override;

 private:
  Grid GridOfSize(int64_t frames, const Size& size) const;
  // Tokens of a grid of resized frames.
  int64_t CellsOf(const Grid& grid) const;
  // Pixels of a side of what becomes one token.
  int64_t factor() const { return patches().patch_size * patches().merge_size; }
  // Whether media are sized, and frames chosen, as transformers' Qwen3-VL processors do.
  bool ByVolume(const MediaOptions& options) const;
  Size ImageSize(int64_t height, int64_t width, const MediaOptions& options) const;
  Size VideoSize(int64_t frames, int64_t height, int64_t width, const MediaOptions& options) const;
  // Limits of each frame, as qwen-vl-utils has them.
  PixelLimits FrameLimits(int64_t frames, const MediaOptions& options) const;
  // `size`, of frames resized from `path`. Throws Error naming it when they make too many tokens.
  Size Checked(const std::string& path, int64_t frames, const Size& size) const;
  FrameChoice ChooseFrom(const VideoInfo& info, const MediaSource& source, const MediaOptions& options) const;
  // All frames as one tile, and its tokens.
  void SetTile(PreparedMedia* media) const;

  QwenPixelLimits limits_;
  int64_t max_positions_;
  QwenVersion version_;
};

}  // namespace purekv
