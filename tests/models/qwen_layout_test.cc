// Positions and windows against Hugging Face's own functions (tests/data/reference), and what a prompt must not hold.
#include <gtest/gtest.h>

#include "models/qwen_prompt.h"
#include "models/qwen_vision_tower.h"
#include "support/reference_model.h"

namespace purekv {
namespace {

constexpr int32_t kImage = 90;
constexpr int32_t kVideo = 91;
constexpr int32_t kEnd = 92;

QwenConfig Config(double tokens_per_second) {
  QwenConfig config;
  config.image_id = kImage;
  config.video_id = kVideo;
  config.vision_end_id = kEnd;
  config.vision.merge_size = 2;
  config.vision.temporal_patch_size = 2;
  config.vision.tokens_per_second = tokens_per_second;
  return config;
}

PreparedMedia Media(const Grid& grid, double seconds_per_slice) {
  PreparedMedia media;
  media.kind = grid.t > 1 ? MediaSource::Kind::kVideo : MediaSource::Kind::kImage;
  media.tiles = {{{}, grid}};
  media.tokens = grid.patches() / 4;
  media.sample_fps = 2 / seconds_per_slice;
  return media;
}

PromptTokens LayOut(const QwenConfig& config, const std::vector<int32_t>& ids, std::span<const PreparedMedia> media,
                    int32_t next_position) {
  return QwenPrompt(config, {}).LayOut(ids, media, next_position);
}

TEST(QwenLayout, TimeStepsAreTruncatedFloat32Products) {
  const Json golden = ReadJson(ReferencePath("position_ids.json"));
  int compared = 0;
  for (const Json& entry : golden.at("steps")) {
    const auto steps = entry.at("t").get<std::vector<int32_t>>();
    const PreparedMedia media = Media({static_cast<int64_t>(steps.size()), 2, 2}, entry.at("s").get<double>());
    const PromptTokens prompt =
        LayOut(Config(entry.at("tokens_per_second").get<double>()), {kVideo}, std::span(&media, 1), 0);
    ASSERT_EQ(prompt.positions.size(), steps.size());
    for (size_t t = 0; t < steps.size(); ++t)
      EXPECT_EQ(prompt.positions[t].t, steps[t]) << entry.at("name") << " slice " << t;
    compared += static_cast<int>(steps.size());
  }
  EXPECT_GT(compared, 2000);
}

TEST(QwenLayout, PositionsEqualHuggingFaces) {
  const Json golden = ReadJson(ReferencePath("position_ids.json"));
  for (const Json& entry : golden.at("full")) {
    std::vector<int32_t> ids;
    std::vector<PreparedMedia> media;
    for (const Json& run : entry.at("runs")) {
      if (run.contains("text")) {
        ids.insert(ids.end(), run.at("text").get<size_t>(), 1);
        continue;
      }
      const auto sides = run.at("grid").get<std::vector<int64_t>>();
      media.push_back(Media({sides[0], sides[1], sides[2]}, entry.at("s").get<double>()));
      ids.push_back(sides[0] > 1 ? kVideo : kImage);
    }
    const PromptTokens prompt = LayOut(Config(entry.at("tokens_per_second").get<double>()), ids, media, 0);
    const auto expected = entry.at("position_ids").get<std::vector<std::vector<int32_t>>>();
    ASSERT_EQ(prompt.positions.size(), expected[0].size());
    ASSERT_EQ(prompt.layout.size(), expected[0].size());
    for (size_t i = 0; i < prompt.positions.size(); ++i) {
      EXPECT_EQ(prompt.positions[i], (Position{expected[0][i], expected[1][i], expected[2][i]})) << i;
    }
    // The next token's position, as generate() continues it: sequence index plus delta.
    EXPECT_EQ(prompt.next_position, static_cast<int32_t>(prompt.ids.size()) + entry.at("delta").get<int32_t>());
  }
}

TEST(QwenLayout, TheClosingMarkerBelongsToTheMedia) {
  const std::vector<PreparedMedia> media = {Media({1, 4, 4}, 1), Media({2, 4, 4}, 1)};
  const PromptTokens prompt = LayOut(Config(2), {1, kImage, kEnd, 2, kVideo, kEnd, 3, 4}, media, 0);
  EXPECT_EQ(prompt.ids.size(), 1u + 4 + 1 + 1 + 8 + 1 + 2);
  EXPECT_EQ(prompt.media_end, 1 + 4 + 1 + 1 + 8 + 1);
  EXPECT_EQ(LayOut(Config(2), {1, kImage, 5, kVideo}, media, 0).media_end, 1 + 4 + 1 + 8);
  EXPECT_EQ(LayOut(Config(2), {1, 2, 3}, {}, 7).media_end, 0);
  EXPECT_EQ(prompt.layout[5].kind, TokenRecord::Kind::kText);
  EXPECT_EQ(prompt.layout[4].kind, TokenRecord::Kind::kImage);
  EXPECT_EQ(prompt.layout[4].row, 1);
  EXPECT_EQ(prompt.layout[4].column, 1);
  EXPECT_EQ(prompt.layout[14].item, 1);
  EXPECT_EQ(prompt.layout[14].slice, 1);
}

TEST(QwenLayout, MarkersWithoutMediaAreRefused) {
  const std::vector<PreparedMedia> media = {Media({1, 4, 4}, 1)};
  EXPECT_THROW(LayOut(Config(2), {1, kImage, kImage}, media, 0), Error);
  EXPECT_THROW(LayOut(Config(2), {1, kVideo}, media, 0), Error);
  EXPECT_THROW(LayOut(Config(2), {1, 2}, media, 0), Error);
}

TEST(QwenVisionTower, WindowsEqualHuggingFaces) {
  const Json golden = ReadJson(ReferencePath("vision_math.json"));
  int compared = 0;
  for (const Json& entry : golden.at("windows")) {
    QwenVisionConfig config;
    config.window_size = entry.at("window_size").get<int64_t>();
    std::vector<int64_t> order;
    std::vector<int64_t> cumulative = {0};
    for (const Json& sides : entry.at("grids")) {
      const WindowPlan plan =
          PlanWindows({sides[0].get<int64_t>(), sides[1].get<int64_t>(), sides[2].get<int64_t>()}, config);
      const auto offset = static_cast<int64_t>(order.size());
      const int64_t rows = cumulative.back();
      for (const int64_t unit : plan.unit_order) order.push_back(offset + unit);
      for (size_t i = 1; i < plan.windows.size(); ++i) cumulative.push_back(rows + plan.windows[i]);
      EXPECT_EQ(plan.slices.back(), plan.windows.back());
    }
    EXPECT_EQ(order, entry.at("index").get<std::vector<int64_t>>());
    EXPECT_EQ(cumulative, entry.at("cu_seqlens").get<std::vector<int64_t>>());
    ++compared;
  }
  EXPECT_GE(compared, 40);
}

}  // namespace
}  // namespace purekv
