// The end of an answer: its last token is read before the next turn, as a step of its own.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "engine/conversation.h"
#include "support/small_model.h"

namespace purekv {
namespace {

constexpr int64_t kAnswer = 7;  // tokens; the limit that ends it

class TurnsTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { small_ = std::make_unique<SmallModel>(Heads{4, 2}); }
  static void TearDownTestSuite() { small_.reset(); }

  static SessionOptions Of(const std::string& policy, const std::map<std::string, std::string>& values = {}) {
    SessionOptions options;
    options.threads = 1;
    options.kv.policy = policy;
    options.kv.options = values;
    if (policy != "full") options.kv.tokens = 24;
    return options;
  }
  // Whatever steps do: some only grow.
  static std::vector<SessionOptions> Stepping() {
    std::vector<SessionOptions> all = {Of("full"),
                                       Of("snapkv"),
                                       Of("h2o"),
                                       Of("tova"),
                                       Of("roco"),
                                       Of("streaming-llm"),
                                       Of("prefixkv", {{"decode", "fixed"}, {"distance", "3"}}),
                                       Of("elastic", {{"decode", "fixed"}}),
                                       Of("snapkv", {{"decode_every", "7"}}),
                                       Of("h2o")};
    all.back().kv.when = KvOptions::When::kContext;
    SessionOptions& encoded = all.emplace_back(Of("full", {{"residual", "8"}, {"key_group", "8"}}));
    encoded.kv.keys = "int4";
    SessionOptions& looks = all.emplace_back(Of("full"));
    looks.kv.attend.view = "quest";
    looks.kv.attend.budget = 0.3;
    return all;
  }
  static std::string Name(const KvOptions& kv) { return kv.policy + " " + kv.keys + " " + kv.attend.view; }

  using Kept = std::vector<std::vector<std::vector<int32_t>>>;
  static Kept KeptTokens(const Conversation& conversation) {
    Kept kept;
    const KvCache& cache = conversation.cache();
    for (int64_t layer = 0; layer < cache.spec().layers(); ++layer) {
      kept.emplace_back();
      for (int64_t head = 0; head < cache.spec()[layer].kv_heads; ++head) {
        const auto tokens = cache.EntryTokens(layer, head);
        kept.back().emplace_back(tokens.begin(), tokens.end());
      }
    }
    return kept;
  }
  static const Turn& Second() {
    static const Turn turn = {.prompt = "And then?"};
    return turn;
  }

