#include "models/qwen_preprocessor.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/json.h"
#include "media/frame_stream.h"
#include "media/resize.h"
#include "media/sampling.h"
#include "media/video.h"

namespace purekv {
namespace {

// Constants of qwen-vl-utils, in pixels at patch 14, merge 2.
constexpr double kFps = 2.0;
constexpr int64_t kFrameFactor = 2;
constexpr int64_t kMinFrames = 4;
constexpr int64_t kMaxFrames = 768;
constexpr int64_t kVideoMinPixels = 128 * 28 * 28;
constexpr int64_t kVideoMaxPixels = 768 * 28 * 28;
constexpr double kVideoTotalPixels = 90316800;  // int(128000 * 28 * 28 * 0.9)

constexpr int64_t kMaxPixelCount = int64_t{1} << 31;  // in files

// What the caller asks for overrides the directory's limits; a limit that the caller did not name gives way to one that
// was.
PixelLimits Override(PixelLimits limits, const MediaOptions& options) {
  if (options.min_pixels) limits.min_pixels = *options.min_pixels;
  if (options.max_pixels) limits.max_pixels = *options.max_pixels;
  if (limits.min_pixels > limits.max_pixels) {
    // A minimum next to the maximum would be rounded up beyond it, so a smaller maximum takes the minimum away.
    (options.max_pixels ? limits.min_pixels : limits.max_pixels) = options.max_pixels ? 1 : limits.min_pixels;
  }
  return limits;
}

PixelLimits VideoLimits(const QwenPixelLimits& limits_of, int64_t frames, const MediaOptions& options) {
  PixelLimits limits;
  if (limits_of.video) return Override(*limits_of.video, options);
  limits.min_pixels = options.min_pixels.value_or(kVideoMinPixels);
  const double per_frame = kVideoTotalPixels / static_cast<double>(frames) * kFrameFactor;
  limits.max_pixels = std::max(static_cast<int64_t>(std::min(static_cast<double>(kVideoMaxPixels), per_frame)),
                               static_cast<int64_t>(static_cast<double>(limits.min_pixels) * 1.05));
  if (options.max_pixels) limits.max_pixels = std::min(limits.max_pixels, *options.max_pixels);  // it can only lower
  // qwen-vl-utils stops here with an assertion; a caller who names only the smaller maximum means it.
  if (limits.min_pixels > limits.max_pixels) limits.min_pixels = 1;
  return limits;
}

Frames ResizePicture(Frames picture, const Size& size) {
  if (picture.height == size.height && picture.width == size.width) return picture;
  Frames out{1, size.height, size.width, {}};
  out.rgb.resize(static_cast<size_t>(size.height * size.width * 3));
  ResizePillow(picture.rgb.data(), picture.height, picture.width, out.rgb.data(), size.height, size.width);
  return out;
}

PixelLimits ReadLimits(const JsonFields& fields, const PixelLimits& fallback) {
  PixelLimits limits = fallback;
  if (fields.Has("size")) {  // re-saved files: these hold the pixel counts
    const JsonFields size = fields.Object("size");
    limits.min_pixels = size.Int("shortest_edge", 1, kMaxPixelCount, limits.min_pixels);
    limits.max_pixels = size.Int("longest_edge", 1, kMaxPixelCount, limits.max_pixels);
  }
  limits.min_pixels = fields.Int("min_pixels", 1, kMaxPixelCount, limits.min_pixels);
  limits.max_pixels = fields.Int("max_pixels", 1, kMaxPixelCount, limits.max_pixels);
  if (limits.min_pixels > limits.max_pixels) {
    Fail(fields.where(), ": min_pixels ", limits.min_pixels, " exceeds max_pixels ", limits.max_pixels);
  }
  return limits;
}

void CheckEqual(const JsonFields& fields, const char* key, int64_t expected) {
  if (const int64_t value = fields.Int(key, 1, 1 << 16, expected); value != expected) {
    Fail(fields.where(), ": ", key, " ", value, " contradicts config.json's ", expected);
  }
}

void ReadMeanStd(const JsonFields& fields, PatchSpec& patches) {
  for (const auto& [key, target] : {std::pair{"image_mean", &patches.mean}, std::pair{"image_std", &patches.std}}) {
    if (!fields.Has(key)) continue;
    const std::vector<double> values = fields.Numbers(key, -1e3, 1e3);
    if (values.size() != 3) Fail(fields.where(), ": ", key, " has ", values.size(), " values; 3 are needed");
    for (size_t c = 0; c < 3; ++c) (*target)[c] = static_cast<float>(values[c]);
  }
  for (const float value : patches.std) {
    if (value <= 0) Fail(fields.where(), ": image_std must be positive, got ", value);
  }
}

// The steps of the published processor are built in; a file that leaves one out or does it differently is refused.
void CheckSteps(const JsonFields& fields) {
  for (const char* key : {"do_resize", "do_rescale", "do_normalize", "do_convert_rgb"}) {
    if (!fields.Bool(key, true)) Fail(fields.where(), ": ", key, " false is not supported; true is");
  }
  constexpr double kRescale = 1.0 / 255;
  if (const double factor = fields.Number("rescale_factor", 0, 1e3, kRescale); std::abs(factor - kRescale) > 1e-6) {
    Fail(fields.where(), ": rescale_factor ", factor, " is not supported; 1/255 is");
  }
  constexpr int64_t kBicubic = 3;
  if (const int64_t filter = fields.Int("resample", 0, 100, kBicubic); filter != kBicubic) {
    Fail(fields.where(), ": resample ", filter, " is not supported; 3 (bicubic) is");
  }
}

}  // namespace

std::unique_ptr<const QwenPreprocessor> QwenPreprocessor::Read(const QwenConfig& config, const std::string& dir) {
  const QwenVisionConfig& vision = config.vision;
  QwenPixelLimits limits;
  PatchSpec patches;
  patches.patch_size = vision.patch_size;
  patches.temporal_patch_size = vision.temporal_patch_size;
  patches.merge_size = vision.merge_size;
  // CLIP's constants, and the limits of the published preprocessor_config.json.
  patches.mean = {0.48145466F, 0.4578275F, 0.40821073F};
  patches.std = {0.26862954F, 0.26130258F, 0.27577711F};
  limits.image = {4 * 28 * 28, 16384 * 28 * 28};
  const auto check = [&](const JsonFields& fields) {
    CheckEqual(fields, "patch_size", vision.patch_size);
    CheckEqual(fields, "temporal_patch_size", vision.temporal_patch_size);
    CheckEqual(fields, "merge_size", vision.merge_size);
    CheckSteps(fields);
  };
  if (const std::string path = JoinPath(dir, "preprocessor_config.json"); !dir.empty() && FileExists(path)) {
    const Json json = ReadJson(path);
    const JsonFields fields(json, path);
    check(fields);
    ReadMeanStd(fields, patches);
    limits.image = ReadLimits(fields, limits.image);
  }
  if (const std::string path = JoinPath(dir, "video_preprocessor_config.json"); !dir.empty() && FileExists(path)) {
    const Json json = ReadJson(path);
    const JsonFields fields(json, path);
    check(fields);
    limits.video = ReadLimits(fields, {128 * 28 * 28, 768 * 28 * 28});
  }
  return std::make_unique<const QwenPreprocessor>(patches, limits, config.decoder.max_positions);
}

Grid QwenPreprocessor::GridOfSize(int64_t frames, const Size& size) const {
  const int64_t temporal = patches().temporal_patch_size;
  return {(frames + temporal - 1) / temporal, size.height / patches().patch_size, size.width / patches().patch_size};
}

int64_t QwenPreprocessor::CellsOf(const Grid& grid) const {
  return grid.patches() / (patches().merge_size * patches().merge_size);
}

Size QwenPreprocessor::ResizeTo(int64_t height, int64_t width, const PixelLimits& limits) const {
  return SmartResize(height, width, patches().patch_size * patches().merge_size, limits.min_pixels, limits.max_pixels);
}

void QwenPreprocessor::SetTile(PreparedMedia* media) const {
  const Grid grid = GridOfSize(media->frames.count, {media->frames.height, media->frames.width});
  media->tiles = {{{0, media->frames.count}, grid}};
  media->tokens = CellsOf(grid);
}

Size QwenPreprocessor::ResizedSize(const std::string& path, int64_t frames, int64_t height, int64_t width,
                                   const PixelLimits& limits) const {
  Size size;
  try {
    size = ResizeTo(height, width, limits);
  } catch (const Error& error) {
    throw Error(error.kind(), Say(path, ": ", error));
  }
  // Known before a pixel is resized: such a prompt would be refused later anyway, after taking any amount of memory.
  const int64_t tokens = CellsOf(GridOfSize(frames, size));
  if (tokens > max_positions_) {
    Fail(path, ": ", frames, " frames of ", size.height, " x ", size.width, " pixels make ", tokens,
         " tokens; the model takes at most ", max_positions_, " (config.json: max_position_embeddings); fewer frames (",
         Field{"media.max_frames"}, ", ", Field{"media.fps"}, ") or pixels (", Field{"media.max_pixels"}, ") help");
  }
  return size;
}

PreparedMedia QwenPreprocessor::Load(const MediaSource& source, const MediaOptions& options,
                                     const FrameProgress& progress) const {
  CheckMediaOptions(options);
  PreparedMedia media;
  media.kind = source.kind;
  media.path = source.path;
  if (source.kind == MediaSource::Kind::kImage) {
    const PixelLimits limits = Override(limits_.image, options);
    Frames image = ReadImage(source.path);
    const Size size = ResizedSize(source.path, 1, image.height, image.width, limits);
    media.source = StreamOf(ResizePicture(std::move(image), size));
    media.sample_fps = 0;
  } else if (source.kind == MediaSource::Kind::kFrames) {
    const auto choose = [&](int64_t count, int64_t height, int64_t width) {
      return ResizedSize(source.path, count, height, width, VideoLimits(limits_, count, options));
    };
    media.source = source.frames ? StreamFrames(source.frames, source.path, ResizeTorchvision, choose)
                                 : StreamNpy(source.path, ResizeTorchvision, choose);
    media.sample_fps = source.fps.value_or(options.fps.value_or(kFps));
  } else {
    auto video = std::make_unique<VideoReader>(source.path);
    const VideoInfo info = video->info();
    const FrameRange range = FramesBetween(info.frames, info.fps, source.start, source.end, kFrameFactor, source.path);
    FrameChoice choice =
        ChooseFrames(range, info.fps, options.fps.value_or(kFps), kMinFrames, options.max_frames.value_or(kMaxFrames),
                     kFrameFactor, options.sampling, source.path);
    const auto count = static_cast<int64_t>(choice.indices.size());
    const Size size =
        ResizedSize(source.path, count, info.size.height, info.size.width, VideoLimits(limits_, count, options));
    media.source = StreamVideo(std::move(video), std::move(choice.indices), size, progress);
    media.sample_fps = choice.sample_fps;
  }
  media.frames = {media.source->count(), media.source->size().height, media.source->size().width};
  SetTile(&media);
  return media;
}

PreparedMedia QwenPreprocessor::PlanVideo(int64_t frames, int64_t height, int64_t width,
                                          const MediaOptions& options) const {
  CheckMediaOptions(options);
  const Size size = ResizeTo(height, width, VideoLimits(limits_, frames, options));
  PreparedMedia media;
  media.kind = MediaSource::Kind::kFrames;
  media.frames = {frames, size.height, size.width};
  media.sample_fps = options.fps.value_or(kFps);
  SetTile(&media);
  return media;
}

int64_t QwenPreprocessor::TokensOfGrid(const Grid& grid) const {
  return MergedTokens(grid, patches().merge_size);
}

}  // namespace purekv
