// LLaVA-OneVision's maps and newlines below an engine: saved and opened, forged, repeated.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/file.h"
#include "checkpoint/pkv_file.h"
#include "engine/repeating.h"
#include "purekv/session.h"
#include "support/broken_model.h"
#include "support/reference_model.h"

namespace purekv {
namespace {

class LlavaOnevisionFiles : public testing::Test {
 protected:
  LlavaOnevisionFiles() {
    options_.kv.policy = "h2o";
    options_.kv.budget = 0.5;
    options_.kv.when = KvOptions::When::kContext;
    turn_ = files_.TurnNamed("mixed");
    question_ = turn_.prompt;
    turn_.prompt.clear();
    saved_ = directory_.File("read.pkv");
    Session session(model_, options_);
    session.ReadMedia(turn_);
    session.Save(saved_);
    session.Read({.prompt = question_});
    said_ = session.Generate({.max_new_tokens = 8}, nullptr).ids;
  }

  ReferenceModel files_{"llava_onevision"};
  std::shared_ptr<const Model> model_ = Model::Load(files_.directory(), {.activations = Dtype::kF32});
  TemporaryDirectory directory_{"onevision"};
  SessionOptions options_;
  Turn turn_;
  std::string question_, saved_;
  std::vector<int32_t> said_;
};

TEST_F(LlavaOnevisionFiles, SavedAndOpenedItAnswersTheSame) {
  Session session = Session::Open(model_, saved_, {});
  session.Read({.prompt = question_});
  EXPECT_EQ(session.Generate({.max_new_tokens = 8}, nullptr).ids, said_);
}

TEST_F(LlavaOnevisionFiles, ForgedMapsAndNewlinesAreRefused) {
  const MappedFile file(saved_);
  const PkvContents sound = ParsePkv(file.bytes(), saved_);
  ASSERT_EQ(sound.media.size(), 2U);
  ASSERT_GT(sound.media[0].map[0], 0);
  const auto refused = [&](const std::string& says, const auto& edit) {
    PkvContents contents = sound;
    edit(contents);
    const std::string forged = directory_.File("forged.pkv");
    WritePkv(forged, contents);
    ExpectError({forged, says}, [&] { Session::Open(model_, forged, {}); });
  };
  refused("record of token", [](PkvContents& c) { c.media[0].map = {}; });
  refused("record of token", [](PkvContents& c) { std::swap(c.media[0].map[0], c.media[0].map[1]); });
  refused("record of token", [](PkvContents& c) { c.media[0].map = {1, 1}; });
  refused("map", [](PkvContents& c) { c.media[0].map = {1 << 20, 1 << 20}; });
  refused("record of token", [](PkvContents& c) { c.media[1].map = {3, 3}; });
  std::vector<int32_t> records(sound.records.begin(), sound.records.end());
  const auto newline_at = [&] {
    for (size_t at = 0; at < records.size(); at += 5) {
      if (records[at] == 0 && records[at + 1] == 0) return at;
    }
    return records.size();
  };
  const size_t newline = newline_at();
  ASSERT_LT(newline, records.size());
  for (const auto& [place, value] : {std::pair{1, -1}, std::pair{1, 1}, std::pair{1, 1 << 30}, std::pair{2, 0}}) {
    std::vector<int32_t> forged = records;
    forged[newline + static_cast<size_t>(place)] = value;
    refused("record of token", [&](PkvContents& c) { c.records = forged; });
  }
  // A newline in front of what it ends.
  std::vector<int32_t> early = records;
  early[1] = 0;
  refused("record of token 0", [&](PkvContents& c) { c.records = early; });
}

// kvzip repeats what was read with the rows that it was read as, newlines among them.
TEST_F(LlavaOnevisionFiles, NewlinesAreRepeatedAsTheRowsThatTheyAre) {
  const LanguageModel& internals = model_->internals();
  PromptTokens prompt;
  prompt.AddText(7);
  prompt.AddText(8);
  prompt.layout[1].item = 0;
  VisualRows rows(prompt.layout);
  Matrix<float> hidden(2, 3);
  std::fill_n(hidden.Row(1), 3, 5.0F);
  rows.Input(0, hidden.View());
  EXPECT_TRUE(rows.Row(0).empty());
  ASSERT_EQ(rows.Row(1).size(), 3U);
  EXPECT_EQ(rows.Row(1)[0], 5.0F);
  const std::span<const float> newline = internals.newline();
  ASSERT_EQ(static_cast<int64_t>(newline.size()), internals.decoder().config().hidden);
  EXPECT_TRUE(std::any_of(newline.begin(), newline.end(), [](float x) { return x != 0; }));
}

}  // namespace
}  // namespace purekv
