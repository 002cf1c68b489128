#include "server/media_messages.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "checkpoint/json.h"

namespace purekv::server {
namespace {

constexpr char kWhere[] = "media worker";
constexpr int64_t kMost = int64_t{1} << 50;
constexpr int64_t kMaxFrames = int64_t{1} << 20, kMaxSide = 1 << 14, kMaxTiles = 1 << 16, kMaxSlices = 1 << 20;
constexpr size_t kMaxText = 1000;

std::string Line(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

[[noreturn]] void FailPlan(const char* what) {
  Fail(kWhere, ": a plan that cannot be: ", what);
}

template <class T>
void Put(Json* json, const char* key, const std::optional<T>& value) {
  if (value) (*json)[key] = *value;
}

std::optional<double> Real(const JsonFields& fields, const char* key) {
  if (!fields.Has(key)) return std::nullopt;
  return fields.Number(key, 0, 1e12);
}

std::optional<int64_t> Whole(const JsonFields& fields, const char* key) {
  if (!fields.Has(key)) return std::nullopt;
  return fields.Int(key, 0, kMost);
}

void CheckTile(const Tile& tile, const FrameShape& frames, const PatchSpec& patches) {
  const int64_t block = patches.patch_size * patches.merge_size, temporal = patches.temporal_patch_size;
  const FrameRange& of = tile.frames;
  if (of.first > frames.count - of.count) FailPlan("a tile of frames that are not there");
  if (frames.height % block != 0 || frames.width % block != 0 || tile.grid.h * patches.patch_size != frames.height ||
      tile.grid.w * patches.patch_size != frames.width) {
    FailPlan("frames that are not cut into whole patches");
  }
  if (of.count > 1 && tile.grid.t != (of.count + temporal - 1) / temporal) FailPlan("slices that are not its frames'");
}

void CheckMosaic(const PreparedMedia& plan) {
  const Mosaic& mosaic = *plan.mosaic;
  const Grid& tile = plan.tiles.front().grid;
  const auto tiles = static_cast<int64_t>(plan.tiles.size()) - 1;
  if (tiles < 1 || mosaic.tiles.rows * mosaic.tiles.columns != tiles) FailPlan("a map that its tiles do not make");
  if (mosaic.covered.height > mosaic.tiles.rows * tile.h || mosaic.covered.width > mosaic.tiles.columns * tile.w ||
      mosaic.cells.height > mosaic.covered.height || mosaic.cells.width > mosaic.covered.width) {
    FailPlan("a map that is larger than its tiles");
  }
}

PreparedMedia ReadPlan(const JsonFields& fields, const PatchSpec& patches) {
  PreparedMedia plan;
  plan.frames = {fields.Int("frames", 1, kMaxFrames), fields.Int("height", 1, kMaxSide),
                 fields.Int("width", 1, kMaxSide)};
  const std::vector<int64_t> tiles = fields.Ints("tiles", 0, kMaxFrames);
  constexpr size_t kNumbers = 5;
  if (tiles.empty() || tiles.size() % kNumbers != 0 || tiles.size() / kNumbers > kMaxTiles) FailPlan("no tiles");
  int64_t slices = 0;
  for (size_t i = 0; i < tiles.size(); i += kNumbers) {
    const int64_t* const of = tiles.data() + i;
    if (std::min({of[1], of[2], of[3], of[4]}) < 1) FailPlan("an empty tile");
    plan.tiles.push_back({{of[0], of[1]}, {of[2], of[3], of[4]}});
    CheckTile(plan.tiles.back(), plan.frames, patches);
    slices += of[2];
  }
  if (slices > kMaxSlices) FailPlan("too many slices");
  if (fields.Has("mosaic")) {
    const std::vector<int64_t> map = fields.Ints("mosaic", 1, kMaxFrames);
    if (map.size() != 6) FailPlan("no map");
    plan.mosaic = Mosaic{{map[0], map[1]}, {map[2], map[3]}, {map[4], map[5]}};
    CheckMosaic(plan);
  }
  plan.tokens = fields.Int("tokens", 1, kMost);
  plan.sample_fps = fields.Number("sample_fps", 0, 1e12);
  plan.slice_seconds = fields.Numbers("slice_seconds", 0, 1e12);
  if (!plan.slice_seconds.empty() && static_cast<int64_t>(plan.slice_seconds.size()) != plan.grid().t) {
    FailPlan("times that are not its slices'");
  }
  return plan;
}

DecodeFailure ReadFailure(const JsonFields& fields) {
  DecodeFailure failure{fields.String("code"), fields.String("message"), fields.String("param", "")};
  if (failure.code != "invalid_media" && failure.code != "media_limit" && failure.code != "invalid_value") {
    Fail(kWhere, ": an unknown code");
  }
  for (std::string* const text : {&failure.message, &failure.param}) *text = OneLine(text->substr(0, kMaxText));
  return failure;
}

}  // namespace

std::string LineOf(const DecodeRequest& request) {
  const MediaOptions& options = request.options;
  Json json = {{"parent", request.parent},
               {"model", request.model},
               {"kind", static_cast<int>(request.kind)},
               {"images", request.images},
               {"threads", request.threads},
               {"seconds", request.seconds},
               {"picture_pixels", request.limits.picture_pixels},
               {"source_frames", request.limits.source_frames}};
  Put(&json, "start", request.start);
  Put(&json, "end", request.end);
  Put(&json, "fps", options.fps);
  Put(&json, "max_frames", options.max_frames);
  Put(&json, "min_pixels", options.min_pixels);
  Put(&json, "max_pixels", options.max_pixels);
  if (options.sampling) json["sampling"] = static_cast<int>(*options.sampling);
  return Line(json);
}

DecodeRequest ReadDecodeRequest(const std::string& line) {
  const Json json = ParseJson(line, kWhere);
  const JsonFields fields(json, kWhere);
  DecodeRequest request;
  request.parent = fields.Int("parent", 1, INT32_MAX);
  request.model = fields.String("model");
  constexpr MediaSource::Kind kKinds[] = {MediaSource::Kind::kVideo, MediaSource::Kind::kImage,
                                          MediaSource::Kind::kFrames};
  request.kind = kKinds[fields.Int("kind", 0, 2)];
  request.images = fields.Int("images", 0, kMost);
  request.threads = static_cast<int>(fields.Int("threads", 1, 4096));
  request.seconds = fields.Number("seconds", 0, 1e9);
  request.limits.picture_pixels = fields.Int("picture_pixels", 1, kMaxPixels);
  request.limits.source_frames = fields.Int("source_frames", 1, kMaxSourceFrames);
  request.start = Real(fields, "start");
  request.end = Real(fields, "end");
  request.options.fps = Real(fields, "fps");
  request.options.max_frames = Whole(fields, "max_frames");
  request.options.min_pixels = Whole(fields, "min_pixels");
  request.options.max_pixels = Whole(fields, "max_pixels");
  if (fields.Has("sampling")) {
    constexpr FrameSampling kSamplings[] = {FrameSampling::kQwenVlUtils, FrameSampling::kHuggingFace,
                                            FrameSampling::kEven};
    request.options.sampling = kSamplings[fields.Int("sampling", 0, 2)];
  }
  return request;
}

std::string PlanLine(const PreparedMedia& plan) {
  Json tiles = Json::array();
  for (const Tile& tile : plan.tiles) {
    for (const int64_t number : {tile.frames.first, tile.frames.count, tile.grid.t, tile.grid.h, tile.grid.w}) {
      tiles.push_back(number);
    }
  }
  Json json = {{"event", "plan"},
               {"frames", plan.frames.count},
               {"height", plan.frames.height},
               {"width", plan.frames.width},
               {"tiles", std::move(tiles)},
               {"tokens", plan.tokens},
               {"sample_fps", plan.sample_fps},
               {"slice_seconds", plan.slice_seconds}};
  if (plan.mosaic) {
    const Mosaic& map = *plan.mosaic;
    json["mosaic"] = {map.tiles.rows,    map.tiles.columns, map.covered.height,
                      map.covered.width, map.cells.height,  map.cells.width};
  }
  return Line(json);
}

std::string ProgressLine(int64_t done) {
  return Line({{"event", "progress"}, {"done", done}});
}

std::string EndedLine(const VideoCondition& condition) {
  return Line({{"event", "ended"},
               {"expected", condition.frames_expected},
               {"missing", condition.frames_missing},
               {"damaged", condition.frames_damaged},
               {"cut_off", condition.cut_off}});
}

std::string FailedLine(const DecodeFailure& failure) {
  return Line({{"event", "failed"}, {"code", failure.code}, {"message", failure.message}, {"param", failure.param}});
}

DecodeEvent ReadDecodeEvent(const std::string& line, const PatchSpec& patches) {
  const Json json = ParseJson(line, kWhere);
  const JsonFields fields(json, kWhere);
  const std::string name = fields.String("event");
  DecodeEvent event;
  if (name == "plan") {
    event.kind = DecodeEvent::Kind::kPlan;
    event.plan = ReadPlan(fields, patches);
  } else if (name == "progress") {
    event.kind = DecodeEvent::Kind::kProgress;
    event.done = fields.Int("done", 0, kMaxFrames);
  } else if (name == "ended") {
    event.kind = DecodeEvent::Kind::kEnded;
    event.condition.frames_expected = fields.Int("expected", 0, kMost);
    event.condition.frames_missing = fields.Int("missing", 0, event.condition.frames_expected);
    event.condition.frames_damaged = fields.Int("damaged", 0, kMost);
    event.condition.cut_off = fields.Bool("cut_off", false);
  } else if (name == "failed") {
    event.failure = ReadFailure(fields);
  } else {
    Fail(kWhere, ": an unknown event");
  }
  return event;
}

}  // namespace purekv::server
