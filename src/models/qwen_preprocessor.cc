#include "models/qwen_preprocessor.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/json.h"
#include "media/frame_stream.h"
#include "media/resize.h"
#include "media/sampling.h"
#include "media/video.h"
#include "models/preprocessor_fields.h"

namespace purekv {
namespace {

constexpr double kFps = 2.0;  // of frames whose rate nobody says
constexpr int64_t kFrameFactor = 2;
// qwen-vl-utils' limits in tokens, of each frame and of a video's all.
constexpr int64_t kMinFrameTokens = 128;
constexpr int64_t kMaxFrameTokens = 768;
constexpr double kVideoTokens = 128000 * 0.9;
constexpr PixelLimits kImageTokens = {4, 16384};

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

// size_of(), and what it throws with the file in front.
Size Naming(const std::string& path, const auto& size_of) {
  try {
    return size_of();
  } catch (const Error& error) {
    throw Error(error.kind(), Say(path, ": ", error));
  }
}

void ReadFrameCounts(const JsonFields& fields, QwenPixelLimits* limits) {
  if (!fields.Bool("do_sample_frames", true)) {
    Fail(fields.where(), ": do_sample_frames false is not supported; true is");
  }
  if (fields.Has("num_frames")) Fail(fields.where(), ": num_frames is not supported; fps is");
  limits->fps = fields.Number("fps", 1e-3, 1000, limits->fps);
  limits->min_frames = fields.Int("min_frames", 1, 1 << 20, limits->min_frames);
  limits->max_frames = fields.Int("max_frames", kFrameFactor, 1 << 20, limits->max_frames);
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
  limits.image = {kImageTokens.min_pixels * 28 * 28, kImageTokens.max_pixels * 28 * 28};
  const bool qwen3 = config.vision.version == QwenVersion::kQwen3;
  PixelLimits video_limits = {kMinFrameTokens * 28 * 28, kMaxFrameTokens * 28 * 28};
  if (qwen3) {
    patches.mean = patches.std = {0.5F, 0.5F, 0.5F};
    limits.image = {65536, 16777216};
    limits.video = video_limits = {4096, 25165824};  // of all frames
  }
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
    limits.video = ReadLimits(fields, video_limits);
    if (qwen3) ReadFrameCounts(fields, &limits);
  }
  return std::make_unique<const QwenPreprocessor>(patches, limits, config.decoder.max_positions, vision.version);
}

Grid QwenPreprocessor::GridOfSize(int64_t frames, const Size& size) const {
  const int64_t temporal = patches().temporal_patch_size;
  return {(frames + temporal - 1) / temporal, size.height / patches().patch_size, size.width / patches().patch_size};
}

int64_t QwenPreprocessor::CellsOf(const Grid& grid) const {
  return grid.patches() / (patches().merge_size * patches().merge_size);
}

bool QwenPreprocessor::ByVolume(const MediaOptions& options) const {
  return version_ == QwenVersion::kQwen3 && options.sampling != FrameSampling::kQwenVlUtils;
}

Size QwenPreprocessor::ImageSize(int64_t height, int64_t width, const MediaOptions& options) const {
  PixelLimits limits = limits_.image;
  if (version_ == QwenVersion::kQwen3 && !ByVolume(options)) {
    const int64_t token = factor() * factor();
    limits = {kImageTokens.min_pixels * token, kImageTokens.max_pixels * token};
  }
  limits = Override(limits, options);
  return SmartResize(height, width, factor(), limits.min_pixels, limits.max_pixels);
}

PixelLimits QwenPreprocessor::FrameLimits(int64_t frames, const MediaOptions& options) const {
  if (limits_.video && version_ != QwenVersion::kQwen3) return Override(*limits_.video, options);
  const int64_t token = factor() * factor();
  PixelLimits limits;
  limits.min_pixels = options.min_pixels.value_or(kMinFrameTokens * token);
  const double per_frame =
      std::trunc(kVideoTokens * static_cast<double>(token)) / static_cast<double>(frames) * kFrameFactor;
  limits.max_pixels = std::max(static_cast<int64_t>(std::min(static_cast<double>(kMaxFrameTokens * token), per_frame)),
                               static_cast<int64_t>(static_cast<double>(limits.min_pixels) * 1.05));
  if (options.max_pixels) limits.max_pixels = std::min(limits.max_pixels, *options.max_pixels);  // it can only lower
  // qwen-vl-utils stops here with an assertion; a caller who names only the smaller maximum means it.
  if (limits.min_pixels > limits.max_pixels) limits.min_pixels = 1;
  return limits;
}

Size QwenPreprocessor::VideoSize(int64_t frames, int64_t height, int64_t width, const MediaOptions& options) const {
  if (!ByVolume(options)) {
    const PixelLimits limits = FrameLimits(frames, options);
    return SmartResize(height, width, factor(), limits.min_pixels, limits.max_pixels);
  }
  Size size = SmartResizeVolume(frames, height, width, patches().temporal_patch_size, factor(),
                                limits_.video->min_pixels, limits_.video->max_pixels);
  // What the caller asks for is of each frame, whatever the family.
  if (options.max_pixels && size.height * size.width > *options.max_pixels) {
    size = SmartResize(height, width, factor(), 1, *options.max_pixels);
  } else if (options.min_pixels && size.height * size.width < *options.min_pixels) {
    size = SmartResize(height, width, factor(), *options.min_pixels, std::max(kMaxPixelCount, *options.min_pixels));
  }
  return size;
}

void QwenPreprocessor::SetTile(PreparedMedia* media) const {
  const Grid grid = GridOfSize(media->frames.count, {media->frames.height, media->frames.width});
  media->tiles = {{{0, media->frames.count}, grid}};
  media->tokens = CellsOf(grid);
}

Size QwenPreprocessor::Checked(const std::string& path, int64_t frames, const Size& size) const {
  // Known before a pixel is resized: such a prompt would be refused later anyway, after taking any amount of memory.
  const int64_t tokens = CellsOf(GridOfSize(frames, size));
  if (tokens > max_positions_) {
    Fail(path, ": ", frames, " frames of ", size.height, " x ", size.width, " pixels make ", tokens,
         " tokens; the model takes at most ", max_positions_, " (config.json: max_position_embeddings); fewer frames (",
         Field{"media.max_frames"}, ", ", Field{"media.fps"}, ") or pixels (", Field{"media.max_pixels"}, ") help");
  }
  return size;
}

FrameChoice QwenPreprocessor::ChooseFrom(const VideoInfo& info, const MediaSource& source,
                                         const MediaOptions& options) const {
  const bool even = options.sampling == FrameSampling::kEven;
  const FrameRange range =
      FramesBetween(info.frames, info.fps, source.start, source.end, even ? 1 : kFrameFactor, source.path);
  const double fps = options.fps.value_or(limits_.fps);
  const int64_t most = options.max_frames.value_or(limits_.max_frames);
  if (even) return ChooseEvenFrames(range, info.fps, options.fps, most);
  if (ByVolume(options)) {
    return ChooseFramesEvenly(range, info.fps, fps, limits_.min_frames, most, kFrameFactor, source.path);
  }
  return ChooseFrames(range, info.fps, fps, limits_.min_frames, most, kFrameFactor,
                      options.sampling.value_or(FrameSampling::kQwenVlUtils), source.path);
}

PreparedMedia QwenPreprocessor::Load(const MediaSource& source, const MediaOptions& options, int64_t,
                                     const FrameProgress& progress) const {
  CheckMediaOptions(options);
  PreparedMedia media;
  media.kind = source.kind;
  media.path = source.path;
  std::vector<int64_t> indices;  // of the frames, at `source_fps`
  double source_fps = 0;
  const auto sized = [&](int64_t count, const auto& size_of) {
    return Checked(source.path, count, Naming(source.path, size_of));
  };
  if (source.kind == MediaSource::Kind::kImage) {
    Frames image = ReadImage(source.path);
    const Size size = sized(1, [&] { return ImageSize(image.height, image.width, options); });
    media.source = StreamOf(ResizePicture(std::move(image), size));
    media.sample_fps = 0;
  } else if (source.kind == MediaSource::Kind::kFrames) {
    const auto choose = [&](int64_t count, int64_t height, int64_t width) {
      return sized(count, [&] { return VideoSize(count, height, width, options); });
    };
    media.source = StreamSampled(source, ResizeTorchvision, choose);
    media.sample_fps = source_fps = source.fps.value_or(options.fps.value_or(kFps));
    indices.resize(static_cast<size_t>(media.source->count()));
    std::iota(indices.begin(), indices.end(), int64_t{0});
  } else {
    auto video = std::make_unique<VideoReader>(source.path);
    const VideoInfo info = video->info();
    FrameChoice choice = ChooseFrom(info, source, options);
    const auto count = static_cast<int64_t>(choice.indices.size());
    const Size size = sized(count, [&] { return VideoSize(count, info.size.height, info.size.width, options); });
    indices = choice.indices;
    source_fps = info.fps;
    media.source = StreamVideo(std::move(video), std::move(choice.indices), size, progress);
    media.sample_fps = choice.sample_fps;
  }
  media.frames = {media.source->count(), media.source->size().height, media.source->size().width};
  SetTile(&media);
  if (version_ == QwenVersion::kQwen3 && media.is_video()) {
    media.slice_seconds = SliceSeconds(indices, source_fps, patches().temporal_patch_size);
  }
  return media;
}

PreparedMedia QwenPreprocessor::PlanVideo(int64_t frames, int64_t height, int64_t width,
                                          const MediaOptions& options) const {
  CheckMediaOptions(options);
  const Size size = VideoSize(frames, height, width, options);
  PreparedMedia media;
  media.kind = MediaSource::Kind::kFrames;
  media.frames = {frames, size.height, size.width};
  media.sample_fps = options.fps.value_or(limits_.fps);
  SetTile(&media);
  return media;
}

int64_t QwenPreprocessor::TokensOfGrid(const Grid& grid) const {
  return MergedTokens(grid, patches().merge_size);
}

}  // namespace purekv
