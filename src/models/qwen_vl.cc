#include "models/qwen_vl.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "attention/attention.h"
#include "base/error.h"
#include "base/file.h"
#include "kernels/simd_target.h"
#include "media/frame_stream.h"
#include "media/resize.h"
#include "media/sampling.h"
#include "media/video.h"
#include "models/qwen_layout.h"
#include "models/weights.h"

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

constexpr int64_t kTowerRows = 4096;  // patch rows encoded at a time, at least one slice

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

PixelLimits VideoLimits(const QwenPreprocessing& preprocessing, int64_t frames, const MediaOptions& options) {
  PixelLimits limits;
  if (preprocessing.video) return Override(*preprocessing.video, options);
  limits.min_pixels = options.min_pixels.value_or(kVideoMinPixels);
  const double per_frame = kVideoTotalPixels / static_cast<double>(frames) * kFrameFactor;
  limits.max_pixels = std::max(static_cast<int64_t>(std::min(static_cast<double>(kVideoMaxPixels), per_frame)),
                               static_cast<int64_t>(static_cast<double>(limits.min_pixels) * 1.05));
  if (options.max_pixels) limits.max_pixels = std::min(limits.max_pixels, *options.max_pixels);  // it can only lower
  // qwen-vl-utils stops here with an assertion; a caller who names only the smaller maximum means it.
  if (limits.min_pixels > limits.max_pixels) limits.min_pixels = 1;
  return limits;
}

Grid GridOfSize(const QwenVisionConfig& vision, int64_t frames, const Size& size) {
  const int64_t temporal = vision.temporal_patch_size;
  return {(frames + temporal - 1) / temporal, size.height / vision.patch_size, size.width / vision.patch_size};
}

int64_t TokensOf(const QwenVisionConfig& vision, const Grid& grid) {
  return grid.patches() / (vision.merge_size * vision.merge_size);
}

Size ResizeTo(const QwenVisionConfig& vision, int64_t height, int64_t width, const PixelLimits& limits) {
  return SmartResize(height, width, vision.patch_size * vision.merge_size, limits.min_pixels, limits.max_pixels);
}

Frames ResizePicture(Frames picture, const Size& size) {
  if (picture.height == size.height && picture.width == size.width) return picture;
  Frames out{1, size.height, size.width, {}};
  out.rgb.resize(static_cast<size_t>(size.height * size.width * 3));
  ResizePillow(picture.rgb.data(), picture.height, picture.width, out.rgb.data(), size.height, size.width);
  return out;
}

// Slices of h x w patches that the tower takes at a time.
int64_t SlicesAtATime(const Grid& grid) {
  return std::clamp<int64_t>(kTowerRows / (grid.h * grid.w), 1, grid.t);
}

// Patches of slices first .. first + count. `frames` is room.
void ReadPatches(const PreparedMedia& media, const PatchSpec& spec, int64_t first, int64_t count, Frames* frames,
                 MatrixView<float> out) {
  PUREKV_CHECK(media.source, media.path, ": its frames are gone");
  const int64_t begin = first * spec.temporal_patch_size;
  const int64_t end = std::min((first + count) * spec.temporal_patch_size, media.frames.count);
  media.source->Read(begin, end - begin, frames);
  WritePatches(*frames, spec, 0, count, out);
}

}  // namespace

std::vector<TensorSpec> QwenTensors(const QwenConfig& config) {
  std::vector<TensorSpec> specs = Decoder::Tensors(config.decoder);
  std::vector<TensorSpec> vision = QwenVisionTower::Tensors(config.vision);
  specs.insert(specs.end(), std::make_move_iterator(vision.begin()), std::make_move_iterator(vision.end()));
  return specs;
}

PreparedMedia PlanQwenVideo(const QwenConfig& config, const QwenPreprocessing& preprocessing, int64_t frames,
                            int64_t height, int64_t width, const MediaOptions& options) {
  CheckMediaOptions(options);
  const Size size = ResizeTo(config.vision, height, width, VideoLimits(preprocessing, frames, options));
  PreparedMedia media;
  media.kind = MediaSource::Kind::kFrames;
  media.frames.count = frames;
  media.frames.height = size.height;
  media.frames.width = size.width;
  media.grid = GridOfSize(config.vision, frames, size);
  media.tokens = TokensOf(config.vision, media.grid);
  media.sample_fps = options.fps.value_or(kFps);
  return media;
}

QwenVl::QwenVl(QwenConfig config, const std::string& dir, const TensorSource& source, Dtype compute)
    : config_(std::move(config)),
      preprocessing_(ReadQwenPreprocessing(dir, config_.vision)),
      parameters_(ParameterCount(QwenTensors(config_))),
      texts_(ReadTexts(dir, &config_)),
      tower_(config_.vision, source, compute),
      decoder_(config_.decoder, source, compute) {}

