// How families whose tower sees pictures of one size look at files: every picture laid on a square, resized and cut as
// CLIP's, SigLIP's or LLaVA's image processor does (media/framing.h); images alone, or videos of a fixed number of
// frames.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "media/framing.h"
#include "models/family.h"
#include "models/vit_config.h"

namespace purekv {

// Framing, and means and deviations of the patches.
struct PictureSpec {
  Framing framing;
  PatchSpec patches;
};

// As `dir`/preprocessor_config.json says; where it is not there as the tower's published processor does it. pad:
// config.json asks for pictures laid on a square ("image_aspect_ratio"). Throws Error naming file and field.
PictureSpec ReadPictureSpec(const VitConfig& vision, const std::string& dir, bool pad);

// Which frames of a video: `count` of the frames of `range`, ascending, which may repeat.
using FrameRule = std::vector<int64_t> (*)(FrameRange range, int64_t count);

struct FixedPreprocessorConfig {
  PictureSpec pictures;
  CellsOfPatches cells;
  // Frames of a video; 0: the family sees images alone. An image is a video of so many equal frames.
  int64_t frames = 0;
  int64_t most_frames = 0;  // that can be asked for
  bool pads = true;         // decoded frames that are fewer than `frames` are followed by black ones
  FrameRule rule = nullptr;
};

class FixedPreprocessor final : public Preprocessor {
 public:
  explicit FixedPreprocessor(FixedPreprocessorConfig config);

  // Throws Error (kUsage) for videos where there are no frames, and for options that cannot take effect.
  PreparedMedia Load(const MediaSource& source, const MediaOptions& options, int64_t images,
                     const FrameProgress& progress) const override;
  PreparedMedia PlanVideo(int64_t frames, int64_t height, int64_t width, const MediaOptions& options) const override;
  int64_t TokensOfGrid(const Grid& grid) const override;
  Grid SmallestGrid() const override;
  Message FewerTokens() const override;
  // Throws Error (kUsage) for options that cannot take effect.
  void CheckOptions(const MediaOptions& options) const;

 private:
  // Throws Error (kUsage) naming `path` where the family sees no videos.
  void NeedVideos(const std::string& path) const;
  int64_t FrameCount(const MediaOptions& options) const;
  Grid GridOfFrames(int64_t frames) const;
  // shown: frames that are looked at, of which the source has `frames` alone where an image is repeated.
  void SetTile(int64_t shown, PreparedMedia* media) const;

  FixedPreprocessorConfig config_;
};

}  // namespace purekv
