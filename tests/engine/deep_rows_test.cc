// What media add behind the first layers (Qwen3-VL) in everything that a prefill can be: chunks, dropped tokens,
// eviction, shared and saved prefixes, repeated parts; and time as text among the slices.
#include "engine/deep_rows.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/pkv_file.h"
#include "engine/conversation.h"
#include "engine/prompt_media.h"
#include "engine/repeating.h"
#include "engine/shared_prefill.h"
#include "policy/registry.h"
#include "support/broken_model.h"
#include "support/expect_error.h"
#include "support/plain_decoder.h"
#include "support/reference_model.h"

namespace purekv {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint64_t kSeed = 7;
constexpr int64_t kLayers = 5, kSets = 3;
const std::vector<int32_t> kAnswer = {5, 6, 300, 8, 9, 77, 12};

TEST(DeepRows, AreAddedToTheirTokensAlone) {
  DeepRows rows({2, 3, 7}, 2, 4);
  for (int64_t set = 0; set < 2; ++set) {
    for (int64_t row = 0; row < 3; ++row) {
      for (int64_t i = 0; i < 4; ++i) rows.set(set).Row(row)[i] = static_cast<float>(100 * set + 10 * row + i);
    }
  }
  rows.MoveTokens(5);  // 7, 8, 12
  Matrix<float> hidden(4, 4);
  std::fill_n(hidden.data(), 16, 1.0F);
  const std::vector<int32_t> tokens = {6, 7, 9, 12};
  rows.Add(1, tokens, hidden.View());
  rows.Add(2, tokens, hidden.View());  // nothing is added there
  EXPECT_THAT(hidden.View().RowSpan(0), ElementsAre(1, 1, 1, 1));
  EXPECT_THAT(hidden.View().RowSpan(1), ElementsAre(101, 102, 103, 104));
  EXPECT_THAT(hidden.View().RowSpan(2), ElementsAre(1, 1, 1, 1));
  EXPECT_THAT(hidden.View().RowSpan(3), ElementsAre(121, 122, 123, 124));
  const DeepRows copy = rows.Copied(std::vector<int32_t>{-1, 12, 3, 8}, 50);
  EXPECT_EQ(copy.layers(), 2);
  copy.Add(0, std::vector<int32_t>{50, 51, 52, 53}, hidden.View());
  EXPECT_THAT(hidden.View().RowSpan(0), ElementsAre(1, 1, 1, 1));
  EXPECT_THAT(hidden.View().RowSpan(1), ElementsAre(121, 123, 125, 127));
  EXPECT_THAT(hidden.View().RowSpan(2), ElementsAre(1, 1, 1, 1));
  EXPECT_THAT(hidden.View().RowSpan(3), ElementsAre(131, 133, 135, 137));
}

class DeepModelTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    files_ = std::make_unique<ReferenceModel>("qwen3_vl");
    directory_ = std::make_unique<TemporaryDirectory>("deep");
    for (const auto& entry : std::filesystem::directory_iterator(files_->directory())) {
      const std::string name = entry.path().filename().string();
      if (!name.ends_with(".safetensors")) std::filesystem::copy_file(entry.path(), directory_->File(name));
    }
    EditJson(directory_->File("config.json"),
             [](Json& config) { config["text_config"]["num_hidden_layers"] = kLayers; });
    WriteRandomWeights(directory_->path(), {.seed = kSeed, .dtype = Dtype::kF32});
    model_ = Model::Load(directory_->path(), {.activations = Dtype::kF32, .threads = 1});
    ASSERT_EQ(model_->internals().deep_sets(), kSets);
  }
  static void TearDownTestSuite() {
    model_.reset();
    directory_.reset();
    files_.reset();
  }
  static SessionOptions Options(const std::string& policy = "full", double budget = 0.4) {
    SessionOptions options;
    options.threads = 1;
    options.kv.policy = policy;
    options.kv.when = KvOptions::When::kContext;
    if (policy != "full") options.kv.budget = budget;
    return options;
  }
  // Two images and a video, no question yet.
  static Turn MediaTurn() {
    Turn turn = files_->TurnNamed("images_video");
    turn.prompt = "";
    return turn;
  }
  static std::vector<float> Answer(Conversation& conversation) { return conversation.Score(kAnswer, true).logits; }
  static double Off(const std::vector<float>& a, const std::vector<float>& b) {
    double worst = 0, largest = 0;
    EXPECT_EQ(a.size(), b.size());
    for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
      worst = std::max(worst, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
      largest = std::max(largest, std::abs(static_cast<double>(b[i])));
    }
    return worst / largest;
  }

  static inline std::unique_ptr<ReferenceModel> files_;
  static inline std::unique_ptr<TemporaryDirectory> directory_;
  static inline std::shared_ptr<const Model> model_;
};

