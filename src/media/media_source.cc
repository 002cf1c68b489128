#include <memory>
#include <utility>

#include "purekv/media.h"

namespace purekv {

MediaSource MediaSource::Of(Frames frames, std::optional<double> fps) {
  MediaSource source;
  source.kind = Kind::kFrames;
  source.path = "frames in memory";
  source.frames = std::make_shared<const Frames>(std::move(frames));
  source.fps = fps;
  return source;
}

}  // namespace purekv