QwenVl::Texts QwenVl::ReadTexts(const std::string& dir, QwenConfig* config) {
  Texts texts;
  texts.stop_ids = ReadStopIds(dir, config->eos_ids, config->decoder.vocabulary);
  // Weights alone can be measured; who wants text is told what is missing (Conversation::tokenizer).
  if (dir.empty()) return texts;
  if (!FileExists(JoinPath(dir, "tokenizer.json")) && !FileExists(JoinPath(dir, "vocab.json"))) return texts;
  texts.tokenizer = Tokenizer::Load(dir);
  texts.chat_template = ChatTemplate::Load(dir, texts.tokenizer->added_tokens());
  const auto special = [&](const std::string& token) {
    const auto id = texts.tokenizer->Find(token);
    if (!id) Fail(dir, ": the tokenizer has no ", token, ", which these models need");
    if (*id >= config->decoder.vocabulary) {
      Fail(dir, ": ", token, " has id ", *id, ", beyond config.json's vocab_size ", config->decoder.vocabulary);
    }
    return *id;
  };
  if (const auto& end = texts.chat_template.end_of_turn(); end) {
    if (end->empty()) {
      Fail(texts.chat_template.where(), ": writes no added token of the tokenizer right behind an answer (",
           texts.chat_template.behind_answer(), "); one must close it");
    }
    texts.end_of_turn_id = special(*end);
  }
  const auto check = [&](const std::string& token, const char* field, std::optional<int32_t> id) {
    const int32_t known = special(token);
    if (id.value_or(known) != known) {
      Fail(dir, ": config.json's ", field, " is ", *id, ", the tokenizer's ", token, " is ", known);
    }
    return known;
  };
  check("<|image_pad|>", "image_token_id", config->image_id);
  check("<|video_pad|>", "video_token_id", config->video_id);
  config->vision_start_id = check("<|vision_start|>", "vision_start_token_id", config->vision_start_id);
  config->vision_end_id = check("<|vision_end|>", "vision_end_token_id", config->vision_end_id);
  if (texts.stop_ids.empty()) {
    if (texts.end_of_turn_id < 0)
      Fail(dir, ": no eos_token_id, and the chat template closes no answer: nothing would end one");
    texts.stop_ids = {texts.end_of_turn_id};
  }
  return texts;
}

Size QwenVl::ResizedSize(const std::string& path, int64_t frames, int64_t height, int64_t width,
                         const PixelLimits& limits) const {
  Size size;
  try {
    size = ResizeTo(config_.vision, height, width, limits);
  } catch (const Error& error) {
    throw Error(error.kind(), Say(path, ": ", error));
  }
  // Known before a pixel is resized: such a prompt would be refused later anyway, after taking any amount of memory.
  const int64_t tokens = TokensOf(config_.vision, GridOfSize(config_.vision, frames, size));
  if (tokens > config_.decoder.max_positions) {
    Fail(path, ": ", frames, " frames of ", size.height, " x ", size.width, " pixels make ", tokens,
         " tokens; the model takes at most ", config_.decoder.max_positions,
         " (config.json: max_position_embeddings); fewer frames (", Field{"media.max_frames"}, ", ", Field{"media.fps"},
         ") or pixels "
         "(",
         Field{"media.max_pixels"}, ") help");
  }
  return size;
}

PreparedMedia QwenVl::LoadMedia(const MediaSource& source, const MediaOptions& options,
                                const std::function<void(int64_t, int64_t)>& progress) const {
  CheckMediaOptions(options);
  if (source.kind != MediaSource::Kind::kVideo && (source.start || source.end)) {
    FailUsage(source.path, ": start and end choose frames of a video file, which this is not");
  }
  PreparedMedia media;
  media.kind = source.kind;
  media.path = source.path;
  if (source.kind == MediaSource::Kind::kImage) {
    const PixelLimits limits = Override(preprocessing_.image, options);
    Frames image = ReadImage(source.path);
    const Size size = ResizedSize(source.path, 1, image.height, image.width, limits);
    media.source = StreamOf(ResizePicture(std::move(image), size));
    media.sample_fps = 0;
  } else if (source.kind == MediaSource::Kind::kFrames) {
    media.source = StreamNpy(source.path, ResizeTorchvision, [&](int64_t count, int64_t height, int64_t width) {
      return ResizedSize(source.path, count, height, width, VideoLimits(preprocessing_, count, options));
    });
    media.sample_fps = options.fps.value_or(kFps);
  } else {
    auto video = std::make_unique<VideoReader>(source.path);
    const VideoInfo info = video->info();
    const FrameRange range = FramesBetween(info.frames, info.fps, source.start, source.end, kFrameFactor, source.path);
    FrameChoice choice =
        ChooseFrames(range, info.fps, options.fps.value_or(kFps), kMinFrames, options.max_frames.value_or(kMaxFrames),
                     kFrameFactor, options.sampling, source.path);
    const auto count = static_cast<int64_t>(choice.indices.size());
    const Size size =
        ResizedSize(source.path, count, info.size.height, info.size.width, VideoLimits(preprocessing_, count, options));
    media.source = StreamVideo(std::move(video), std::move(choice.indices), size, progress);
    media.sample_fps = choice.sample_fps;
  }
  media.frames = {media.source->count(), media.source->size().height, media.source->size().width};
  media.grid = GridOfSize(config_.vision, media.frames.count, media.source->size());
  media.tokens = TokensOf(config_.vision, media.grid);
  return media;
}