// Plain loops in f64.
class SlowDeepModelTest : public DeepModelTest {};

// Every token through every layer in plain loops; those that the engine dropped are hidden from their layer on.
TEST_F(SlowDeepModelTest, DroppedTokensTakeTheirRowsAlong) {
  Turn turn = MediaTurn();
  turn.prompt = "What moves?";
  for (const std::vector<DropLayer>& drops : {std::vector<DropLayer>{}, {{1, 0.6}, {2, 0.4}, {4, 0.2}}}) {
    SessionOptions options = Options("purekv", 1);  // nothing goes but what is dropped
    options.kv.when = KvOptions::When::kPrompt;
    options.kv.options = {{"sources", "0"}, {"recent", "3"}};
    options.kv.drop_layers = drops;
    options.block_rows = 7;
    Conversation conversation(model_, options);
    const PromptInfo info = conversation.ReadTurn(turn);
    ASSERT_EQ(conversation.kv().tokens_alive.size(), drops.size());
    for (const int64_t alive : conversation.kv().tokens_alive) EXPECT_LT(alive, std::ssize(info.ids));

    const LanguageModel& internals = model_->internals();
    const DecoderConfig& config = internals.decoder().config();
    std::vector<PreparedMedia> media;
    for (const MediaSource& source : turn.media) {
      media.push_back(internals.LoadMedia(source, turn.media_options, {}));
    }
    PromptTokens prompt;
    prompt.ids = info.ids;
    prompt.layout = conversation.layout();
    StageTimes times;
    const EmbeddedPrompt embedded = EmbedPrompt(internals, prompt, media, {}, &times);
    const Matrix<float>& rows = embedded.hidden;
    Rows hidden;
    for (int64_t i = 0; i < rows.rows(); ++i) hidden.emplace_back(rows.View().Row(i), rows.View().Row(i) + rows.cols());
    const PlainDecoder plain(config, kSeed);
    for (int64_t layer = 0; layer < kLayers; ++layer) {
      const std::vector<int32_t>& alive = conversation.kept()[static_cast<size_t>(layer)][0];
      PlainDecoder::Masks masks;
      masks.sees = [&](int64_t, int64_t, size_t, size_t key) {
        return std::binary_search(alive.begin(), alive.end(), static_cast<int32_t>(key));
      };
      masks.counts = [](int64_t, size_t) { return false; };
      plain.Run(hidden, conversation.positions(), layer, layer + 1, masks, nullptr);
      if (layer >= kSets) continue;
      int64_t visual = 0;
      for (size_t i = 0; i < hidden.size(); ++i) {
        if (!IsVisual(prompt.layout[i])) continue;
        const float* const added = std::as_const(*embedded.deep).set(layer).Row(visual++);
        for (size_t c = 0; c < hidden[i].size(); ++c) hidden[i][c] += static_cast<double>(added[c]);
      }
      EXPECT_EQ(visual, info.visual_tokens);
    }
    std::vector<float> expected;
    for (const double logit : plain.Logits(hidden.back())) expected.push_back(static_cast<float>(logit));
    EXPECT_LT(Off(conversation.Score({5}, true).logits, expected), 1e-5) << drops.size();
  }
}

TEST_F(DeepModelTest, ChunksKeepWhatTheWholeKeeps) {
  for (const char* const policy : {"full", "h2o", "purekv", "infinipot-v"}) {
    SCOPED_TRACE(policy);
    std::vector<float> whole;
    std::vector<std::vector<std::vector<int32_t>>> kept;
    for (const int64_t chunk : {0, 13, 1}) {
      SessionOptions options = Options(policy);
      options.chunk_tokens = chunk;
      Conversation conversation(model_, options);
      conversation.ReadMedia(MediaTurn());
      conversation.ReadTurn({.prompt = "What moves?"});
      const std::vector<float> logits = Answer(conversation);
      if (chunk == 0) {
        whole = logits;
        kept = conversation.kept();
      }
      EXPECT_LT(Off(logits, whole), 1e-4) << chunk;
      EXPECT_EQ(conversation.kept(), kept) << chunk;
    }
  }
}

