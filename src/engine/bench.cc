#include "purekv/bench.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/cpu.h"
#include "base/error.h"
#include "base/file.h"
#include "engine/conversation.h"
#include "engine/prompt_media.h"
#include "models/measuring.h"
#include "models/registry.h"

namespace purekv {
namespace {

// What of a prompt is media: one video of a grid, or, where the family sees images alone, an image for each slice.
struct MediaShape {
  Grid grid;          // zeros: none
  int64_t items = 1;  // each of this grid, or of a slice of it

  Grid item() const { return items == 1 ? grid : Grid{1, grid.h, grid.w}; }
};

MediaShape ShapeOf(const Grid& grid, bool videos) {
  return {grid, videos || grid == Grid{} ? 1 : grid.t};
}

// A video, or an image, of this grid, as far as a prompt needs it.
PreparedMedia MediumOfGrid(const Grid& grid, int64_t tokens, bool video) {
  PreparedMedia media;
  if (!video) media.kind = MediaSource::Kind::kImage;
  media.tiles = {{{}, grid}};
  media.tokens = tokens;
  media.frames.count = grid.t * 2;
  return media;
}

// The video that the prompt holds; zeros: none.
Grid ChooseGrid(const BenchRequest& request, const LanguageModel& model, bool videos) {
  const std::array<int64_t, 3> none = {0, 0, 0};
  if (request.grid && *request.grid == none) return {};
  if (request.grid) return {(*request.grid)[0], (*request.grid)[1], (*request.grid)[2]};
  if (!model.sees()) return {};
  // As often the slices of the smallest video as fit.
  const Grid smallest = model.parts().preprocessor->SmallestGrid();
  const auto times = [&](int64_t count) { return Grid{smallest.t * count, smallest.h, smallest.w}; };
  const auto fits = [&](int64_t count) {
    const MediaShape shape = ShapeOf(times(count), videos);
    const int64_t visual = model.TokensOfGrid(shape.item());
    const int64_t markers = model.parts().prompt->MarkerTokens(MediumOfGrid(shape.item(), visual, videos));
    return shape.items * (visual + markers) < request.prompt_tokens;
  };
  int64_t most = 0, too_many = 1;
  while (fits(too_many)) {
    most = too_many;
    too_many *= 2;
  }
  while (too_many - most > 1) {
    const int64_t middle = (most + too_many) / 2;
    (fits(middle) ? most : too_many) = middle;
  }
  return most > 0 ? times(most) : Grid{};
}

struct GridTokens {
  int64_t visual = 0, markers = 0;
};

// What each item takes of the prompt, which must have room for all. preprocessor null: the model reads text alone.
GridTokens CheckGrid(const MediaShape& shape, bool videos, const Preprocessor* preprocessor, const PromptFormat& prompt,
                     int64_t prompt_tokens) {
  const Grid& grid = shape.grid;
  if (grid == Grid{}) return {};
  const Message name = Say(Field{"bench.grid"}, " ", grid.t, "x", grid.h, "x", grid.w, ": ");
  if (preprocessor == nullptr) RefuseMedia(Say(Field{"bench.grid"}));
  GridTokens tokens;
  try {
    tokens.visual = preprocessor->TokensOfGrid(shape.item());
  } catch (const Error& error) {
    FailUsage(name, error);
  }
  tokens.markers = prompt.MarkerTokens(MediumOfGrid(shape.item(), tokens.visual, videos));
  if (shape.items > prompt_tokens || shape.items * (tokens.visual + tokens.markers) > prompt_tokens) {
    FailUsage(name, "its ", shape.items * tokens.visual, " tokens and ", shape.items * tokens.markers,
              " markers exceed ", Field{"bench.prompt_tokens"}, " ", prompt_tokens);
  }
  return tokens;
}

// Text ids that no special meaning hangs on, the same for the same count.
std::vector<int32_t> TextIds(int64_t count, int64_t vocabulary, const std::vector<int32_t>& avoid) {
  std::vector<int32_t> ids;
  uint64_t state = 12345;
  while (static_cast<int64_t>(ids.size()) < count) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    const auto id = static_cast<int32_t>((state >> 33) % static_cast<uint64_t>(vocabulary));
    if (std::find(avoid.begin(), avoid.end(), id) == avoid.end()) ids.push_back(id);
  }
  return ids;
}

// A video whose embeddings are there already: random, of the size of a tower's (about 1).
PreparedMedia EmbeddedOfGrid(const Grid& grid, int64_t tokens, const LanguageModel& model) {
  PreparedMedia media = MediumOfGrid(grid, tokens, /*video=*/true);
  const auto embedded = RoomForEmbedded(model, tokens);
  uint64_t state = 54321;
  const auto fill = [&](Matrix<float>& rows) {
    for (int64_t i = 0; i < rows.size(); ++i) {
      state = state * 6364136223846793005ULL + 1442695040888963407ULL;
      rows.data()[i] = static_cast<float>(state >> 40) / static_cast<float>(1 << 23) - 1.0F;
    }
  };
  fill(embedded->rows);
  for (Matrix<float>& set : embedded->deep) fill(set);
  media.embedded = embedded;
  return media;
}

}  // namespace

