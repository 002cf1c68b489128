// VideoLLaMA2: its connector's sizes, which frames of a video, what is refused by name, stills, black frames, policies
// and sparse prefill on its tokens.
#include <gtest/gtest.h>

#include <cmath>

#include "models/registry.h"
#include "models/stc_connector.h"
#include "models/videollama2_config.h"
#include "support/arrays.h"
#include "support/broken_model.h"
#include "support/reference_model.h"

namespace purekv {
namespace {

MediaOptions With(std::optional<int64_t> MediaOptions::*limit, int64_t value) {
  MediaOptions options;
  options.*limit = value;
  return options;
}

TEST(VideoLlama2, TokensOfThePublishedSizes) {
  const auto tokens = [](const char* shape, int64_t frames) {
    const auto files = FilesOfShape(shape, PublishedConfig(shape));
    const auto preprocessor = PlanModel(*files)->ReadPreprocessor();
    const Grid one = preprocessor->SmallestGrid();
    return preprocessor->TokensOfGrid({frames, one.h, one.w});
  };
  EXPECT_EQ(tokens("videollama2-7b", 8), 845);
  EXPECT_EQ(tokens("videollama2-7b-16f", 16), 1521);
  EXPECT_EQ(tokens("videollama2-7b", 32), 2873);
  EXPECT_EQ(tokens("videollama2.1-7b-16f", 16), 1352);
  EXPECT_EQ(tokens("videollama2.1-7b-16f", 8), 676);
  EXPECT_EQ(tokens("videollama2.1-7b-16f", 32), 2704);
  ExpectError({"1x27x27"}, [&] { tokens("videollama2.1-7b-16f", 1); });
  ExpectError({"8x24x25", "24x24"}, [] {
    const auto files = FilesOfShape("v", PublishedConfig("videollama2-7b"));
    PlanModel(*files)->ReadPreprocessor()->TokensOfGrid({8, 24, 25});
  });
}

TEST(VideoLlama2, PublishedShapesHaveThePublishedSizes) {
  // Without the tower's last layer: 7.242 + 0.291 + 0.489, and 7.616 + 0.398 + 0.377.
  for (const auto& [shape, all, vision] :
       {std::tuple{"videollama2-7b", 8.022, 0.780}, std::tuple{"videollama2.1-7b-16f", 8.391, 0.775}}) {
    const auto files = FilesOfShape(shape, PublishedConfig(shape));
    const auto plan = PlanModel(*files);
    EXPECT_NEAR(static_cast<double>(ParameterCount(plan->tensors)) / 1e9, all, 0.003) << shape;
    EXPECT_NEAR(static_cast<double>(ParameterCount(plan->vision_tensors)) / 1e9, vision, 0.003) << shape;
  }
}

TEST(VideoLlama2, NamesWhatItRefuses) {
  const auto refuse = [](const char* shape, const char* pointer, const Json& value, const char* word) {
    SCOPED_TRACE(pointer);
    Json config = PublishedConfig(shape);
    config[Json::json_pointer(pointer)] = value;
    ExpectError({"c.json", word}, [&] { PlanModel(*FilesOfShape("c.json", config)); });
  };
  refuse("videollama2-7b", "/mm_projector_type", "stp_connector", "stp_connector");
  refuse("videollama2-7b", "/mm_projector_type", nullptr, "mm_projector_type");
  refuse("videollama2-7b", "/num_frames", 0, "num_frames");
  refuse("videollama2-7b", "/num_frames", 33, "num_frames");
  refuse("videollama2-7b", "/mm_vision_tower", "dinov2", "dinov2");
  refuse("videollama2-7b", "/image_aspect_ratio", "anyres", "anyres");
  refuse("videollama2-7b", "/rope_scaling", {{"type", "yarn"}}, "yarn");
  refuse("videollama2-7b", "/num_key_value_heads", 3, "num_key_value_heads");
  refuse("videollama2.1-7b-16f", "/num_frames", 1, "no token");
  refuse("videollama2.1-7b-16f", "/mm_hidden_size", 1024, "mm_hidden_size");
}

// tests/media/sampling_test.cc has the vectors of the published rule.
TEST(VideoLlama2, FramesAndStills) {
  const ReferenceModel model("videollama2");
  const auto loaded = Model::Load(model.directory(), {.activations = Dtype::kF32});
  const LanguageModel& internals = loaded->internals();
  const auto load = [&](MediaSource::Kind kind, const std::string& file, const MediaOptions& options = {}) {
    return internals.LoadMedia({kind, ReferencePath("media/") + file}, options, {});
  };
  const PreparedMedia still = load(MediaSource::Kind::kImage, "street.png");
  EXPECT_EQ(still.grid(), (Grid{6, 4, 4}));
  EXPECT_EQ(still.frames.count, 1);
  EXPECT_EQ(still.tokens, 36);
  const PreparedMedia few = load(MediaSource::Kind::kFrames, "run.npy");
  EXPECT_EQ(few.grid(), (Grid{6, 4, 4}));
  EXPECT_EQ(few.frames.count, 6);
  EXPECT_EQ(load(MediaSource::Kind::kFrames, "walk.npy").grid(), (Grid{7, 4, 4}));
  EXPECT_EQ(load(MediaSource::Kind::kImage, "street.png", With(&MediaOptions::max_frames, 3)).tokens, 18);
  ExpectError({"media.max_frames", "33"},
              [&] { load(MediaSource::Kind::kImage, "street.png", With(&MediaOptions::max_frames, 33)); });
  ExpectError({"media.max_pixels"},
              [&] { load(MediaSource::Kind::kImage, "street.png", With(&MediaOptions::max_pixels, 33)); });
  MediaOptions rate, other;
  rate.fps = 1;
  other.sampling = FrameSampling::kHuggingFace;
  ExpectError({"media.fps", "media.max_frames"}, [&] { load(MediaSource::Kind::kVideo, "walk.npy", rate); });
  ExpectError({"media.sampling"}, [&] { load(MediaSource::Kind::kVideo, "walk.npy", other); });
  MediaSource many;
  many.kind = MediaSource::Kind::kFrames;
  many.path = "many";
  many.frames = std::make_shared<const Frames>(Frames{33, 1, 1, std::vector<uint8_t>(99)});
  ExpectError({"many", "33", "32"}, [&] { internals.LoadMedia(many, {}, {}); });
  const VideoCost cost = Model::CostOfVideo(model.directory(), 8, 480, 640, {}, "What?", {}, {});
  EXPECT_EQ(cost.media.tokens, 45);
  ExpectError({"33 frames"}, [&] { Model::CostOfVideo(model.directory(), 33, 48, 64, {}, "", {}, {}); });
}

// A still is seen once by tower and first stage, and gives what so many equal frames give.
TEST(VideoLlama2, AStillIsAVideoOfEqualFrames) {
  const ReferenceModel model("videollama2");
  const auto loaded = Model::Load(model.directory(), {.activations = Dtype::kF32});
  const LanguageModel& internals = loaded->internals();
  const PreparedMedia still =
      internals.LoadMedia({MediaSource::Kind::kImage, ReferencePath("media/street.png")}, {}, {});
  PreparedMedia video = still;
  Frames frame;
  still.source->Read(0, 1, &frame);
  Frames frames{6, frame.height, frame.width, {}};
  for (int i = 0; i < 6; ++i) frames.rgb.insert(frames.rgb.end(), frame.rgb.begin(), frame.rgb.end());
  video.source = StreamOf(std::move(frames));
  video.tiles = {{{0, 6}, {6, 4, 4}}};
  Matrix<float> one(36, 128), other(36, 128);
  ASSERT_TRUE(internals.Encode(still, one.View(), {}));
  ASSERT_TRUE(internals.Encode(video, other.View(), {}));
  for (int64_t i = 0; i < one.size(); ++i) ASSERT_NEAR(one.data()[i], other.data()[i], 1e-5F) << i;
  const Matrix<float> pixels = internals.Pixels(still), same = internals.Pixels(video);
  for (int64_t i = 0; i < pixels.size(); ++i) ASSERT_EQ(pixels.data()[i], same.data()[i]) << i;
}

TEST(VideoLlama2, TokensKnowSliceRowAndColumn) {
  const ReferenceModel model("videollama2");
  Session session(Model::Load(model.directory(), {}), {});
  session.Read(model.TurnNamed("video"));
  int32_t cell = 0;
  for (const TokenRecord& one : session.layout()) {
    if (one.kind == TokenRecord::Kind::kText) continue;
    EXPECT_EQ(one.kind, TokenRecord::Kind::kVideo);
    EXPECT_EQ(one.slice, cell / 9);
    EXPECT_EQ(one.row, cell / 3 % 3);
    EXPECT_EQ(one.column, cell % 3);
    ++cell;
  }
  EXPECT_EQ(cell, 36);
}

TEST(VideoLlama2, SparsePrefillDroppingAndPolicies) {
  const ReferenceModel model("videollama2_qwen2");
  const auto loaded = Model::Load(model.directory(), {.activations = Dtype::kF32});
  for (const char* policy : {"purekv", "snapkv", "infinipot-v", "uniform"}) {
    SCOPED_TRACE(policy);
    SessionOptions options;
    options.prefill.kind = "st";
    options.kv.policy = policy;
    options.kv.budget = 0.5;
    Session session(loaded, options);
    session.Read(model.TurnNamed("video"));
    EXPECT_EQ(session.Generate({.max_new_tokens = 3}, nullptr).ids.size(), 3u);
  }
}

}  // namespace
}  // namespace purekv