PreparedMedia QwenVl::PlanVideo(int64_t frames, int64_t height, int64_t width, const MediaOptions& options) const {
  return PlanQwenVideo(config_, preprocessing_, frames, height, width, options);
}

PreparedMedia QwenVl::RandomMedia(const Grid& grid) const {
  PreparedMedia media;
  media.tokens = TokensOfGrid(grid);
  media.kind = MediaSource::Kind::kFrames;
  Frames frames{grid.t * config_.vision.temporal_patch_size,
                grid.h * config_.vision.patch_size,
                grid.w * config_.vision.patch_size,
                {}};
  media.frames = {frames.count, frames.height, frames.width};
  frames.rgb.resize(static_cast<size_t>(frames.count * frames.height * frames.width * 3));
  std::mt19937 random(1);
  for (uint8_t& value : frames.rgb) value = static_cast<uint8_t>(random() >> 24);
  media.source = StreamOf(std::move(frames));
  media.grid = grid;
  return media;
}

Matrix<float> QwenVl::Pixels(const PreparedMedia& media) const {
  const Grid& grid = media.grid;
  const int64_t per_slice = grid.h * grid.w;
  const int64_t group = SlicesAtATime(grid);
  Matrix<float> pixels(grid.patches(), config_.vision.patch_values());
  Frames frames;
  for (int64_t first = 0; first < grid.t; first += group) {
    const int64_t count = std::min(group, grid.t - first);
    ReadPatches(media, preprocessing_.patches, first, count, &frames,
                pixels.View().Rows(first * per_slice, count * per_slice));
  }
  return pixels;
}

bool QwenVl::Encode(const PreparedMedia& media, MatrixView<float> out, const VisionProgress& progress) const {
  const Grid& grid = media.grid;
  const int64_t per_slice = grid.h * grid.w;
  const int64_t tokens_per_slice = out.rows / grid.t;
  const int64_t group = SlicesAtATime(grid);
  Frames frames;
  Matrix<float> patches(group * per_slice, config_.vision.patch_values());
  for (int64_t first = 0; first < grid.t; first += group) {
    const int64_t count = std::min(group, grid.t - first);
    const MatrixView<float> rows = patches.View().Rows(0, count * per_slice);
    ReadPatches(media, preprocessing_.patches, first, count, &frames, rows);
    int64_t blocks = 0;
    const auto keep_going = [&] {
      ++blocks;
      const int64_t done = first * per_slice + count * per_slice * blocks / config_.vision.depth;
      return !progress || progress(done, grid.patches());
    };
    if (!tower_.Encode(rows, {count, grid.h, grid.w}, out.Rows(first * tokens_per_slice, count * tokens_per_slice),
                       keep_going)) {
      return false;
    }
  }
  return true;
}

PromptTokens QwenVl::LayOut(const std::vector<int32_t>& ids, std::span<const PreparedMedia> media,
                            int32_t next_position) const {
  return LayOutQwen(config_, ids, media, next_position);
}

std::vector<int32_t> QwenVl::MediaIds(bool video) const {
  std::vector<int32_t> ids;
  if (config_.vision_start_id) ids.push_back(*config_.vision_start_id);
  ids.push_back(video ? config_.video_id : config_.image_id);
  if (config_.vision_end_id) ids.push_back(*config_.vision_end_id);
  return ids;
}

namespace {

KernelChoice SimdKernel(const char* primitive) {
  const std::string target = SimdTarget();
  return {primitive, target == "reference" ? target : "highway " + target, RefusedSimdTargets()};
}

}  // namespace

std::vector<KernelChoice> QwenVl::Kernels() const {
  const GatedLinear& wide = decoder_.gate_up(0);
  const bool bf16 = decoder_.compute() == Dtype::kBF16;
  const std::vector<std::string> refused = RefusedAttention(bf16);
  return {{"matmul", wide.Implementation(256), wide.Refused()},
          {"matmul.decode", wide.Implementation(1), wide.Refused()},
          {"attention.prefill", AttentionImplementation(bf16), refused},
          {"attention.decode", DecodeAttentionImplementation(bf16), refused},
          {"attention.vision", AttentionImplementation(bf16), refused},
          SimdKernel("elementwise")};
}

}  // namespace purekv
