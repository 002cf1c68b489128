// How LLaVA-OneVision looks at files (arXiv 2408.03326): an image that is alone in its prompt is scaled into one of a
// list of canvases, which is cut into tiles of the tower's size, the whole image as one more before them; of several
// images each is laid on a square; the frames of a video are a tile each.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "models/family.h"
#include "models/fixed_preprocessor.h"

namespace purekv {

struct AnyresConfig {
  std::vector<Size> canvases;  // whose sides are whole tiles
  // The map of an image's tiles is scaled down to the patches of about so many.
  int64_t most_tiles = 0;
};

class AnyresPreprocessor final : public Preprocessor {
 public:
  // `pictures` says how one of several images is looked at, `videos` how frames are.
  AnyresPreprocessor(AnyresConfig anyres, const PictureSpec& pictures, FixedPreprocessorConfig videos);

  PreparedMedia Load(const MediaSource& source, const MediaOptions& options, int64_t images,
                     const FrameProgress& progress) const override;
  PreparedMedia PlanVideo(int64_t frames, int64_t height, int64_t width, const MediaOptions& options) const override {
    return videos_.PlanVideo(frames, height, width, options);
  }
  int64_t TokensOfGrid(const Grid& grid) const override { return videos_.TokensOfGrid(grid); }
  int64_t TokensOf(const PreparedMedia& medium) const override;
  Grid SmallestGrid() const override { return videos_.SmallestGrid(); }
  Message FewerTokens() const override;
  // What becomes of an image that is alone. Throws Error naming `path` where nothing of it is left.
  Mosaic MosaicOf(const Size& image, const std::string& path) const;

 private:
  // Patches of a tile's side.
  int64_t side() const { return pictures_.framing.size.height / patches().patch_size; }

  AnyresConfig anyres_;
  PictureSpec pictures_;
  FixedPreprocessor videos_;
};

}  // namespace purekv
