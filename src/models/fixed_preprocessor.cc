#include "models/fixed_preprocessor.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "media/frame_stream.h"
#include "media/video.h"
#include "models/preprocessor_fields.h"

namespace purekv {
namespace {

constexpr double kFps = 2.0;  // of decoded frames, where nobody says it
constexpr int64_t kMaxSide = 1 << 14;

// "size" and "crop_size" as files have them: a number, or an object of these keys. 0: not there.
int64_t SideOf(const JsonFields& fields, const char* key, std::initializer_list<const char*> sides) {
  if (!fields.Has(key)) return 0;
  if (!fields.raw().at(key).is_object()) return fields.Int(key, 1, kMaxSide);
  const JsonFields size = fields.Object(key);
  int64_t side = 0;
  for (const char* one : sides) {
    const int64_t value = size.Int(one, 1, kMaxSide);
    if (side != 0 && value != side) {
      Fail(size.where(), ": ", one, " ", value, " is not supported beside ", side, "; a square is");
    }
    side = value;
  }
  return side;
}

void NeedSide(const JsonFields& fields, const char* key, int64_t side, int64_t image_size) {
  if (side != image_size) {
    Fail(fields.where(), ": ", key, " ", side, " is not supported; config.json's image_size ", image_size, " is");
  }
}

// What a file says of the steps before the patches.
void ReadFraming(const JsonFields& fields, int64_t image_size, Framing* framing) {
  const bool by_short_side = fields.Has("size") && fields.raw().at("size").is_object()
                                 ? fields.Object("size").Has("shortest_edge")
                                 : framing->short_side;
  const bool crops = fields.Bool("do_center_crop", by_short_side);
  const int64_t side =
      by_short_side ? SideOf(fields, "size", {"shortest_edge"}) : SideOf(fields, "size", {"height", "width"});
  if (side != 0) framing->resized = {side, side};
  framing->short_side = by_short_side;
  if (!by_short_side) {
    if (crops) Fail(fields.where(), ": do_center_crop true is not supported beside a size of height and width");
    return NeedSide(fields, "size", framing->resized.height, image_size);
  }
  if (!crops) Fail(fields.where(), ": do_center_crop false is not supported beside a size of shortest_edge");
  const int64_t crop = SideOf(fields, "crop_size", {"height", "width"});
  if (crop != 0) framing->taken = {crop, crop};
  NeedSide(fields, "crop_size", framing->taken.height, image_size);
  if (framing->taken.height > framing->resized.height) {
    Fail(fields.where(), ": crop_size ", framing->taken.height, " exceeds the shortest edge ", framing->resized.height);
  }
}

}  // namespace

PictureSpec ReadPictureSpec(const VitConfig& vision, const std::string& dir, bool pad) {
  PictureSpec spec;
  spec.patches = vision.patch_spec();
  Framing& framing = spec.framing;
  framing.resized = framing.taken = {vision.image_size, vision.image_size};
  framing.size = {vision.side() * vision.patch_size, vision.side() * vision.patch_size};
  if (vision.class_token) {  // CLIP
    framing.short_side = true;
    spec.patches.mean = {0.48145466F, 0.4578275F, 0.40821073F};
    spec.patches.std = {0.26862954F, 0.26130258F, 0.27577711F};
  } else {
    spec.patches.mean = spec.patches.std = {0.5F, 0.5F, 0.5F};
  }
  if (const std::string path = JoinPath(dir, "preprocessor_config.json"); !dir.empty() && FileExists(path)) {
    const Json json = ReadJson(path);
    const JsonFields fields(json, path);
    CheckSteps(fields);
    CheckEqual(fields, "patch_size", vision.patch_size);
    ReadMeanStd(fields, spec.patches);
    ReadFraming(fields, vision.image_size, &framing);
    pad = pad || fields.Bool("do_pad", false);
  }
  if (pad) {
    std::array<uint8_t, 3>& colour = framing.square.emplace();
    for (size_t c = 0; c < 3; ++c) {
      const auto value = static_cast<int64_t>(static_cast<double>(spec.patches.mean[c]) * 255);
      colour[c] = static_cast<uint8_t>(std::clamp<int64_t>(value, 0, 255));
    }
  }
  return spec;
}

FixedPreprocessor::FixedPreprocessor(FixedPreprocessorConfig config)
    : Preprocessor(config.pictures.patches), config_(std::move(config)) {}

void FixedPreprocessor::NeedVideos(const std::string& path) const {
  if (config_.frames > 0) return;
  FailUsage(path, ": this model sees images, no videos; give frames of it as images (", Field{"media.kind.image"},
            "), one by one");
}

void FixedPreprocessor::CheckOptions(const MediaOptions& options) const {
  CheckMediaOptions(options);
  if (options.sampling && options.sampling != FrameSampling::kEven) {
    FailUsage(Field{"media.sampling"},
              ": this model's frames are chosen in its own way, or evenly; its pictures have one size");
  }
  for (const auto& [field, value] : {std::pair{Field{"media.min_pixels"}, options.min_pixels},
                                     std::pair{Field{"media.max_pixels"}, options.max_pixels}}) {
    if (!value) continue;
    FailUsage(field, ": this model sees every picture at ", config_.pictures.framing.resized.height, " x ",
              config_.pictures.framing.resized.width, " pixels");
  }
}

int64_t FixedPreprocessor::FrameCount(const MediaOptions& options) const {
  const int64_t frames = options.max_frames.value_or(config_.frames);
  if (frames < SmallestGrid().t || frames > config_.most_frames) {
    FailUsage(Field{"media.max_frames"}, " ", frames, ": out of range ", SmallestGrid().t, " .. ", config_.most_frames,
              " for this model, which looks at so many frames of a video, whatever its length");
  }
  return frames;
}

Grid FixedPreprocessor::GridOfFrames(int64_t frames) const {
  const Size& size = config_.pictures.framing.size;
  return {frames, size.height / patches().patch_size, size.width / patches().patch_size};
}

void FixedPreprocessor::SetTile(int64_t shown, PreparedMedia* media) const {
  media->tiles = {{{0, media->frames.count}, GridOfFrames(shown)}};
  media->tokens = config_.cells(GridOfFrames(shown), media->is_video()).patches();
}

PreparedMedia FixedPreprocessor::Load(const MediaSource& source, const MediaOptions& options, int64_t,
                                      const FrameProgress& progress) const {
  CheckOptions(options);
  const Framing& framing = config_.pictures.framing;
  PreparedMedia media;
  media.kind = source.kind;
  media.path = source.path;
  int64_t shown = 0;
  if (source.kind == MediaSource::Kind::kImage) {
    const Frames image = ReadImage(source.path);
    framing.Check(source.path, image.height, image.width);
    Frames framed{1, framing.size.height, framing.size.width, {}};
    framed.rgb.resize(static_cast<size_t>(framed.height * framed.width * 3));
    framing.Apply(image.rgb.data(), image.height, image.width, framed.rgb.data(), 0);
    media.source = StreamOf(std::move(framed));
    media.sample_fps = 0;
    shown = config_.frames > 0 ? FrameCount(options) : 1;
  } else if (source.kind == MediaSource::Kind::kFrames) {
    NeedVideos(source.path);
    const auto choose = [&](int64_t count, int64_t height, int64_t width) {
      framing.Check(source.path, height, width);
      if (count > config_.most_frames) {
        FailUsage(source.path, ": ", count, " frames; this model looks at ", config_.most_frames, " at most");
      }
      return FrameUse(framing.size, config_.pads ? config_.frames : 0);
    };
    media.source = StreamSampled(source, ResizerOf(framing), choose);
    media.sample_fps = source.fps.value_or(options.fps.value_or(kFps));
    shown = media.source->count();
  } else {
    NeedVideos(source.path);
    if (options.fps) {
      FailUsage(Field{"media.fps"}, ": this model looks at a number of frames (", Field{"media.max_frames"},
                "), whatever the length of a video");
    }
    const int64_t wanted = FrameCount(options);
    auto video = std::make_unique<VideoReader>(source.path);
    const VideoInfo info = video->info();
    framing.Check(source.path, info.size.height, info.size.width);
    const FrameRange range = FramesBetween(info.frames, info.fps, source.start, source.end, 1, source.path);
    const bool even = options.sampling == FrameSampling::kEven;
    std::vector<int64_t> indices = even ? EvenFrames(range, wanted) : config_.rule(range, wanted);
    const auto count = static_cast<int64_t>(indices.size());
    if (count < SmallestGrid().t) {
      Fail(source.path, ": has ", count, " frame(s); the model needs at least ", SmallestGrid().t);
    }
    media.sample_fps = static_cast<double>(count) / static_cast<double>(range.count) * info.fps;
    media.source = StreamVideo(std::move(video), std::move(indices), framing.size, progress, ResizerOf(framing));
    shown = count;
  }
  media.frames = {media.source->count(), framing.size.height, framing.size.width};
  SetTile(shown, &media);
  return media;
}

PreparedMedia FixedPreprocessor::PlanVideo(int64_t frames, int64_t height, int64_t width,
                                           const MediaOptions& options) const {
  NeedVideos("video");
  CheckOptions(options);
  config_.pictures.framing.Check("video", height, width);
  if (frames > config_.most_frames || frames < SmallestGrid().t) {
    FailUsage("a video of ", frames, " frames: this model looks at ", SmallestGrid().t, " to ", config_.most_frames);
  }
  PreparedMedia media;
  media.kind = MediaSource::Kind::kFrames;
  media.frames = {frames, config_.pictures.framing.size.height, config_.pictures.framing.size.width};
  media.sample_fps = options.fps.value_or(kFps);
  SetTile(frames, &media);
  return media;
}

int64_t FixedPreprocessor::TokensOfGrid(const Grid& grid) const {
  const Grid one = GridOfFrames(1);
  constexpr int64_t kMost = 1 << 20;
  const int64_t least = SmallestGrid().t;
  if (grid.h != one.h || grid.w != one.w || grid.t < least || grid.t > kMost) {
    FailUsage("a grid of ", grid.t, "x", grid.h, "x", grid.w, " patches: this model sees ", one.h, "x", one.w,
              " in each of ", least, " to ", kMost, " frames");
  }
  return config_.cells(grid, config_.frames > 0).patches();
}

Grid FixedPreprocessor::SmallestGrid() const {
  for (int64_t frames = 1;; ++frames) {
    if (config_.cells(GridOfFrames(frames), config_.frames > 0).patches() > 0) return GridOfFrames(frames);
    PUREKV_CHECK(frames < 16, "frames without tokens");
  }
}

Message FixedPreprocessor::FewerTokens() const {
  return config_.frames > 0 ? Say("fewer frames (", Field{"media.max_frames"}, ") help") : Say("fewer images help");
}

}  // namespace purekv