void CheckBenchGrid(const std::string& directory, const std::string& shape, const BenchRequest& request) {
  if (!request.grid || *request.grid == std::array<int64_t, 3>{}) return;
  const auto& [t, h, w] = *request.grid;
  if (!directory.empty() && !DirectoryExists(directory)) return;  // loading says so; a file sees nothing
  const auto files = directory.empty() ? FilesOfShape(shape, PublishedConfig(shape)) : OpenModelConfig(directory);
  const auto plan = PlanModel(*files);
  const auto preprocessor = plan->ReadPreprocessor();
  const auto prompt = plan->ReadPrompt();
  const bool videos = prompt->Markers(/*video=*/true).placeholder >= 0;
  CheckGrid(ShapeOf({t, h, w}, videos), videos, preprocessor.get(), *prompt, request.prompt_tokens);
}

BenchResult RunBench(const std::shared_ptr<const Model>& model, const BenchRequest& request,
                     const SessionOptions& options) {
  const LanguageModel& internals = model->internals();
  if (request.prompt_tokens < 1)
    FailUsage(Field{"bench.prompt_tokens"}, " ", request.prompt_tokens, ": must be at least 1");
  if (request.depth < 0) FailUsage(Field{"bench.depth"}, " ", request.depth, ": must be at least 0");
  if (request.decode_tokens < 0) {
    FailUsage(Field{"bench.decode_tokens"}, " ", request.decode_tokens, ": must be at least 0");
  }
  const int64_t vocabulary = model->info().vocabulary;
  const bool videos = internals.PlaceholderId(/*video=*/true) >= 0;
  const std::vector<int32_t> media_ids = internals.MediaIds(videos);
  std::vector<int32_t> avoid = media_ids;
  const std::vector<int32_t> image_ids = internals.MediaIds(/*video=*/false);
  avoid.insert(avoid.end(), image_ids.begin(), image_ids.end());

  const FamilyParts& parts = internals.parts();
  const Grid grid = ChooseGrid(request, internals, videos);
  const MediaShape shape = ShapeOf(grid, videos);
  const auto [of_item, markers] =
      CheckGrid(shape, videos, parts.preprocessor.get(), *parts.prompt, request.prompt_tokens);
  const int64_t visual = of_item * shape.items;
  if (visual == 0 && FindPrefillKind(options.prefill.kind).needs_media) {
    const Grid one = internals.sees() ? internals.parts().preprocessor->SmallestGrid() : Grid{};
    FailUsage(Field{"prefill.kind"}, " ", options.prefill.kind, ": cannot take effect: a prompt of ",
              request.prompt_tokens, " tokens holds no frame of ", one.h, "x", one.w, " patches; give a ",
              Field{"bench.grid"}, " that fits");
  }
  std::vector<PreparedMedia> media;
  for (int64_t item = 0; visual > 0 && item < shape.items; ++item) {
    media.push_back(request.vision ? RandomMedia(*parts.preprocessor, shape.item())
                                   : EmbeddedOfGrid(shape.item(), of_item, internals));
    if (!videos) media.back().kind = MediaSource::Kind::kImage;
  }
  Conversation conversation(model, options);
  const bool repeats = request.depth_read > 0 && request.depth_read < request.depth;
  if (repeats && (FindPolicy(options.kv.policy).make || !conversation.cache().spec().plain() ||
                  conversation.cache().spec().encodes())) {
    FailUsage(Field{"bench.depth_read"},
              ": what is repeated must be all that was read, as it was: ", Field{"kv.policy"},
              " full, without windows and codecs");
  }
  if (request.depth > 0) {
    conversation.ReadPrompt(TextIds(repeats ? request.depth_read : request.depth, vocabulary, avoid), {});
  }
  if (repeats) conversation.RepeatContext(request.depth);

  BenchResult result;
  result.grid = {grid.t, grid.h, grid.w};
  const int64_t text = request.prompt_tokens - (visual > 0 ? visual + shape.items * markers : 0);
  std::vector<int32_t> ids;
  for (size_t item = 0; item < media.size(); ++item) ids.insert(ids.end(), media_ids.begin(), media_ids.end());
  const std::vector<int32_t> tail = TextIds(text, vocabulary, avoid);
  ids.insert(ids.end(), tail.begin(), tail.end());
  const StageTimes before = conversation.times();
  const double matmul_before = conversation.matmul_seconds();
  const double attention_before = conversation.attention_seconds();
  const double score_before = conversation.score_seconds();
  const double evict_before = conversation.evict_seconds();
  conversation.ReadPrompt(ids, std::move(media));
  result.vision.tokens = request.vision ? visual : 0;
  result.vision.seconds = result.vision.tokens > 0 ? conversation.times().vision_s - before.vision_s : 0;
  result.prefill.tokens = request.prompt_tokens;
  result.prefill.seconds = conversation.times().prefill_s - before.prefill_s;
  result.prefill.matmul_s = conversation.matmul_seconds() - matmul_before;
  result.prefill.attention_s = conversation.attention_seconds() - attention_before;
  result.prefill.score_s = conversation.score_seconds() - score_before;
  result.prefill.evict_s = conversation.evict_seconds() - evict_before;
  result.kv = conversation.kv();
  result.sparse = conversation.prefill();
  if (request.depth > 0) {  // the session's own figures are those of its first prompt
    result.kv.tokens_full = request.depth + request.prompt_tokens;
    result.kv.tokens_kept_mean = conversation.cache().MeanLength();
    result.kv.bytes_full = KvCache::FullBytes(conversation.cache().spec(), result.kv.tokens_full);
    result.kv.bytes_kept = conversation.kv().bytes_now;
    result.kv.bytes_peak = conversation.kv().bytes_most;
  }

  if (request.decode_tokens > 0) {
    const std::vector<int32_t> steps = TextIds(request.decode_tokens, vocabulary, avoid);
    const double matmul = conversation.matmul_seconds();
    const double attention = conversation.attention_seconds();
    const double score = conversation.score_seconds();
    const double evict = conversation.evict_seconds();
    const auto start = std::chrono::steady_clock::now();
    for (const int32_t id : steps) {
      if (options.cancel != nullptr && options.cancel->load()) throw Cancelled();
      conversation.Step(id);
    }
    result.decode.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    result.decode.tokens = request.decode_tokens;
    result.decode.matmul_s = conversation.matmul_seconds() - matmul;
    result.decode.attention_s = conversation.attention_seconds() - attention;
    result.decode.score_s = conversation.score_seconds() - score;
    result.decode.evict_s = conversation.evict_seconds() - evict;
    const KvStats behind = conversation.kv();
    result.kv.entries_attended_mean = behind.entries_attended_mean;
    result.kv.bytes_attended_mean = behind.bytes_attended_mean;
    result.kv.bytes_resident = behind.bytes_resident;
    result.kv.bytes_read_mean = behind.bytes_read_mean;
  }
  return result;
}

MachineInfo DescribeMachine() {
  return {CpuName(), CpuLevelName(Cpu())};
}

}  // namespace purekv
