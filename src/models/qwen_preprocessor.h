// How Qwen2-VL and Qwen2.5-VL look at files: frames chosen and sized as qwen-vl-utils and transformers do, one tile.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "media/sampling.h"
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
};

class QwenPreprocessor final : public Preprocessor {
 public:
  // `dir`/preprocessor_config.json and video_preprocessor_config.json; published defaults where there is none. Throws
  // Error.
  static std::unique_ptr<const QwenPreprocessor> Read(const QwenConfig& config, const std::string& dir);
  // max_positions: a medium of more tokens is refused before a pixel of it is resized.
  QwenPreprocessor(const PatchSpec& patches, const QwenPixelLimits& limits, int64_t max_positions)
      : Preprocessor(patches), limits_(limits), max_positions_(max_positions) {}

  const QwenPixelLimits& limits() const { return limits_; }
  PreparedMedia Load(const MediaSource& source, const MediaOptions& options,
                     const FrameProgress& progress) const override;
  // Throws Error (kUsage) when the pixel options contradict one another.
  PreparedMedia PlanVideo(int64_t frames, int64_t height, int64_t width, const MediaOptions& options) const override;
  int64_t TokensOfGrid(const Grid& grid) const override;

 private:
  Grid GridOfSize(int64_t frames, const Size& size) const;
  // Tokens of a grid of resized frames.
  int64_t CellsOf(const Grid& grid) const;
  Size ResizeTo(int64_t height, int64_t width, const PixelLimits& limits) const;
  // Resized dimensions of one medium. Throws Error naming `path` when the size is impossible or makes too many tokens.
  Size ResizedSize(const std::string& path, int64_t frames, int64_t height, int64_t width,
                   const PixelLimits& limits) const;
  // All frames as one tile, and its tokens.
  void SetTile(PreparedMedia* media) const;

  QwenPixelLimits limits_;
  int64_t max_positions_;
};

}  // namespace purekv