TEST_F(DeepModelTest, EveryPolicyReadsAndAnswers) {
  for (const PolicyInfo& policy : Policies()) {
    SCOPED_TRACE(policy.name);
    Turn turn = MediaTurn();
    turn.prompt = "What moves?";
    Conversation conversation(model_, Options(policy.name));
    conversation.ReadTurn(turn);
    conversation.Generate({.max_new_tokens = 4}, nullptr);
    conversation.ReadTurn({.prompt = "And then?"});  // of text alone
    EXPECT_FALSE(conversation.Generate({.max_new_tokens = 4}, nullptr).ids.empty());
  }
}

TEST_F(DeepModelTest, SpatialTemporalPrefillKnowsTheSlices) {
  Turn turn = MediaTurn();
  turn.prompt = "What moves?";
  SessionOptions options = Options();
  options.prefill.kind = "st";
  options.prefill.options["start"] = "1";
  Conversation sparse(model_, options);
  sparse.ReadTurn(turn);
  EXPECT_LT(sparse.prefill().flops_share, 1);
  EXPECT_EQ(sparse.prefill().start, 1);
  EXPECT_FALSE(sparse.Generate({.max_new_tokens = 4}, nullptr).ids.empty());
}

TEST_F(DeepModelTest, ASharedPrefillAnswersAsSessionsOfTheirOwn) {
  std::vector<KvOptions> settings;
  for (const char* const policy : {"full", "snapkv", "purekv", "kvzip"}) {
    for (const auto when : {KvOptions::When::kContext, KvOptions::When::kPrompt}) {
      settings.push_back(Options(policy).kv);
      settings.back().when = when;
    }
  }
  SessionOptions options;
  options.threads = 1;
  SharedPrefill shared(model_, options, settings);
  shared.ReadMedia(MediaTurn());
  shared.ReadQuestion("What moves?");
  for (size_t i = 0; i < settings.size(); ++i) {
    SCOPED_TRACE(settings[i].policy);
    Turn turn = MediaTurn();
    turn.prompt = "What moves?";
    options.kv = settings[i];
    Conversation own(model_, options);
    own.ReadTurn(turn);
    Conversation compressed = shared.Compress(i);
    if (settings[i].when == KvOptions::When::kContext) compressed.ReadTurn({.prompt = "What moves?"});
    EXPECT_EQ(compressed.kept(), own.kept());
    EXPECT_LT(Off(Answer(compressed), Answer(own)), 1e-4);
  }
}

// The part and what repeats it, run as one prompt in plain loops.
TEST_F(SlowDeepModelTest, WhatRepeatsAPartHasItsRowsToo) {
  const LanguageModel& internals = model_->internals();
  const Turn turn = MediaTurn();
  const std::vector<PreparedMedia> media = {internals.LoadMedia(turn.media.at(2), turn.media_options, {})};
  std::vector<int32_t> ids = {3, 10, 17};
  const std::vector<int32_t> video = internals.MediaIds(true);
  ids.insert(ids.end(), video.begin(), video.end());
  ids.insert(ids.end(), {20, 21});
  Conversation conversation(model_, Options());
  VisualRows visual(conversation.layout());
  conversation.ReadPrompt(ids, media, &visual);
  const RepeatedPart repeated = conversation.RepeatAll(1000, visual);

  const PromptTokens prompt = internals.LayOut(ids, media, 0);
  StageTimes times;
  const EmbeddedPrompt embedded =
      EmbedPrompt(internals, prompt, {internals.LoadMedia(turn.media.at(2), turn.media_options, {})}, {}, &times);
  const auto tokens = static_cast<size_t>(embedded.hidden.rows()), begin = static_cast<size_t>(repeated.begin);
  std::vector<size_t> sources(tokens + tokens - begin);  // of each row
  for (size_t i = 0; i < sources.size(); ++i) sources[i] = i < tokens ? i : begin + i - tokens;
  Rows hidden;
  std::vector<Position> positions = prompt.positions;
  const int32_t shift = prompt.next_position - positions[begin].t;
  for (size_t i = 0; i < sources.size(); ++i) {
    const auto row = embedded.hidden.View().RowSpan(static_cast<int64_t>(sources[i]));
    hidden.emplace_back(row.begin(), row.end());
    const Position& of = prompt.positions[sources[i]];
    if (i >= tokens) positions.push_back({of.t + shift, of.h + shift, of.w + shift});
  }
  std::vector<int64_t> deep(tokens, -1);
  int64_t count = 0;
  for (size_t i = 0; i < tokens; ++i) {
    if (IsVisual(prompt.layout[i])) deep[i] = count++;
  }
  const PlainDecoder plain(internals.decoder().config(), kSeed);
  PlainDecoder::Masks masks;
  masks.sees = [](int64_t, int64_t, size_t, size_t) { return true; };
  masks.counts = [&](int64_t, size_t query) { return query >= tokens; };
  std::vector<PlainDecoder::LayerRecord> records;
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    plain.Run(hidden, positions, layer, layer + 1, masks, &records);
    for (size_t i = 0; i < hidden.size() && layer < kSets; ++i) {
      if (deep[sources[i]] < 0) continue;
      const float* const added = std::as_const(*embedded.deep).set(layer).Row(deep[sources[i]]);
      for (size_t c = 0; c < hidden[i].size(); ++c) hidden[i][c] += static_cast<double>(added[c]);
    }
    const auto& maxima = repeated.maxima[static_cast<size_t>(layer)];
    for (size_t head = 0; head < maxima.size(); ++head) {
      for (size_t token = 0; token < tokens; ++token) {
        EXPECT_NEAR(maxima[head][token], records.back().largest[head][token], 1e-4) << layer << " " << token;
      }
    }
  }
}

