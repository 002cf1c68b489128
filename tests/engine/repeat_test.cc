// A part that the model repeats before it is compressed (kvzip): what stays is what plain loops over every row say,
// with and without a request of the chat template; and what is shared, refused and cancelled.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "engine/conversation.h"
#include "engine/shared_prefill.h"
#include "support/expect_error.h"
#include "support/plain_decoder.h"
#include "support/small_model.h"

namespace purekv {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

using Kept = std::vector<std::vector<std::vector<int32_t>>>;

SessionOptions Options(int64_t tokens, int64_t chunk, KvOptions::When when = KvOptions::When::kPrompt) {
  SessionOptions options;
  options.threads = 1;
  options.kv.policy = "kvzip";
  options.kv.tokens = tokens;
  options.kv.when = when;
  options.kv.options = {{"chunk", std::to_string(chunk)}, {"recent", "3"}};
  return options;
}

// A prompt as the engine laid it out, in f64.
struct PlainPart {
  std::vector<int32_t> ids;
  TokenLayout layout;
  std::vector<Position> positions;
  Rows embedded;
  size_t before_media = 0;

  PlainPart(const SmallModel& small, const Conversation& read, const std::vector<int32_t>& all, int64_t tokens)
      : ids(all.begin(), all.begin() + tokens),
        layout(read.layout().begin(), read.layout().begin() + tokens),
        positions(read.positions().begin(), read.positions().begin() + tokens),
        embedded(Embedded(small, ids)) {
    const auto first = std::find_if(layout.begin(), layout.end(), IsVisual);
    if (first == layout.end()) return;
    before_media = static_cast<size_t>(first - layout.begin());
    const PreparedMedia video = small.Video();
    Matrix<float> seen(video.tokens, small.internals().decoder().config().hidden);
    small.internals().Encode(video, seen.View(), {});
    for (int64_t i = 0; i < seen.rows(); ++i) {
      embedded[before_media + static_cast<size_t>(i)].assign(seen.Row(i), seen.Row(i) + seen.cols());
    }
  }

  static Rows Embedded(const SmallModel& small, const std::vector<int32_t>& ids) {
    Matrix<float> rows(static_cast<int64_t>(ids.size()), small.internals().decoder().config().hidden);
    small.internals().decoder().Embed(ids, rows.View());
    Rows out;
    for (int64_t i = 0; i < rows.rows(); ++i) out.emplace_back(rows.Row(i), rows.Row(i) + rows.cols());
    return out;
  }
};

// [layers][kv_heads][tokens] The part and each chunk behind it, run as one prompt; every row behind the part counts.
std::vector<Rows> PlainMaxima(const SmallModel& small, const PlainPart& part, const RepeatRequest& request,
                              size_t chunk) {
  const DecoderConfig& config = small.internals().decoder().config();
  const PlainDecoder plain(config, SmallModel::kSeed);
  const size_t tokens = part.ids.size();
  std::vector<Rows> maxima(size_t(config.layers), Rows(size_t(config.kv_heads), std::vector<double>(tokens, 0.0)));
  int32_t behind = 0;
  for (const Position& p : part.positions) behind = std::max({behind, p.t + 1, p.h + 1, p.w + 1});
  for (size_t first = part.before_media; first < tokens; first += chunk) {
    const size_t last = std::min(tokens, first + chunk);
    Rows hidden = part.embedded;
    std::vector<Position> positions = part.positions;
    const auto say = [&](const std::vector<int32_t>& ids) {
      for (const std::vector<double>& row : PlainPart::Embedded(small, ids)) hidden.push_back(row);
    };
    if (first == part.before_media) {
      say(request.first);
    } else if (!request.later.empty()) {
      say(request.later);
      for (size_t i = first - std::min<size_t>(8, chunk); i < first; ++i) hidden.push_back(part.embedded[i]);
      say(request.later_end);
    }
    while (positions.size() < hidden.size()) {
      const int32_t p = behind + static_cast<int32_t>(positions.size() - tokens);
      positions.push_back({p, p, p});
    }
    const int32_t next = behind + static_cast<int32_t>(hidden.size() - tokens);
    int32_t lowest = part.positions[first].t;
    for (size_t i = first; i < last; ++i) {
      lowest = std::min({lowest, part.positions[i].t, part.positions[i].h, part.positions[i].w});
    }
    for (size_t i = first; i < last; ++i) {
      const Position& p = part.positions[i];
      hidden.push_back(part.embedded[i]);
      positions.push_back({p.t - lowest + next, p.h - lowest + next, p.w - lowest + next});
    }
    std::vector<PlainDecoder::LayerRecord> records;
    plain.Run(hidden, positions, 0, config.layers,
              {.sees = [](int64_t, int64_t, size_t, size_t) { return true; },
               .counts = [&](int64_t, size_t query) { return query >= tokens; }},
              &records);
    for (size_t l = 0; l < maxima.size(); ++l) {
      for (size_t g = 0; g < maxima[l].size(); ++g) {
        for (size_t j = 0; j < tokens; ++j) maxima[l][g][j] = std::max(maxima[l][g][j], records[l].largest[g][j]);
      }
    }
  }
  return maxima;
}

// Of B entries per head, shared out over all layers and heads: the protected ones, and none that a better one misses.
void ExpectTheBest(const Kept& kept, const std::vector<Rows>& maxima, size_t base, size_t before_media) {
  const size_t sinks = std::min(before_media > 0 ? before_media : 4, base / 4);
  const size_t recent = std::min<size_t>(3, base / 2);
  size_t sum = 0, heads = 0;
  double worst_kept = 1e30, best_gone = -1;
  for (size_t l = 0; l < maxima.size(); ++l) {
    for (size_t g = 0; g < maxima[l].size(); ++g, ++heads) {
      const std::vector<double>& score = maxima[l][g];
      const std::vector<int32_t>& mine = kept[l][g];
      EXPECT_TRUE(std::is_sorted(mine.begin(), mine.end()));
      sum += mine.size();
      for (size_t j = 0; j < score.size(); ++j) {
        const bool stays = std::binary_search(mine.begin(), mine.end(), int32_t(j));
        if (j < sinks || j + recent >= score.size()) {
          EXPECT_TRUE(stays) << "layer " << l << ", head " << g << ", token " << j;
        } else if (stays) {
          worst_kept = std::min(worst_kept, score[j]);
        } else {
          best_gone = std::max(best_gone, score[j]);
        }
      }
    }
  }
  EXPECT_EQ(sum, heads * base);
  EXPECT_GE(worst_kept, best_gone * (1 - 1e-4));
}

class RepeatTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { small_ = std::make_unique<SmallModel>(Heads{4, 2}); }
  static void TearDownTestSuite() { small_.reset(); }