  static std::unique_ptr<SmallModel> small_;
};
std::unique_ptr<SmallModel> TurnsTest::small_;

// The plain form: every token of the answer is fed by hand, one step each, then the turn's rows.
TEST_F(TurnsTest, TheLastTokenIsAStep) {
  for (const SessionOptions& options : Stepping()) {
    SCOPED_TRACE(Name(options.kv));
    Conversation said(small_->model(), options);
    said.ReadTurn(small_->VideoTurn());
    const Answer answer = said.Generate({.max_new_tokens = kAnswer}, nullptr);
    ASSERT_EQ(answer.finish, Answer::Finish::kLength);
    const PromptInfo turn = said.ReadTurn(Second());

    Conversation plain(small_->model(), options);
    plain.ReadTurn(small_->VideoTurn());
    for (const int32_t id : answer.ids) plain.Step(id);
    std::vector<int32_t> rows = {small_->internals().end_of_turn_id()};
    ASSERT_GE(rows[0], 0);
    rows.insert(rows.end(), turn.ids.begin(), turn.ids.end());
    plain.ReadPrompt(rows, {});

    EXPECT_EQ(KeptTokens(said), KeptTokens(plain));
    EXPECT_EQ(said.tokens(), plain.tokens());
    EXPECT_EQ(said.positions().back(), plain.positions().back());
    const Answer second = said.Generate({.max_new_tokens = 12}, nullptr);
    const Answer expected = plain.Generate({.max_new_tokens = 12}, nullptr);
    EXPECT_EQ(second.ids, expected.ids);
    EXPECT_EQ(second.logprobs, expected.logprobs);
    EXPECT_EQ(KeptTokens(said), KeptTokens(plain));
  }
}

// A scored answer's last token likewise; and one that ended by itself has no closing token behind it.
TEST_F(TurnsTest, AnswersThatWereScoredOrClosedThemselves) {
  const int32_t end = small_->internals().end_of_turn_id();
  for (const SessionOptions& options : Stepping()) {
    for (const int32_t last : {end, 33}) {
      SCOPED_TRACE(Name(options.kv) + " " + std::to_string(last));
      const std::vector<int32_t> ids = {15, 27, last};
      Conversation said(small_->model(), options);
      said.ReadTurn(small_->VideoTurn());
      said.Score(ids, false);
      const PromptInfo turn = said.ReadTurn(Second());
      Conversation plain(small_->model(), options);
      plain.ReadTurn(small_->VideoTurn());
      for (const int32_t id : ids) plain.Step(id);
      std::vector<int32_t> rows;
      if (last != end) rows.push_back(end);
      rows.insert(rows.end(), turn.ids.begin(), turn.ids.end());
      plain.ReadPrompt(rows, {});
      EXPECT_EQ(KeptTokens(said), KeptTokens(plain));
      EXPECT_EQ(said.Score({3, 4}, true).logits, plain.Score({3, 4}, true).logits);
    }
  }
}

// In numbers: a head of a policy that holds may hold what it kept and the rows of later turns, of which the last token
// of an answer is none.
TEST_F(TurnsTest, HoldersGrowByTheTurnsRowsAlone) {
  for (const char* const policy : {"h2o", "tova", "roco", "streaming-llm"}) {
    Conversation conversation(small_->model(), Of(policy));
    conversation.ReadTurn(small_->VideoTurn());
    size_t held = 24;
    for (int turn = 0; turn < 3; ++turn) {
      ASSERT_EQ(conversation.Generate({.max_new_tokens = kAnswer}, nullptr).finish, Answer::Finish::kLength);
      held += conversation.ReadTurn(Second()).ids.size() + 1;  // what closes the answer
      for (const auto& layer : KeptTokens(conversation)) {
        for (const auto& head : layer) EXPECT_EQ(head.size(), held) << policy << " turn " << turn;
      }
    }
  }
}

// A turn that is refused reads nothing, and the answer stays open.
TEST_F(TurnsTest, ARefusedTurnLeavesTheAnswerOpen) {
  for (const SessionOptions& options : Stepping()) {
    SCOPED_TRACE(Name(options.kv));
    Conversation said(small_->model(), options), again(small_->model(), options);
    for (Conversation* const one : {&said, &again}) {
      one->ReadTurn(small_->VideoTurn());
      one->Generate({.max_new_tokens = kAnswer}, nullptr);
    }
    const int64_t tokens = said.tokens();
    Turn late = Second();
    late.system = "Be brief.";
    EXPECT_THROW(said.ReadTurn(late), Error);
    EXPECT_THROW(said.ReadPrompt(std::vector<int32_t>(1 << 20, 5), {}), Error);  // more than the model takes
    EXPECT_EQ(said.tokens(), tokens);
    said.ReadTurn(Second());
    again.ReadTurn(Second());
    EXPECT_EQ(said.Score({3, 4}, true).logits, again.Score({3, 4}, true).logits);
    EXPECT_EQ(KeptTokens(said), KeptTokens(again));
  }
}

// A snapshot in the middle of a chat comes back to the token that was still to be read.
TEST_F(TurnsTest, SnapshotsRememberTheTokenToBeRead) {
  for (const SessionOptions& options : Stepping()) {
    SCOPED_TRACE(Name(options.kv));
    Conversation said(small_->model(), options);
    said.ReadTurn(small_->VideoTurn());
    said.Generate({.max_new_tokens = kAnswer}, nullptr);
    said.TakeSnapshot();
    std::vector<float> logits;
    Kept kept;
    for (int time = 0; time < 3; ++time) {
      if (time > 0) said.Rollback();
      said.ReadTurn(Second());
      const ScoreResult scored = said.Score({3, 4, 5}, true);
      if (time == 0) logits = scored.logits, kept = KeptTokens(said);
      EXPECT_EQ(scored.logits, logits) << time;
      EXPECT_EQ(KeptTokens(said), kept) << time;
    }
  }
}

}  // namespace
}  // namespace purekv
