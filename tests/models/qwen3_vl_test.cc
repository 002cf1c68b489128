// What Qwen3-VL does differently: sizes, frames, times, positions, its config. Values are transformers' 4.57.1.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "base/file.h"
#include "media/sampling.h"
#include "models/qwen_preprocessor.h"
#include "models/qwen_prompt.h"
#include "models/qwen_vision_tower.h"
#include "models/registry.h"
#include "models/rope.h"
#include "support/reference_model.h"

namespace purekv {
namespace {

Json Published() {
  return PublishedConfig("qwen3-vl-4b");
}

QwenConfig Config() {
  return ParseQwenConfig(Published(), QwenVersion::kQwen3, "config");
}

TEST(Qwen3VlRope, AxesInterleave) {
  const std::vector<int64_t> sections = {24, 20, 20};
  std::vector<int> axes;
  for (const uint8_t axis : InterleavedRope(128, 5e6, sections).axis) axes.push_back(axis);
  std::vector<int> expected;
  for (int f = 0; f < 60; ++f) expected.push_back(f % 3);
  expected.insert(expected.end(), 4, 0);
  EXPECT_EQ(axes, expected);
  EXPECT_EQ(InterleavedRope(128, 5e6, sections).inv_freq, PlainRope(128, 5e6).inv_freq);
  // A section of h that ends before that of w.
  axes.clear();
  for (const uint8_t axis : InterleavedRope(16, 5e6, std::vector<int64_t>{4, 1, 3}).axis) axes.push_back(axis);
  EXPECT_EQ(axes, (std::vector<int>{0, 1, 2, 0, 0, 2, 0, 0}));
}

TEST(Qwen3VlTower, PositionsAreStretchedOverTheGrid) {
  using Tap = std::pair<int64_t, double>;
  const std::vector<std::vector<Tap>> expected = {
      {{0, 1.0}},
      {{9, 0.6}, {10, 0.4}},
      {{720, 0.333333}, {768, 0.666667}},
      {{729, 0.2}, {730, 0.133333}, {777, 0.4}, {778, 0.266667}},
      {{18, 0.200001}, {19, 0.799999}},
      {{28, 0.799999}, {29, 0.200001}},
      {{738, 0.066667}, {739, 0.266666}, {786, 0.133334}, {787, 0.533333}},
      {{748, 0.266666}, {749, 0.066667}, {796, 0.533333}, {797, 0.133334}},
      {{37, 0.400002}, {38, 0.599998}},
      {{47, 1.0}},
      {{757, 0.133334}, {758, 0.199999}, {805, 0.266668}, {806, 0.399999}},
      {{767, 0.333333}, {815, 0.666667}},
      {{1488, 0.666668}, {1536, 0.333332}},
      {{1497, 0.400001}, {1498, 0.266667}, {1545, 0.199999}, {1546, 0.133333}},
      {{2256, 1.0}},
      {{2265, 0.6}, {2266, 0.4}},
      {{1506, 0.133334}, {1507, 0.533334}, {1554, 0.066667}, {1555, 0.266665}},
      {{1516, 0.533334}, {1517, 0.133334}, {1564, 0.266665}, {1565, 0.066667}},
      {{2274, 0.200001}, {2275, 0.799999}},
      {{2284, 0.799999}, {2285, 0.200001}},
      {{1525, 0.266668}, {1526, 0.4}, {1573, 0.133333}, {1574, 0.199999}},
      {{1535, 0.666668}, {1583, 0.333332}},
      {{2293, 0.400002}, {2294, 0.599998}},
      {{2303, 1.0}},
  };
  const std::vector<PositionTaps> taps = InterpolatePositions({1, 4, 6}, 48, 2);
  ASSERT_EQ(taps.size(), expected.size());
  for (size_t patch = 0; patch < taps.size(); ++patch) {
    std::vector<Tap> found;
    for (size_t i = 0; i < 4; ++i) {
      if (taps[patch].weights[i] != 0) {
        found.emplace_back(taps[patch].rows[i], static_cast<double>(taps[patch].weights[i]));
      }
    }
    ASSERT_EQ(found.size(), expected[patch].size()) << patch;
    for (size_t i = 0; i < found.size(); ++i) {
      EXPECT_EQ(found[i].first, expected[patch][i].first) << patch;
      EXPECT_NEAR(found[i].second, expected[patch][i].second, 1.1e-6) << patch;
    }
  }
}

// The rows and columns of the patches in their order, by a table so large that every patch has a place of its own.
TEST(Qwen3VlTower, PatchesOfACellLieTogether) {
  const std::vector<std::array<int64_t, 2>> expected = {{0, 0}, {0, 1}, {1, 0}, {1, 1}, {0, 2}, {0, 3}, {1, 2}, {1, 3},
                                                        {0, 4}, {0, 5}, {1, 4}, {1, 5}, {2, 0}, {2, 1}, {3, 0}, {3, 1},
                                                        {2, 2}, {2, 3}, {3, 2}, {3, 3}, {2, 4}, {2, 5}, {3, 4}, {3, 5}};
  const std::vector<PositionTaps> taps = InterpolatePositions({1, 4, 6}, 16, 2);
  ASSERT_EQ(taps.size(), expected.size());
  for (size_t i = 0; i < taps.size(); ++i) {
    EXPECT_EQ(taps[i].rows[0], 5 * expected[i][0] * 16 + 3 * expected[i][1]) << i;
    EXPECT_FLOAT_EQ(taps[i].weights[0], 1) << i;
  }
}

// frames, height, width -> height, width
TEST(Qwen3VlSizes, VideosByTheirVolume) {
  const std::vector<std::array<int64_t, 7>> rows = {
      {8, 240, 320, 256, 320, 256, 320},  {16, 360, 640, 352, 640, 160, 288},  {32, 720, 1280, 640, 1152, 96, 192},
      {64, 720, 1280, 448, 832, 64, 128}, {128, 720, 1280, 320, 576, 32, 96},  {256, 720, 1280, 224, 416, 32, 64},
      {768, 720, 1280, 128, 224, 32, 32}, {768, 1080, 1920, 128, 224, 32, 32}, {7, 480, 640, 480, 640, 288, 384},
      {4, 48, 64, 64, 64, 160, 224},      {2, 32, 32, 64, 64, 256, 256},       {5, 96, 96, 96, 96, 192, 192}};
  for (const auto& [frames, height, width, h, w, small_h, small_w] : rows) {
    EXPECT_EQ(SmartResizeVolume(frames, height, width, 2, 32, 4096, 25165824), (Size{h, w})) << frames;
    EXPECT_EQ(SmartResizeVolume(frames, height, width, 2, 32, 131072, 786432), (Size{small_h, small_w})) << frames;
  }
  EXPECT_THROW(SmartResizeVolume(1, 64, 64, 2, 32, 4096, 25165824), Error);
  EXPECT_THROW(SmartResizeVolume(4, 31, 64, 2, 32, 4096, 25165824), Error);
  EXPECT_THROW(SmartResizeVolume(4, 32, 32 * 201, 2, 32, 4096, 25165824), Error);
}

TEST(Qwen3VlSizes, VideosOfBothReferences) {
  const auto preprocessor = QwenPreprocessor::Read(Config(), "");
  MediaOptions hugging_face, qwen;
  hugging_face.sampling = FrameSampling::kHuggingFace;
  qwen.sampling = FrameSampling::kQwenVlUtils;
  // frames, height, width; qwen-vl-utils: height, width, tokens; transformers: the same
  const std::vector<std::array<int64_t, 9>> rows = {
      {8, 240, 320, 320, 448, 560, 256, 320, 320},         {16, 360, 640, 352, 640, 1760, 352, 640, 1760},
      {32, 720, 1280, 640, 1152, 11520, 640, 1152, 11520}, {64, 720, 1280, 640, 1152, 23040, 448, 832, 11648},
      {128, 720, 1280, 640, 1152, 46080, 320, 576, 11520}, {256, 720, 1280, 640, 1152, 92160, 224, 416, 11648},
      {768, 720, 1280, 384, 736, 105984, 128, 224, 10752}};
  for (const auto& row : rows) {
    const PreparedMedia utils = preprocessor->PlanVideo(row[0], row[1], row[2], qwen);
    EXPECT_EQ((std::array{utils.frames.height, utils.frames.width, utils.tokens}),
              (std::array{row[3], row[4], row[5]}));
    for (const MediaOptions& options : {hugging_face, MediaOptions{}}) {
      const PreparedMedia own = preprocessor->PlanVideo(row[0], row[1], row[2], options);
      EXPECT_EQ((std::array{own.frames.height, own.frames.width, own.tokens}), (std::array{row[6], row[7], row[8]}));
    }
  }
  // What the caller asks for is of each frame.
  MediaOptions small, large;
  small.max_pixels = 64 * 64;
  EXPECT_LE(preprocessor->PlanVideo(8, 240, 320, small).tokens, 4 * 4);
  large.min_pixels = 512 * 512;
  EXPECT_GE(preprocessor->PlanVideo(8, 240, 320, large).tokens, 4 * 256);
}

TEST(Qwen3VlSizes, Images) {
  const std::vector<std::array<int64_t, 4>> rows = {
      {224, 224, 256, 256},     {256, 256, 256, 256},     {300, 400, 288, 384},     {480, 640, 480, 640},
      {720, 1280, 704, 1280},   {1080, 1920, 1088, 1920}, {2160, 3840, 2176, 3840}, {4096, 4096, 4096, 4096},
      {5000, 7000, 3456, 4832}, {32, 32, 256, 256},       {20, 20, 256, 256},       {1000, 28, 1536, 64},
      {100, 1600, 96, 1600},    {365, 547, 352, 544}};
  const PixelLimits limits = QwenPreprocessor::Read(Config(), "")->limits().image;
  for (const auto& [height, width, h, w] : rows) {
    EXPECT_EQ(SmartResize(height, width, 32, limits.min_pixels, limits.max_pixels), (Size{h, w})) << height;
  }
}

struct Sampled {
  int64_t total;
  double fps;
  size_t count;
  std::vector<int64_t> first, last;
  std::vector<std::string> times;
  std::string last_time;
};

TEST(Qwen3VlFrames, AreThoseOfTransformers) {
  const std::vector<Sampled> all = {
      {300,
       30.0,
       20,
       {0, 16, 31, 47, 63, 79, 94, 110},
       {268, 283, 299},
       {"0.3", "1.3", "2.4", "3.4", "4.5", "5.5"},
       "9.7"},
      {100, 25.0, 8, {0, 14, 28, 42, 57, 71, 85, 99}, {71, 85, 99}, {"0.3", "1.4", "2.6", "3.7"}, "3.7"},
      {7, 30.0, 4, {0, 2, 4, 6}, {2, 4, 6}, {"0.0", "0.2"}, "0.2"},
      {3, 30.0, 3, {0, 1, 2}, {0, 1, 2}, {"0.0", "0.1"}, "0.1"},
      {9000,
       29.97,
       600,
       {0, 15, 30, 45, 60, 75, 90, 105},
       {8969, 8984, 8999},
       {"0.3", "1.3", "2.3", "3.3", "4.3", "5.3"},
       "300.0"},
      {54000,
       30.0,
       768,
       {0, 70, 141, 211, 282, 352, 422, 493},
       {53858, 53929, 53999},
       {"1.2", "5.9", "10.6", "15.2", "19.9", "24.6"},
       "1798.8"},
      {250,
       24.0,
       20,
       {0, 13, 26, 39, 52, 66, 79, 92},
       {223, 236, 249},
       {"0.3", "1.4", "2.5", "3.6", "4.6", "5.7"},
       "10.1"},
      {61, 30.0, 4, {0, 20, 40, 60}, {20, 40, 60}, {"0.3", "1.7"}, "1.7"},
  };
  for (const Sampled& one : all) {
    const FrameChoice choice = ChooseFramesEvenly({0, one.total}, one.fps, 2, 4, 768, 2, "film.mp4");
    ASSERT_EQ(choice.indices.size(), one.count) << one.total;
    EXPECT_TRUE(std::equal(one.first.begin(), one.first.end(), choice.indices.begin())) << one.total;
    EXPECT_TRUE(std::equal(one.last.rbegin(), one.last.rend(), choice.indices.rbegin())) << one.total;
    const std::vector<double> seconds = SliceSeconds(choice.indices, one.fps, 2);
    ASSERT_EQ(seconds.size(), (one.count + 1) / 2);
    std::vector<std::string> times;
    for (const double second : seconds) {
      char text[32];
      std::snprintf(text, sizeof(text), "%.1f", second);
      times.emplace_back(text);
    }
    EXPECT_TRUE(std::equal(one.times.begin(), one.times.end(), times.begin())) << one.total;
    EXPECT_EQ(times.back(), one.last_time) << one.total;
  }
  // Of a part of a video the indices, and so the times, are the whole's.
  const FrameChoice part = ChooseFramesEvenly({100, 7}, 30, 2, 4, 768, 2, "film.mp4");
  EXPECT_EQ(part.indices, (std::vector<int64_t>{100, 102, 104, 106}));
  EXPECT_THROW(ChooseFramesEvenly({0, 1}, 30, 2, 4, 768, 2, "film.mp4"), Error);
}

// Ids of a toy vocabulary.
constexpr int32_t kStart = 89, kImage = 90, kVideo = 91, kEnd = 92;

PreparedMedia Media(const Grid& grid) {
  PreparedMedia media;
  media.kind = grid.t > 1 ? MediaSource::Kind::kVideo : MediaSource::Kind::kImage;
  media.tiles = {{{}, grid}};
  media.tokens = grid.patches() / 4;
  return media;
}

PromptTokens LayOut(const std::vector<int32_t>& ids, std::span<const PreparedMedia> media) {
  QwenConfig config = Config();
  config.image_id = kImage;
  config.video_id = kVideo;
  config.vision_start_id = kStart;
  config.vision_end_id = kEnd;
  return QwenPrompt(config, {}).LayOut(ids, media, 0);
}

// Text is as long as it is in the reference's prompt, a token a character.
TEST(Qwen3VlPrompt, EverySliceIsABlockOfPositions) {
  // "<0.2 seconds>" is 13 tokens there, and none here, where there is no tokenizer: what follows lies that much lower.
  const std::vector<PreparedMedia> media = {Media({1, 6, 10}), Media({3, 4, 6}), Media({1, 4, 4})};
  std::vector<int32_t> ids(7, 1);  // <|im_start|>user\nA
  ids.insert(ids.end(), {kStart, kImage, kEnd, 1, kStart, kVideo, kEnd, 1, kStart, kImage, kEnd, 1, 2, 3});
  const PromptTokens prompt = LayOut(ids, media);
  ASSERT_EQ(prompt.ids.size(), 7u + 17 + 1 + 3 * 8 + 1 + 6 + 3);
  std::vector<int32_t> expected_ids(7, 1);
  const auto add = [&](int32_t id, size_t count) { expected_ids.insert(expected_ids.end(), count, id); };
  add(kStart, 1), add(kImage, 15), add(kEnd, 1), add(1, 1);
  for (int slice = 0; slice < 3; ++slice) add(kStart, 1), add(kVideo, 6), add(kEnd, 1);
  add(1, 1), add(kStart, 1), add(kImage, 4), add(kEnd, 1);
  expected_ids.insert(expected_ids.end(), {1, 2, 3});
  EXPECT_EQ(prompt.ids, expected_ids);
  size_t token = 7;
  int32_t next = 7;
  const auto text = [&] {
    EXPECT_EQ(prompt.positions[token], (Position{next, next, next})) << token;
    EXPECT_EQ(prompt.layout[token].item, -1) << token;
    ++next;
    ++token;
  };
  const auto block = [&](int32_t item, int32_t slice, int32_t height, int32_t width) {
    for (int32_t y = 0; y < height; ++y) {
      for (int32_t x = 0; x < width; ++x, ++token) {
        EXPECT_EQ(prompt.positions[token], (Position{next, next + y, next + x})) << token;
        const TokenRecord& record = prompt.layout[token];
        EXPECT_EQ((std::array{record.item, record.slice, record.row, record.column}), (std::array{item, slice, y, x}));
      }
    }
    next += std::max(height, width);
  };
  text();
  block(0, 0, 3, 5);
  EXPECT_EQ(next, 13);
  text();
  text();
  for (int32_t slice = 0; slice < 3; ++slice) {
    text();
    block(1, slice, 2, 3);
    text();
  }
  text();
  text();
  block(2, 0, 2, 2);
  text();
  EXPECT_EQ(prompt.media_end, static_cast<int64_t>(token));
  for (int i = 0; i < 3; ++i) text();
  EXPECT_EQ(token, prompt.ids.size());
  EXPECT_EQ(prompt.next_position, next);
}

TEST(Qwen3VlPrompt, AVideoAtTheEndEndsWithItsMarker) {
  const std::vector<PreparedMedia> media = {Media({2, 2, 2})};
  EXPECT_EQ(LayOut({1, kStart, kVideo, kEnd, 5}, media).media_end, 1 + 2 * 3);
  EXPECT_EQ(LayOut({1, kStart, kVideo, kEnd}, media).media_end, 1 + 2 * 3);
  // Without markers around it, a placeholder is replaced alone.
  EXPECT_EQ(LayOut({1, kVideo, 5}, media).ids,
            (std::vector<int32_t>{1, kStart, kVideo, kEnd, kStart, kVideo, kEnd, 5}));
  EXPECT_THROW(LayOut({1, kStart, kImage, kEnd}, media), Error);
  EXPECT_THROW(LayOut({1, 2}, media), Error);
}

// The reference's whole prompt (two images, five frames) with a tokenizer that writes the times.
TEST(Qwen3VlPrompt, TimesStandInFrontOfTheirSlices) {
  const ReferenceModel files("qwen3_vl");
  const auto model_files = OpenModelConfig(files.directory());
  const auto prompt = PlanModel(*model_files)->ReadPrompt();
  const Tokenizer& tokenizer = *prompt->texts().tokenizer;
  PreparedMedia video = Media({3, 4, 6});
  video.slice_seconds = SliceSeconds({0, 12, 24, 37, 49}, 25.0, 2);
  const std::vector<int32_t> ids = tokenizer.Encode("A<|vision_start|><|video_pad|><|vision_end|>C");
  const PromptTokens laid = prompt->LayOut(ids, std::span(&video, 1), 0);
  std::string expected = "A";
  for (const char* const time : {"0.2", "1.2", "2.0"}) {
    expected += StrCat("<", time, " seconds><|vision_start|>");
    for (int i = 0; i < 6; ++i) expected += "<|video_pad|>";
    expected += "<|vision_end|>";
  }
  EXPECT_EQ(laid.ids, tokenizer.Encode(expected + "C"));
  EXPECT_EQ(static_cast<int64_t>(laid.ids.size()), 2 + 18 + prompt->MarkerTokens(video));
  video.slice_seconds.pop_back();
  EXPECT_THROW(prompt->LayOut(ids, std::span(&video, 1), 0), Error);
}

std::string Refusal(const Json& config) {
  try {
    PlanModel(*FilesOfShape("c.json", config));
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Qwen3VlConfig, PublishedShapesHaveThePublishedSizes) {
  const std::vector<std::pair<const char*, double>> billions = {{"qwen3-vl-2b", 1.721 + 0.407},
                                                                {"qwen3-vl-4b", 4.022 + 0.415},
                                                                {"qwen3-vl-8b", 8.191 + 0.576},
                                                                {"qwen3-vl-32b", 32.762 + 0.595}};
  for (const auto& [shape, expected] : billions) {
    const auto files = FilesOfShape(shape, PublishedConfig(shape));
    const auto plan = PlanModel(*files);
    double total = 0;
    for (const TensorSpec& spec : plan->tensors) {
      double count = 1;
      for (const int64_t dim : spec.shape) count *= static_cast<double>(dim);
      total += count;
    }
    EXPECT_NEAR(total / 1e9, expected, 0.002) << shape;
  }
}

TEST(Qwen3VlConfig, TheRootsWordOnTyingWins) {
  Json config = Published();
  config["text_config"]["tie_word_embeddings"] = false;
  EXPECT_TRUE(PlanModel(*FilesOfShape("c.json", config))->decoder.tied_embeddings);
  config.erase("tie_word_embeddings");
  EXPECT_FALSE(PlanModel(*FilesOfShape("c.json", config))->decoder.tied_embeddings);
}

TEST(Qwen3VlConfig, NamesWhatItRefuses) {
  const auto with = [](const char* pointer, const Json& value) {
    Json config = Published();
    config[Json::json_pointer(pointer)] = value;
    return config;
  };
  const auto without = [](const char* section, const char* key) {
    Json config = Published();
    (section == nullptr ? config : config[section]).erase(key);
    return config;
  };
  const std::vector<std::pair<Json, const char*>> cases = {
      {with("/architectures", Json::array({"Qwen3VLMoeForConditionalGeneration"})),
       "Qwen3VLMoeForConditionalGeneration"},
      {with("/text_config/num_experts", 128), "num_experts 128"},
      {with("/text_config/hidden_act", "gelu"), "hidden_act"},
      {with("/text_config/head_dim", 0), "head_dim"},
      {with("/text_config/head_dim", 64), "mrope_section"},
      {with("/text_config/rope_scaling/rope_type", "yarn"), "yarn"},
      {with("/text_config/rope_scaling/mrope_section", Json::array({24, 20})), "mrope_section"},
      {with("/text_config/rope_scaling/mrope_section", Json::array({24, 20, 21})), "mrope_section"},
      {with("/text_config/rope_scaling", nullptr), "mrope_section"},
      {with("/text_config/num_key_value_heads", 3), "num_key_value_heads"},
      {with("/vision_config/hidden_act", "silu"), "hidden_act"},
      {with("/vision_config/num_position_embeddings", 2303), "num_position_embeddings 2303"},
      {with("/vision_config/num_position_embeddings", 1e18), "num_position_embeddings"},
      {with("/vision_config/deepstack_visual_indexes", Json::array({5, 24})), "deepstack_visual_indexes: 24"},
      {with("/vision_config/deepstack_visual_indexes", Json::array({11, 5})), "deepstack_visual_indexes: 5"},
      {with("/vision_config/deepstack_visual_indexes", Json::array({5, 5})), "deepstack_visual_indexes: 5"},
      {with("/vision_config/deepstack_visual_indexes", 5), "deepstack_visual_indexes"},
      {with("/vision_config/out_hidden_size", 2048), "2048"},
      {with("/vision_config/num_heads", 17), "heads"},
      {with("/vision_config/in_channels", 1), "in_channels"},
      {with("/vision_config/depth", 0), "depth"},
      {with("/vision_start_token_id", -1), "vision_start_token_id"},
      {with("/video_token_id", 151655), "video_token_id"},
      {without(nullptr, "vision_end_token_id"), "vision_end_token_id"},
      {without("text_config", "rms_norm_eps"), "rms_norm_eps"},
      {without("vision_config", "intermediate_size"), "intermediate_size"},
      {without("vision_config", "deepstack_visual_indexes"), "deepstack_visual_indexes"},
      {without("vision_config", "num_position_embeddings"), "num_position_embeddings"},
  };
  for (const auto& [config, word] : cases) {
    const std::string message = Refusal(config);
    EXPECT_NE(message.find(word), std::string::npos) << word << ": " << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }
  Json few = Published();
  few["text_config"]["num_hidden_layers"] = 2;
  EXPECT_NE(Refusal(few).find("deepstack_visual_indexes: 3 blocks for 2 layers"), std::string::npos) << Refusal(few);
}

TEST(Qwen3VlConfig, NamesWhatItRefusesOfThePreprocessors) {
  const std::vector<std::pair<const char*, Json>> cases = {
      {"patch_size", 14},          {"temporal_patch_size", 1}, {"merge_size", 4},
      {"do_sample_frames", false}, {"num_frames", 8},          {"fps", 0},
      {"max_frames", 1},           {"do_resize", false},       {"size", Json::array({64})},
      {"image_std", {0.5, 0.5}},   {"min_frames", "several"}};
  for (const auto& [key, value] : cases) {
    const TemporaryDirectory directory("qwen3vl");
    Json json = {{"size", {{"shortest_edge", 4096}, {"longest_edge", 25165824}}}, {"patch_size", 16}};
    json[key] = value;
    const bool of_images = std::string(key) == "image_std";
    WriteFile(directory.File(of_images ? "preprocessor_config.json" : "video_preprocessor_config.json"), json.dump());
    std::string message = "no error";
    try {
      QwenPreprocessor::Read(Config(), directory.path());
    } catch (const Error& error) {
      message = error.what();
    }
    EXPECT_NE(message.find(key), std::string::npos) << key << ": " << message;
    EXPECT_NE(message.find("preprocessor_config.json"), std::string::npos) << message;
  }
}

}  // namespace
}  // namespace purekv