  static std::string Text(const std::vector<int32_t>& ids) {
    return small_->internals().tokenizer()->Decode(ids, false);
  }

  static std::unique_ptr<SmallModel> small_;
};
std::unique_ptr<SmallModel> RepeatTest::small_;

TEST_F(RepeatTest, IdsAreRepeatedWithoutARequest) {
  const std::vector<int32_t> ids = small_->Ids(3, 9);
  for (const int64_t chunk : {11, 100'000}) {
    std::vector<Rows> maxima;
    for (const int64_t base : {1, 13}) {
      SCOPED_TRACE(StrCat("chunks of ", chunk, ", ", base, " kept"));
      SessionOptions options = Options(base, chunk);
      options.block_rows = 7;
      Conversation conversation(small_->model(), options);
      const PromptInfo info = conversation.ReadPrompt(ids, {small_->Video()});
      const PlainPart part(*small_, conversation, info.ids, static_cast<int64_t>(info.ids.size()));
      if (maxima.empty()) maxima = PlainMaxima(*small_, part, {}, size_t(std::min<int64_t>(chunk, 1000)));
      ExpectTheBest(conversation.kept(), maxima, size_t(base), part.before_media);
      EXPECT_GT(conversation.times().repeat_s, 0);
      EXPECT_LE(conversation.times().repeat_s, conversation.times().prefill_s);
      conversation.Generate({.max_new_tokens = 4}, nullptr);
    }
  }
}

TEST_F(RepeatTest, BehindTheMediaTheRequestEndsTheUsersMessage) {
  const RepeatRequest request = MakeRepeatRequest(small_->internals(), {}, RepeatPlace::kInTurn);
  EXPECT_THAT(Text(request.first), StartsWith("\n\nRepeat the previous context exactly."));
  EXPECT_THAT(Text(request.first), EndsWith("assistant\n"));
  EXPECT_EQ(Text(request.later), "\n\nRepeat the part of the previous context exactly, starting with");
  EXPECT_EQ(Text(request.first), "\n\nRepeat the previous context exactly." + Text(request.later_end));
  SessionOptions options = Options(12, 14, KvOptions::When::kMedia);
  Conversation conversation(small_->model(), options);
  const PromptInfo info = conversation.ReadTurn(small_->VideoTurn());
  const int64_t tokens = conversation.kv().tokens_compressed;
  ASSERT_LT(tokens, static_cast<int64_t>(info.ids.size()));
  const PlainPart part(*small_, conversation, info.ids, tokens);
  ExpectTheBest(conversation.kept(), PlainMaxima(*small_, part, request, 14), 12, part.before_media);
  // The question does not matter, nor whether it is known yet.
  Conversation apart(small_->model(), options);
  Turn turn = small_->VideoTurn();
  turn.prompt = "";
  apart.ReadMedia(turn);
  EXPECT_EQ(apart.kept(), conversation.kept());
}

TEST_F(RepeatTest, BehindAWholeTurnTheRequestIsTheNextOne) {
  const RepeatRequest request = MakeRepeatRequest(small_->internals(), {}, RepeatPlace::kBehindTurn);
  EXPECT_EQ(request.first.front(), small_->internals().end_of_turn_id());
  EXPECT_THAT(Text(request.first), HasSubstr("user\n\n\nRepeat the previous context exactly."));
  EXPECT_THAT(Text(request.first), EndsWith("assistant\n"));
  SessionOptions options = Options(12, 40);
  Conversation conversation(small_->model(), options);
  const PromptInfo info = conversation.ReadTurn(small_->VideoTurn());
  const PlainPart part(*small_, conversation, info.ids, static_cast<int64_t>(info.ids.size()));
  ExpectTheBest(conversation.kept(), PlainMaxima(*small_, part, request, 40), 12, part.before_media);
}

TEST_F(RepeatTest, TheShortestTexts) {
  for (const size_t tokens : {1, 2, 3}) {
    const std::vector<int32_t> ids(tokens, 7);
    Conversation conversation(small_->model(), Options(1, 1));
    conversation.ReadPrompt(ids, {});
    size_t sum = 0;
    for (const auto& layer : conversation.kept()) {
      for (const auto& head : layer) sum += head.size();
    }
    EXPECT_EQ(sum, size_t{SmallModel::kLayers * 2});
    EXPECT_EQ(conversation.times().repeat_s > 0, tokens > 1) << "what all stays of is not repeated";
    EXPECT_EQ(conversation.Generate({.max_new_tokens = 3}, nullptr).ids.size(), 3U);
  }
}

TEST_F(RepeatTest, WhatPassesTogetherDoesNotMatter) {
  Kept first;
  for (const int64_t block : {0, 1, 9}) {
    for (const int64_t pass : {0, 17}) {
      SessionOptions options = Options(10, 25);
      options.block_rows = block;
      options.chunk_tokens = pass;
      Conversation conversation(small_->model(), options);
      conversation.ReadTurn(small_->VideoTurn());
      if (first.empty()) first = conversation.kept();
      EXPECT_EQ(conversation.kept(), first) << "blocks of " << block << ", passes of " << pass;
    }
  }
}

TEST_F(RepeatTest, ASharedPrefillIsRepeatedOnceForAllBudgets) {
  int repeated = 0;
  SessionOptions options;
  options.threads = 1;
  options.progress = [&](const char* stage, int64_t done, int64_t total) {
    if (std::string(stage) == "repeat" && done == total) ++repeated;
  };
  std::vector<KvOptions> settings;
  for (const auto when : {KvOptions::When::kMedia, KvOptions::When::kPrompt}) {
    for (const int64_t tokens : {3, 9, 30}) settings.push_back(Options(tokens, 2048, when).kv);
  }
  SharedPrefill shared(small_->model(), options, settings);
  Turn turn = small_->VideoTurn();
  turn.prompt = "";
  shared.ReadMedia(turn);
  EXPECT_EQ(repeated, 1);
  shared.ReadQuestion("What is it?");
  EXPECT_EQ(repeated, 2);
  for (size_t i = 0; i < settings.size(); ++i) {
    Conversation own(small_->model(), Options(*settings[i].tokens, 2048, settings[i].when));
    turn.prompt = "What is it?";
    own.ReadTurn(turn);
    EXPECT_EQ(shared.Compress(i).kept(), own.kept()) << i;
    EXPECT_GT(shared.observe_seconds(i), 0);
  }
  EXPECT_EQ(repeated, 2);
}

TEST_F(RepeatTest, NeedsPositionsForTheRepetition) {
  const int64_t limit = small_->model()->info().max_positions;
  const std::vector<int32_t> ids(static_cast<size_t>(limit * 2 / 3), 7);
  Conversation conversation(small_->model(), Options(10, limit));
  try {
    conversation.ReadPrompt(ids, {});
    ADD_FAILURE() << "read";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr(StrCat("repeating the ", ids.size(), " tokens")));
    EXPECT_THAT(error.what(), HasSubstr("a smaller kv.option.chunk helps"));
  }
  // Nothing has changed.
  conversation.ReadPrompt({5}, {});
}

TEST_F(RepeatTest, CanBeCancelled) {
  std::atomic<bool> cancel = false;
  SessionOptions options = Options(10, 8);
  options.cancel = &cancel;
  options.progress = [&](const char* stage, int64_t, int64_t) { cancel = cancel || std::string(stage) == "repeat"; };
  Conversation conversation(small_->model(), options);
  EXPECT_THROW(conversation.ReadTurn(small_->VideoTurn()), Cancelled);
  cancel = false;
  ExpectError({"stopped half-way"}, [&] { conversation.Generate({}, nullptr); });
}

}  // namespace
}  // namespace purekv
