// What LanguageModel does with the parts of a family that is none of the published ones: tiles, connectors that want
// everything at once, and no eyes at all.
#include "models/family.h"

#include <gtest/gtest.h>

#include <memory>
#include <utility>
#include <vector>

#include "models/language_model.h"
#include "models/measuring.h"
#include "models/text_prompt.h"
#include "support/broken_model.h"

namespace purekv {
namespace {

constexpr int64_t kHidden = 6;

DecoderConfig Config() {
  DecoderConfig config;
  config.hidden = kHidden;
  config.layers = 2;
  config.heads = 2;
  config.kv_heads = 1;
  config.head_dim = 4;
  config.intermediate = 8;
  config.vocabulary = 20;
  config.max_positions = 64;
  const int64_t by_time[] = {2, 0, 0};
  config.ropes = {SectionedRope(4, 1e4, by_time)};
  config.per_layer.resize(2);
  return config;
}

Decoder MakeDecoder() {
  const auto source = RandomTensors(Decoder::Tensors(Config()), 1, Dtype::kF32);
  return Decoder(Config(), *source, NumberFormats::Of(Dtype::kF32));
}

// Patches of one pixel and one frame, which become one token each: the rows say what they were made of.
PatchSpec Patches() {
  return {.patch_size = 1, .temporal_patch_size = 1, .merge_size = 1, .mean = {}, .std = {1, 1, 1}};
}

class PixelPreprocessor final : public Preprocessor {
 public:
  PixelPreprocessor() : Preprocessor(Patches()) {}
  PreparedMedia Load(const MediaSource&, const MediaOptions&, int64_t, const FrameProgress&) const override {
    return {};
  }
  PreparedMedia PlanVideo(int64_t, int64_t, int64_t, const MediaOptions&) const override { return {}; }
  int64_t TokensOfGrid(const Grid& grid) const override { return MergedTokens(grid, 1); }
};

// A row is the patch, and the grid that came with it; in a second set twice that.
class PlainTower final : public VisionTower {
 public:
  int64_t hidden() const override { return 4; }
  int64_t blocks() const override { return 2; }
  int64_t sets() const override { return 2; }
  StorageTotals storage() const override { return {{{"bf16", 1000}}, 0, 500, {}}; }
  std::optional<std::vector<Matrix<float>>> Encode(MatrixView<const float> patches, const Grid& grid,
                                                   const std::function<bool()>& keep_going) const override {
    EXPECT_EQ(patches.rows, grid.patches());
    std::vector<Matrix<float>> sets;
    for (const float times : {1.0F, 2.0F}) {
      Matrix<float>& rows = sets.emplace_back(patches.rows, 4);
      for (int64_t i = 0; i < patches.rows; ++i) {
        for (int64_t c = 0; c < 3; ++c) rows.Row(i)[c] = times * patches.Row(i)[c];
        rows.Row(i)[3] = times * static_cast<float>(grid.t);
      }
    }
    if (keep_going && (!keep_going() || !keep_going())) return std::nullopt;
    return sets;
  }
};

class PlainConnector final : public Connector {
 public:
  explicit PlainConnector(bool mixes) : mixes_(mixes) {}
  StorageTotals storage() const override { return {{{"w8c", 100}}, 0, 100, {}}; }
  bool MixesSlices(const PreparedMedia&) const override { return mixes_; }
  int64_t deep_sets() const override { return 1; }
  void Connect(std::span<const MatrixView<const float>> sets, std::span<const Tile> tiles, const PreparedMedia&,
               const MediaFeatures& out) const override {
    ASSERT_EQ(sets.size(), 2u);
    ASSERT_EQ(out.deep.size(), 1u);
    for (const auto& [rows, to] : {std::pair(sets[0], out.rows), std::pair(sets[1], out.deep[0])}) {
      ASSERT_EQ(rows.rows, to.rows);
      int64_t row = 0;
      for (const Tile& tile : tiles) {
        for (int64_t p = 0; p < tile.grid.patches(); ++p, ++row) {
          std::copy_n(rows.Row(row), 4, to.Row(row));
          to.Row(row)[4] = static_cast<float>(tile.frames.first);
          to.Row(row)[5] = static_cast<float>(tiles.size());
        }
      }
      EXPECT_EQ(row, rows.rows);
    }
  }

