// How families look at files that cut a large image into tiles of the tower's size, as many as its shape and a limit
// say, the whole image once more behind them (InternVL, arXiv 2404.16821); the frames of a video are a tile each.
#pragma once

#include <cstdint>
#include <vector>

#include "models/family.h"
#include "models/fixed_preprocessor.h"

namespace purekv {

constexpr int64_t kMostTiles = 64;  // of an image, whatever a file says

struct TilingConfig {
  int64_t side = 0;              // pixels of a tile's
  int64_t least = 1, most = 12;  // tiles of an image
  bool thumbnail = true;         // where there are several, the whole image is one more, the last
};

class TiledPreprocessor final : public Preprocessor {
 public:
  // `pictures` says how frames of videos are looked at.
  TiledPreprocessor(const TilingConfig& tiling, FixedPreprocessorConfig pictures);

  PreparedMedia Load(const MediaSource& source, const MediaOptions& options, int64_t images,
                     const FrameProgress& progress) const override;
  PreparedMedia PlanVideo(int64_t frames, int64_t height, int64_t width, const MediaOptions& options) const override {
    return videos_.PlanVideo(frames, height, width, options);
  }
  int64_t TokensOfGrid(const Grid& grid) const override { return videos_.TokensOfGrid(grid); }
  Grid SmallestGrid() const override { return videos_.SmallestGrid(); }
  Message FewerTokens() const override { return videos_.FewerTokens(); }
  // Which `count` frames of a video are looked at.
  std::vector<int64_t> FramesOf(FrameRange range, int64_t count) const { return pictures_.rule(range, count); }

 private:
  TilingConfig tiling_;
  FixedPreprocessorConfig pictures_;
  FixedPreprocessor videos_;
};

}  // namespace purekv