TEST_F(DeepModelTest, ASavedContextGoesOnAsTheSessionThatSavedIt) {
  const std::string path = directory_->File("saved.pkv");
  for (const char* const policy : {"full", "snapkv", "purekv", "kvzip"}) {
    SCOPED_TRACE(policy);
    Session session(model_, Options(policy));
    const PromptInfo info = session.ReadMedia(MediaTurn());
    EXPECT_THAT(info.media.at(2).slice_seconds, ElementsAre(0.25, 1.25, 2.0));
    EXPECT_TRUE(info.media.at(0).slice_seconds.empty());
    session.Save(path);
    SessionOptions plain;
    plain.threads = 1;
    Session opened = Session::Open(model_, path, plain);
    EXPECT_EQ(opened.kept(), session.kept());
    for (Session* const one : {&session, &opened}) one->Read({.prompt = "What moves?"});
    EXPECT_EQ(opened.Score(kAnswer, true).logits, session.Score(kAnswer, true).logits);
  }
}

TEST_F(DeepModelTest, ForgedTimesAreRefused) {
  const std::string path = directory_->File("sound.pkv"), forged = directory_->File("forged.pkv");
  {
    Session session(model_, Options());
    session.ReadMedia(MediaTurn());
    session.Save(path);
  }
  const MappedFile file(path);
  const PkvContents sound = ParsePkv(file.bytes(), path);
  const auto refused = [&](const std::string& says, const auto& edit) {
    PkvContents contents = sound;
    edit(contents);
    WritePkv(forged, contents);
    ExpectError({forged, says}, [&] {
      SessionOptions plain;
      plain.threads = 1;
      Session::Open(model_, forged, plain);
    });
  };
  refused("id of token", [](PkvContents& c) { c.media[2].slice_seconds[1] = 1.5; });
  refused("tokens; the media end", [](PkvContents& c) { c.media[2].slice_seconds[1] = 10.5; });  // one more
  refused("slice_seconds: 2 numbers for 3 slices", [](PkvContents& c) { c.media[2].slice_seconds.pop_back(); });
  refused("media[2]", [](PkvContents& c) { c.media[2].slice_seconds[0] = -1; });
  // A marker that says that it is a cell's.
  std::vector<int32_t> records(sound.records.begin(), sound.records.end());
  size_t cell = 0;
  while (records[5 * cell] != static_cast<int32_t>(TokenRecord::Kind::kVideo)) ++cell;
  std::swap_ranges(records.begin() + static_cast<std::ptrdiff_t>(5 * (cell - 1)),
                   records.begin() + static_cast<std::ptrdiff_t>(5 * cell),
                   records.begin() + static_cast<std::ptrdiff_t>(5 * cell));
  refused("record of token", [&](PkvContents& c) { c.records = records; });
}

}  // namespace
}  // namespace purekv
