// LLaVA-OneVision: config.json, what is refused by name, images as maps of tokens with newlines, several images,
// videos, saved files.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <tuple>
#include <vector>

#include "base/file.h"
#include "models/anyres_connector.h"
#include "models/anyres_preprocessor.h"
#include "models/llava_onevision_config.h"
#include "models/registry.h"
#include "support/broken_model.h"
#include "support/reference_model.h"

namespace purekv {
namespace {

using Kind = TokenRecord::Kind;

Json Published() {
  return PublishedConfig("llava-onevision-7b");
}

double Billions(const std::vector<TensorSpec>& specs) {
  return static_cast<double>(ParameterCount(specs)) / 1e9;
}

TEST(LlavaOnevision, PublishedSizes) {
  const auto files = FilesOfShape("c", Published());
  const auto plan = PlanModel(*files);
  EXPECT_NEAR(Billions(plan->tensors), 7.071 + 0.545 + 0.398 + 0.017, 0.02);
  EXPECT_TRUE(plan->decoder.one_axis());
  EXPECT_EQ(plan->decoder.cache_spec(KvFormat::kBF16).token_bytes(), 57344);
  // Frames of 14 x 14 tokens of 27 x 27 patches.
  EXPECT_EQ(plan->ReadPreprocessor()->TokensOfGrid({32, 27, 27}), 32 * 196);
  EXPECT_EQ(plan->ReadPreprocessor()->SmallestGrid(), (Grid{1, 27, 27}));
}

TEST(LlavaOnevision, ImagesBecomeAsManyTokensAsTransformersMakes) {
  const struct {
    Size image, cells;
    int64_t tokens;  // newlines included
  } cases[] = {{{384, 384}, {27, 27}, 1485},   {{480, 640}, {40, 54}, 2929},    {{640, 480}, {54, 40}, 2943},
               {{720, 1280}, {54, 96}, 5967},  {{1080, 1920}, {60, 108}, 7269}, {{1920, 1080}, {108, 60}, 7317},
               {{899, 1024}, {71, 81}, 6551},  {{2160, 3840}, {61, 107}, 7317}, {{100, 1000}, {9, 81}, 1467},
               {{1000, 100}, {81, 9}, 1539},   {{300, 300}, {27, 27}, 1485},    {{768, 768}, {54, 54}, 3699},
               {{2304, 2304}, {81, 81}, 7371}, {{200, 3000}, {11, 162}, 2522},  {{336, 1008}, {27, 81}, 2943}};
  const auto files = FilesOfShape("c", Published());
  const auto plan = PlanModel(*files);
  const auto parts = plan->ReadPreprocessor();
  const auto* preprocessor = dynamic_cast<const AnyresPreprocessor*>(parts.get());
  ASSERT_NE(preprocessor, nullptr);
  const auto prompt = plan->ReadPrompt();
  for (const auto& one : cases) {
    SCOPED_TRACE(std::to_string(one.image.height) + " x " + std::to_string(one.image.width));
    PreparedMedia medium;
    medium.kind = MediaSource::Kind::kImage;
    medium.mosaic = preprocessor->MosaicOf(one.image, "image");
    EXPECT_EQ(medium.mosaic->cells, one.cells);
    medium.tiles.resize(static_cast<size_t>(1 + medium.mosaic->tiles.count()), {{0, 1}, {1, 27, 27}});
    medium.tokens = preprocessor->TokensOf(medium);
    EXPECT_EQ(medium.tokens + prompt->MarkerTokens(medium), one.tokens);
    EXPECT_EQ(static_cast<int64_t>(prompt->LayOut(prompt->MediaIds(false), {&medium, 1}, 0).ids.size()), one.tokens);
  }
}

TEST(LlavaOnevision, MapsThatNoImageMakesAreRefused) {
  const auto files = FilesOfShape("c", Published());
  const auto preprocessor = PlanModel(*files)->ReadPreprocessor();
  const auto with = [](int64_t tiles, int64_t side, std::optional<Size> cells) {
    PreparedMedia medium;
    medium.kind = MediaSource::Kind::kImage;
    medium.tiles = {{{0, 1}, {tiles, side, side}}};
    if (cells) medium.mosaic = {.tiles = {}, .covered = {}, .cells = *cells};
    return medium;
  };
  EXPECT_EQ(preprocessor->TokensOf(with(1, 27, {})), 729);
  EXPECT_EQ(preprocessor->TokensOf(with(3, 27, Size{27, 54})), 729 + 27 * 54);
  ExpectError({"27x27"}, [&] { preprocessor->TokensOf(with(1, 26, {})); });
  ExpectError({"3x27x27"}, [&] { preprocessor->TokensOf(with(3, 27, {})); });
  ExpectError({"1x27x27"}, [&] { preprocessor->TokensOf(with(1, 27, Size{27, 27})); });
  for (const Size& cells : {Size{28, 54}, Size{1, 1459}, Size{0, 1}, Size{1, -1}, Size{1LL << 40, 1LL << 40}}) {
    ExpectError({"map of"}, [&] { preprocessor->TokensOf(with(3, 27, cells)); });
  }
  // A family without maps.
  const auto other = FilesOfShape("c", PublishedConfig("internvl3-1b"));
  ExpectError({"map of"}, [&] { PlanModel(*other)->ReadPreprocessor()->TokensOf(with(3, 32, Size{4, 4})); });
}

TEST(LlavaOnevision, NamesWhatItRefuses) {
  const Json pairs = Json::array({Json::array({384, 384}), Json::array({384, 768})});
  Json sound = Published();
  sound["image_grid_pinpoints"] = pairs;
  PlanModel(*FilesOfShape("c.json", sound));
  const auto pinpoints = [&](Json last) {
    Json list = pairs;
    list.push_back(std::move(last));
    return list;
  };
  const std::vector<std::tuple<const char*, Json, const char*>> cases = {
      {"/text_config/model_type", "opt", "opt"},
      {"/text_config", nullptr, "text_config"},
      {"/vision_config", {{"model_type", "hiera"}}, "hiera"},
      {"/vision_feature_layer", 27, "vision_feature_layer"},
      {"/vision_feature_layer", 0, "vision_feature_layer"},
      {"/vision_feature_select_strategy", "default", "vision_feature_select_strategy"},
      {"/vision_aspect_ratio", "anyres", "vision_aspect_ratio"},
      {"/vision_aspect_ratio", "anyres_max_0", "vision_aspect_ratio"},
      {"/vision_aspect_ratio", "anyres_max_9x", "vision_aspect_ratio"},
      {"/vision_aspect_ratio", "anyres_max_99999999999999999999", "vision_aspect_ratio"},
      {"/vision_aspect_ratio", "pad", "vision_aspect_ratio"},
      {"/image_grid_pinpoints", "(1x1),...,(6x6)", "image_grid_pinpoints"},
      {"/image_grid_pinpoints", Json::array(), "image_grid_pinpoints"},
      {"/image_grid_pinpoints", pinpoints({384}), "[2]"},
      {"/image_grid_pinpoints", pinpoints({384, 385}), "385"},
      {"/image_grid_pinpoints", pinpoints({384 * 9, 384 * 9}), "64"},
      {"/image_grid_pinpoints", pinpoints({1e300, 384}), "[2]"},
      {"/image_grid_pinpoints", pinpoints(7), "[2]"},
      {"/projector_hidden_act", "relu", "projector_hidden_act"},
      {"/use_image_newline_parameter", false, "use_image_newline_parameter"},
      {"/image_token_index", 152128, "image_token_index"},
      {"/video_token_index", 151646, "video_token_index"},
      {"/text_config/vocab_size", 151646, "image_token_index"}};
  for (const auto& [pointer, value, word] : cases) {
    Json config = sound;
    config[Json::json_pointer(pointer)] = value;
    SCOPED_TRACE(std::string(pointer) + " " + value.dump());
    ExpectError({"c.json", word}, [&] { PlanModel(*FilesOfShape("c.json", config)); });
  }
}

TEST(LlavaOnevision, NamesWhatItRefusesOfThePreprocessor) {
  const ReferenceModel model("llava_onevision");
  for (const auto& [pointer, value, word] :
       {std::tuple{"/size/height", Json(384), "size"},
        std::tuple{"/image_grid_pinpoints", Json::array({Json::array({76, 76})}), "image_grid_pinpoints"},
        std::tuple{"/image_grid_pinpoints/0/0", Json(-76), "image_grid_pinpoints"},
        std::tuple{"/do_resize", Json(false), "do_resize"}, std::tuple{"/resample", Json(2), "resample"}}) {
    SCOPED_TRACE(pointer);
    const std::string path = model.directory() + "/preprocessor_config.json";
    const std::string sound = ReadFile(path, 1 << 20);
    EditJson(path, [&at = pointer, &to = value](Json& json) { json[Json::json_pointer(at)] = to; });
    ExpectError({"preprocessor_config.json", word}, [&] { Model::Load(model.directory(), {}); });
    WriteFile(path, sound);
  }
}

// The image alone is a first tile, then rows of a map with a newline behind each; the video's frames are smaller and
// end with one.
TEST(LlavaOnevision, TokensKnowTheirPlacesAndNewlines) {
  const ReferenceModel model("llava_onevision");
  Session session(Model::Load(model.directory(), {}), {});
  const PromptInfo info = session.Read(model.TurnNamed("mixed"));
  ASSERT_EQ(info.media.size(), 2U);
  const auto [rows, columns] = info.media[0].map;
  EXPECT_GT(rows, 5);
  EXPECT_GT(columns, 0);
  EXPECT_EQ(info.media[0].tokens, 25 + rows * columns);
  EXPECT_EQ(info.media[1].tokens, 5 * 3 * 3);
  EXPECT_EQ(info.media[1].map, (std::array<int64_t, 2>{}));
  const TokenLayout& layout = session.layout();
  std::vector<std::vector<int64_t>> newlines(2);
  std::vector<int64_t> visual(2);
  for (const TokenRecord& one : layout) {
    if (one.item < 0) continue;
    const auto item = static_cast<size_t>(one.item);
    if (one.kind == Kind::kText) {
      EXPECT_EQ(std::tuple(one.slice, one.row, one.column), (std::tuple{-1, -1, -1}));
      newlines[item].push_back(visual[item]);
      continue;
    }
    const int64_t place = visual[item]++;
    const int64_t wide = item == 1 ? 3 : place < 25 ? 5 : columns;
    const int64_t cell = item == 1 ? place % 9 : place < 25 ? place : place - 25;
    EXPECT_EQ(one.kind, item == 0 ? Kind::kImage : Kind::kVideo);
    EXPECT_EQ(one.slice, item == 1 ? place / 9 : place < 25 ? 0 : 1);
    EXPECT_EQ(one.row, cell / wide);
    EXPECT_EQ(one.column, cell % wide);
  }
  ASSERT_EQ(static_cast<int64_t>(newlines[0].size()), rows);
  for (int64_t row = 0; row < rows; ++row) EXPECT_EQ(newlines[0][static_cast<size_t>(row)], 25 + (row + 1) * columns);
  EXPECT_EQ(newlines[1], (std::vector<int64_t>{45}));
  // Both are text that policies treat as such, with the id of what they belong to.
  EXPECT_EQ(info.visual_tokens, info.media[0].tokens + 45);
}

TEST(LlavaOnevision, AWordForMediaInAUsersTextIsRefused) {
  const ReferenceModel model("llava_onevision");
  Session session(Model::Load(model.directory(), {}), {});
  for (const std::string word : {"<image>", "<video>"}) {
    ExpectError({word}, [&] { session.Read({.prompt = "a " + word + " here"}); });
  }
}

// The published template writes images before videos, in whatever order they are given.
TEST(LlavaOnevision, MediaThatTheTemplateReordersAreRefusedInOneLine) {
  const ReferenceModel model("llava_onevision");
  Turn turn = model.TurnNamed("mixed");
  std::swap(turn.media[0], turn.media[1]);
  Session session(Model::Load(model.directory(), {}), {});
  ExpectError({"chat template", "images and videos"}, [&] { session.Read(turn); });
}

// torch.nn.functional.interpolate(mode="bilinear"): two taps of 27 places for each of 14, of 54 for each of 40.
TEST(ScaleBilinear, TakesTheTapsThatTorchTakes) {
  const auto ramp = [](int64_t from, int64_t to) {
    std::vector<float> places;
    for (int64_t i = 0; i < from; ++i) places.push_back(static_cast<float>(i * i));
    Matrix<float> out(to, 1);
    ScaleBilinear([&](int64_t, int64_t x) { return &places[static_cast<size_t>(x)]; }, {1, from}, {1, to}, out.View());
    return std::vector<float>(out.data(), out.data() + to);
  };
  const auto between = [](int64_t first, double weight) {
    return static_cast<float>(static_cast<double>(first * first) * (1 - weight) +
                              static_cast<double>((first + 1) * (first + 1)) * weight);
  };
  const std::vector<float> pooled = ramp(27, 14);
  for (const auto& [to, first, weight] :
       {std::tuple{0, 0, 0.464286}, std::tuple{1, 2, 0.392857}, std::tuple{6, 12, 0.035714},
        std::tuple{7, 13, 0.964286}, std::tuple{13, 25, 0.535715}}) {
    EXPECT_NEAR(pooled[static_cast<size_t>(to)], between(first, weight), 1e-3) << to;
  }
  const std::vector<float> scaled = ramp(54, 40);
  for (const auto& [to, first, weight] :
       {std::tuple{0, 0, 0.175}, std::tuple{1, 1, 0.525}, std::tuple{2, 2, 0.875}, std::tuple{3, 4, 0.225}}) {
    EXPECT_NEAR(scaled[static_cast<size_t>(to)], between(first, weight), 1e-3) << to;
  }
  EXPECT_EQ(ramp(5, 5), (std::vector<float>{0, 1, 4, 9, 16}));
  EXPECT_EQ(ramp(1, 3), (std::vector<float>{0, 0, 0}));
}

// Rows and columns for themselves: what is linear in both stays so within.
TEST(ScaleBilinear, ScalesBothAxes) {
  const Size from{9, 13}, to{4, 6};
  std::vector<float> map;
  for (int64_t y = 0; y < from.height; ++y) {
    for (int64_t x = 0; x < from.width; ++x) map.push_back(static_cast<float>(100 * y + x));
  }
  Matrix<float> out(to.height * to.width, 1);
  ScaleBilinear([&](int64_t y, int64_t x) { return &map[static_cast<size_t>(y * from.width + x)]; }, from, to,
                out.View());
  for (int64_t y = 0; y < to.height; ++y) {
    for (int64_t x = 0; x < to.width; ++x) {
      const double at_y = (static_cast<double>(y) + 0.5) * 9 / 4 - 0.5,
                   at_x = (static_cast<double>(x) + 0.5) * 13 / 6 - 0.5;
      EXPECT_NEAR(out.Row(y * to.width + x)[0], 100 * at_y + at_x, 2e-3) << y << " " << x;
    }
  }
}

}  // namespace
}  // namespace purekv