 private:
  bool mixes_;
};

LanguageModel Seeing(bool mixes) {
  FamilyParts parts;
  parts.prompt = std::make_unique<const TextPrompt>(ChatTexts());
  parts.preprocessor = std::make_unique<const PixelPreprocessor>();
  parts.tower = std::make_unique<const PlainTower>();
  parts.connector = std::make_unique<const PlainConnector>(mixes);
  return {std::move(parts), MakeDecoder()};
}

// Tiles of 3, 1 and 2 frames of 30 x 60 pixels. The tower takes up to 4096 patches at a time: two slices of 1800.
PreparedMedia ThreeTiles() {
  Frames frames{6, 30, 60, {}};
  for (int64_t i = 0; i < 6 * 30 * 60 * 3; ++i) frames.rgb.push_back(static_cast<uint8_t>(i * 7 % 253));
  PreparedMedia media;
  media.frames = {6, 30, 60};
  media.tiles = {{{0, 3}, {3, 30, 60}}, {{3, 1}, {1, 30, 60}}, {{4, 2}, {2, 30, 60}}};
  media.tokens = 6 * 30 * 60;
  media.source = StreamOf(std::move(frames));
  return media;
}

TEST(Family, TilesAreEncodedOneAfterAnother) {
  const PreparedMedia media = ThreeTiles();
  EXPECT_EQ(media.grid(), (Grid{6, 30, 60}));
  for (const bool mixes : {false, true}) {
    SCOPED_TRACE(mixes);
    const LanguageModel model = Seeing(mixes);
    EXPECT_EQ(model.storage().total_bytes(), model.decoder().storage().total_bytes() + 1100);
    const Matrix<float> pixels = model.Pixels(media);
    EXPECT_EQ(model.deep_sets(), 1);
    Matrix<float> out(media.tokens, kHidden), deep(media.tokens, kHidden);
    const MediaFeatures features{out.View(), {deep.View()}};
    std::vector<int64_t> done;
    ASSERT_TRUE(model.Encode(media, features, [&](int64_t now, int64_t total) {
      EXPECT_EQ(total, 10800);
      done.push_back(now);
      return true;
    }));
    // Two blocks each for slices 0 and 1, 2, 3, 4 and 5.
    EXPECT_EQ(done.size(), 8u);
    EXPECT_EQ(done.front(), 1800);
    EXPECT_EQ(done.back(), 10800);
    EXPECT_TRUE(std::is_sorted(done.begin(), done.end()));
    for (int64_t row = 0; row < media.tokens; ++row) {
      const int64_t frame = row / 1800;
      for (int64_t c = 0; c < 3; ++c) {
        const auto value = static_cast<float>((row * 3 + c) * 7 % 253) / 255;
        ASSERT_NEAR(out.Row(row)[c], value, 1e-6F) << row;
        ASSERT_EQ(out.Row(row)[c], pixels.Row(row)[c]) << row;
      }
      const int64_t tile_first = frame < 3 ? 0 : frame == 3 ? 3 : 4;
      const bool pair = frame != 2 && frame != 3;
      const int64_t piece_first = pair ? frame / 2 * 2 : frame;
      ASSERT_EQ(out.Row(row)[3], pair ? 2.0F : 1.0F);  // slices that the tower saw together
      ASSERT_EQ(out.Row(row)[4], static_cast<float>(mixes ? tile_first : piece_first)) << row;
      ASSERT_EQ(out.Row(row)[5], mixes ? 3.0F : 1.0F);
      for (int64_t c = 0; c < kHidden; ++c) ASSERT_EQ(deep.Row(row)[c], out.Row(row)[c] * (c < 4 ? 2.0F : 1.0F)) << row;
    }
    int asked = 0;
    EXPECT_FALSE(model.Encode(media, features, [&](int64_t, int64_t) { return ++asked < 5; }));
    EXPECT_EQ(asked, 5);
  }
}

// One frame for several slices: read once, seen by the tower once, and in its place in each.
TEST(Family, AStillIsShownInEverySlice) {
  PreparedMedia media = ThreeTiles();
  media.tiles = {{{2, 1}, {3, 30, 60}}, {{0, 2}, {2, 30, 60}}};
  media.tokens = 5 * 30 * 60;
  for (const bool mixes : {false, true}) {
    SCOPED_TRACE(mixes);
    const LanguageModel model = Seeing(mixes);
    const Matrix<float> pixels = model.Pixels(media);
    Matrix<float> out(media.tokens, kHidden), deep(media.tokens, kHidden);
    int64_t last = 0, calls = 0;
    ASSERT_TRUE(model.Encode(media, {out.View(), {deep.View()}}, [&](int64_t now, int64_t total) {
      EXPECT_EQ(total, 9000);
      last = now;
      return ++calls > 0;
    }));
    EXPECT_EQ(last, 9000);
    EXPECT_EQ(calls, 4);
    for (int64_t row = 0; row < media.tokens; ++row) {
      const int64_t slice = row / 1800, frame = slice < 3 ? 2 : slice - 3;
      for (int64_t c = 0; c < 3; ++c) {
        const auto value = static_cast<float>(((frame * 1800 + row % 1800) * 3 + c) * 7 % 253) / 255;
        ASSERT_NEAR(out.Row(row)[c], value, 1e-6F) << row;
        ASSERT_EQ(out.Row(row)[c], pixels.Row(row)[c]) << row;
      }
      ASSERT_EQ(out.Row(row)[3], slice < 3 ? 1.0F : 2.0F);
      ASSERT_EQ(deep.Row(row)[4], out.Row(row)[4]);
    }
  }
}

// Rows for deeper layers must not be forgotten by who asks for the first ones alone.
TEST(FamilyDeathTest, DeepSetsAreNotForgotten) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const LanguageModel model = Seeing(false);
  const PreparedMedia media = ThreeTiles();
  Matrix<float> out(media.tokens, kHidden);
  EXPECT_DEATH(model.Encode(media, out.View(), {}), "0 deep sets");
}

TEST(Family, MediaMadeUpFitTheirGrid) {
  const PixelPreprocessor preprocessor;
  const PreparedMedia media = RandomMedia(preprocessor, {2, 3, 5});
  EXPECT_EQ(media.tokens, 30);
  EXPECT_EQ(media.grid(), (Grid{2, 3, 5}));
  EXPECT_EQ(media.source->count(), 2);
  EXPECT_EQ(media.source->size(), (Size{3, 5}));
  ExpectError({"0x3x5"}, [&] { RandomMedia(preprocessor, {0, 3, 5}); });
}

TEST(Family, WithoutEyesItReadsText) {
  ChatTexts texts;
  texts.stop_ids = {7};
  FamilyParts parts;
  parts.prompt = std::make_unique<const TextPrompt>(std::move(texts));
  const LanguageModel model(std::move(parts), MakeDecoder());
  EXPECT_FALSE(model.sees());
  EXPECT_EQ(model.deep_sets(), 0);
  EXPECT_EQ(model.storage().total_bytes(), model.decoder().storage().total_bytes());
  EXPECT_EQ(model.stop_ids(), std::vector<int32_t>{7});
  EXPECT_EQ(model.tokenizer(), nullptr);
  EXPECT_LT(model.PlaceholderId(true), 0);
  EXPECT_TRUE(model.MediaIds(false).empty());
  for (const KernelChoice& choice : KernelsOf(model.decoder(), model.sees()))
    EXPECT_NE(choice.primitive, "attention.vision");
  const PromptTokens prompt = model.LayOut({3, 1, 4}, {}, 5);
  EXPECT_EQ(prompt.ids, (std::vector<int32_t>{3, 1, 4}));
  EXPECT_EQ(prompt.layout.size(), 3u);
  EXPECT_EQ(prompt.positions, (std::vector<Position>{{5, 5, 5}, {6, 6, 6}, {7, 7, 7}}));
  EXPECT_EQ(prompt.next_position, 8);
  EXPECT_EQ(prompt.media_end, 0);

  const auto refuse = [](const std::string& path, const std::function<void()>& work) {
    ExpectError({path, "sees no images or videos"}, work);
  };
  refuse("cat.mp4", [&] { model.LoadMedia({MediaSource::Kind::kVideo, "cat.mp4"}, {}, {}); });
  refuse("video", [&] { model.PlanVideo(8, 28, 28, {}); });
  refuse("video", [&] { model.TokensOfGrid({1, 2, 2}); });
  PreparedMedia media = ThreeTiles();
  media.path = "cat.mp4";
  refuse("cat.mp4", [&] { model.LayOut({3}, {&media, 1}, 0); });
  refuse("cat.mp4", [&] { model.Pixels(media); });
  Matrix<float> out(media.tokens, kHidden);
  refuse("cat.mp4", [&] { model.Encode(media, out.View(), {}); });
}

}  // namespace
}  // namespace purekv
