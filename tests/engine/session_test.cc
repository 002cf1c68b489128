// Sessions: shared weights between threads, turns, cancelling, limits, byte counts.
#include "purekv/session.h"

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "support/broken_model.h"
#include "support/reference_model.h"

namespace purekv {
namespace {

class SessionTest : public testing::Test {
 protected:
  SessionTest() : files_("qwen2_5_vl_flat"), model_(Model::Load(files_.directory(), {.activations = Dtype::kF32})) {}
  Turn VideoTurn() const { return files_.TurnNamed("video"); }
  Turn TextTurn(const std::string& text) const { return {.prompt = text}; }

  ReferenceModel files_;
  std::shared_ptr<const Model> model_;
};

TEST_F(SessionTest, ManyThreadsShareOneModel) {
  const std::vector<std::string> questions = {"What moves?", "你好", "Count the objects.", "Where is it?"};
  const auto ask = [&](const std::string& question) {
    SessionOptions options;
    options.threads = 1;
    Session session(model_, options);
    Turn turn = VideoTurn();
    turn.prompt = question;
    session.Read(turn);
    std::vector<int32_t> ids = session.Generate({.max_new_tokens = 8}, nullptr).ids;
    session.Read(TextTurn("And then?"));
    const auto more = session.Generate({.max_new_tokens = 4}, nullptr).ids;
    ids.insert(ids.end(), more.begin(), more.end());
    return ids;
  };
  std::vector<std::vector<int32_t>> alone;
  for (const std::string& question : questions) alone.push_back(ask(question));
  std::vector<std::vector<int32_t>> together(questions.size());
  std::vector<std::thread> threads;
  for (size_t i = 0; i < questions.size(); ++i) threads.emplace_back([&, i] { together[i] = ask(questions[i]); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(together, alone);
}

TEST_F(SessionTest, LaterTurnsEqualOneLongPrompt) {
  Session session(model_, {});
  const PromptInfo first = session.Read(VideoTurn());
  const Answer answer = session.Generate({.max_new_tokens = 6}, nullptr);
  const PromptInfo second = session.Read(TextTurn("And then?"));
  const Answer last = session.Generate({.max_new_tokens = 6}, nullptr);
  // The same sequence as text only cannot repeat the media: lengths are compared here, answers below.
  EXPECT_EQ(session.tokens(),
            static_cast<int64_t>(first.ids.size() + answer.ids.size() + second.ids.size() + last.ids.size()) +
                (answer.finish == Answer::Finish::kStop ? 0 : 1));
  EXPECT_GT(first.visual_tokens, 0);
  EXPECT_EQ(second.visual_tokens, 0);

  Session one(model_, {});
  Session two(model_, {});
  const std::vector<int32_t> ids = {5, 6, 7, 8, 9, 10, 11, 12};
  one.ReadIds(ids);
  two.ReadIds({ids.begin(), ids.begin() + 3});
  two.ReadIds({ids.begin() + 3, ids.end()});
  EXPECT_EQ(one.Generate({.max_new_tokens = 5}, nullptr).ids, two.Generate({.max_new_tokens = 5}, nullptr).ids);
}

TEST_F(SessionTest, ScoringEqualsGenerating) {
  Session session(model_, {});
  session.Read(VideoTurn());
  const Answer answer = session.Generate({.max_new_tokens = 10}, nullptr);
  Session again(model_, {});
  again.Read(VideoTurn());
  const ScoreResult score = again.Score(answer.ids, false);
  EXPECT_EQ(score.top1, answer.ids);
  for (size_t i = 0; i < answer.ids.size(); ++i) EXPECT_NEAR(score.logprobs[i], answer.logprobs[i], 1e-4) << i;
  // The scored answer is part of the conversation: the next token is the one that generating would give.
  EXPECT_EQ(session.tokens(), again.tokens());
  EXPECT_EQ(again.Generate({.max_new_tokens = 3}, nullptr).ids, session.Generate({.max_new_tokens = 3}, nullptr).ids);
}

TEST_F(SessionTest, BytesAndKeptTokensAreCounted) {
  Session session(model_, {});
  const PromptInfo info = session.Read(VideoTurn());
  const KvStats kv = session.kv();
  const auto tokens = static_cast<int64_t>(info.ids.size());
  EXPECT_EQ(kv.tokens_full, tokens);
  EXPECT_EQ(kv.tokens_kept_mean, static_cast<double>(tokens));
  EXPECT_EQ(kv.bytes_kept, kv.bytes_full);
  EXPECT_EQ(kv.bytes_peak, kv.bytes_full);
  EXPECT_GE(kv.bytes_full, tokens * model_->info().kv_bytes_per_token);
  ASSERT_EQ(static_cast<int64_t>(session.kept().size()), model_->info().layers);
  ASSERT_EQ(static_cast<int64_t>(session.kept()[0].size()), model_->info().kv_heads);
  EXPECT_EQ(static_cast<int64_t>(session.kept()[0][0].size()), tokens);
  EXPECT_EQ(session.kept()[0][0].back(), tokens - 1);
  session.Generate({.max_new_tokens = 20}, nullptr);
  EXPECT_GE(session.kv().bytes_now, kv.bytes_kept);
}

TEST_F(SessionTest, TheLayoutSaysWhatEachKeptTokenIs) {
  SessionOptions options;
  options.kv.policy = "vnorm";
  options.kv.budget = 0.5;
  Session session(model_, options);
  EXPECT_TRUE(session.layout().empty());
  const PromptInfo info = session.Read(VideoTurn());
  const TokenLayout& layout = session.layout();
  ASSERT_EQ(layout.size(), info.ids.size());
  ASSERT_EQ(session.positions().size(), layout.size());
  const auto& grid = info.media.at(0).grid;
  int64_t visual = 0;
  for (const TokenRecord& one : layout) {
    if (one.kind == TokenRecord::Kind::kText) continue;
    EXPECT_EQ(one.kind, TokenRecord::Kind::kVideo);
    EXPECT_EQ(one.item, 0);
    EXPECT_LT(one.slice, grid[0]);
    ++visual;
  }
  EXPECT_EQ(visual, info.visual_tokens);
  for (const auto& head : session.kept()[0]) {
    EXPECT_LT(head.size(), layout.size());
    for (size_t i = 0; i < head.size(); ++i) {
      EXPECT_LT(head[i], static_cast<int32_t>(layout.size()));
      if (i == 0) continue;
      EXPECT_GT(head[i], head[i - 1]);
    }
  }
  // Text before the video has its index for a position; behind it, where a slice is one step, the two part.
  EXPECT_EQ(session.positions()[1], (Position{1, 1, 1}));
  EXPECT_LT(session.positions().back().t, static_cast<int32_t>(layout.size()) - 1);
  const Answer answer = session.Generate({.max_new_tokens = 5}, nullptr);
  EXPECT_EQ(static_cast<int64_t>(session.layout().size()), session.tokens() - 1);  // the last one has not been read
  EXPECT_EQ(session.layout().size() + 1, info.ids.size() + answer.ids.size());
  EXPECT_EQ(session.layout().back().kind, TokenRecord::Kind::kText);
}

TEST_F(SessionTest, ErrorsNameTheFieldAtFault) {
  const auto field = [&](const SessionOptions& options) {
    try {
      const Session session(model_, options);
    } catch (const Error& error) {
      EXPECT_TRUE(std::string(error.what()).starts_with(error.field())) << error.what();
      return error.field();
    }
    return std::string("none");
  };
  SessionOptions options;
  EXPECT_EQ(field(options), "none");
  options.kv.policy = "purekv";
  EXPECT_EQ(field(options), "kv.policy");
  options.kv.budget = 2;
  EXPECT_EQ(field(options), "kv.budget");
  options.kv.budget = 0.5;
  options.kv.options = {{"sources", "999"}};
  EXPECT_EQ(field(options), "kv.option.sources");
  options.kv.options = {{"below", "window"}};
  options.kv.drop_layers = {{1, 0.5}};
  EXPECT_EQ(field(options), "kv.drop_layers");
  options.kv.drop_layers.clear();
  options.prefill = {"st", {{"start", "x"}}};
  EXPECT_EQ(field(options), "prefill.option.start");
}

TEST_F(SessionTest, ThePeakIsTheMostEverHeld) {
  Session grows(model_, {});
  grows.Read(VideoTurn());
  grows.Generate({.max_new_tokens = 20}, nullptr);
  EXPECT_EQ(grows.kv().bytes_most, grows.kv().bytes_now);

  SessionOptions options;  // a policy that evicts while it decodes: a snapshot is a copy
  options.kv.policy = "h2o";
  options.kv.budget = 0.5;
  options.kv.when = KvOptions::When::kContext;
  Session session(model_, options);
  Turn media = VideoTurn();
  Turn question;
  std::swap(question.prompt, media.prompt);
  session.ReadMedia(media);
  const int64_t before = session.kv().bytes_most;
  session.TakeSnapshot();
  int64_t most = before;
  for (int i = 0; i < 3; ++i) {
    if (i > 0) session.Rollback();
    most = std::max(most, session.kv().bytes_now);
    session.Read(question);
    most = std::max(most, session.kv().bytes_now);
    session.Generate({.max_new_tokens = 30}, nullptr);
    most = std::max(most, session.kv().bytes_now);
    EXPECT_GE(session.kv().bytes_most, most) << i;
  }
  EXPECT_LT(session.kv().bytes_most, 3 * most);
  session.Reset();
  EXPECT_EQ(session.kv().bytes_most, 0);
}

TEST_F(SessionTest, CancellingKeepsWhatWasGenerated) {
  std::atomic<bool> cancel{false};
  SessionOptions options;
  options.cancel = &cancel;
  Session session(model_, options);
  session.Read(VideoTurn());
  int pieces = 0;
  const Answer answer = session.Generate({.max_new_tokens = 200}, [&](const std::string&) {
    if (++pieces == 3) cancel = true;
  });
  EXPECT_EQ(answer.finish, Answer::Finish::kCancelled);
  EXPECT_FALSE(answer.text.empty());
  EXPECT_LT(answer.ids.size(), 200u);
}

// Up to the tower nothing of the session has changed; once rows are in the cache, only Reset helps.
TEST_F(SessionTest, CancellingAReadBeforeAndAmidThePrefill) {
  std::atomic<bool> cancel{false};
  std::string at;
  SessionOptions options;
  options.cancel = &cancel;
  options.progress = [&](const char* stage, int64_t, int64_t) { cancel = cancel || at == stage; };
  Session session(model_, options);
  at = "vision";
  EXPECT_THROW(session.Read(VideoTurn()), Cancelled);
  cancel = false;
  at = "prefill";
  EXPECT_THROW(session.Read(VideoTurn()), Cancelled);
  cancel = false;
  at = "";
  EXPECT_THROW(session.Read(VideoTurn()), Error);
  session.Reset();
  EXPECT_GT(session.Read(VideoTurn()).visual_tokens, 0);
}

TEST_F(SessionTest, ImpossibleRequestsAreErrors) {
  Session session(model_, {});
  const auto refused = [&](const std::string& words, const std::function<void(Session&)>& work) {
    ExpectError({words}, [&] { work(session); });
  };
  const auto ids = [](const std::vector<int32_t>& list) { return [list](Session& s) { s.ReadIds(list); }; };
  const auto text = [this](const std::string& words) { return [this, words](Session& s) { s.Read(TextTurn(words)); }; };
  refused("nothing has been read", [](Session& s) { s.Generate({}, nullptr); });
  refused("nothing has been read", [](Session& s) { s.Score({1}, false); });
  refused("the prompt is empty", ids({}));
  refused("token id -1 is outside the model's vocabulary", ids({-1}));
  const auto vocabulary = static_cast<int32_t>(model_->info().vocabulary);
  refused(StrCat("token id ", vocabulary, " is outside"), ids({vocabulary}));
  refused("turn.prompt: holds <|image_pad|>, a marker", text("<|image_pad|>"));
  refused("prompt: byte 0 is not valid UTF-8", text("\xff\xfe"));
  const auto too_many = static_cast<size_t>(model_->info().max_positions) + 1;
  refused(StrCat("makes ", too_many, " tokens"), ids(std::vector<int32_t>(too_many, 5)));
  session.Read(TextTurn("fine"));  // refused requests leave the session usable
  refused("a later turn cannot bring", [this](Session& s) { s.Read(VideoTurn()); });
  refused("the answer to score is empty", [](Session& s) { s.Score({}, false); });
  refused("temperature", [](Session& s) { s.Generate({.max_new_tokens = 5, .temperature = -1}, nullptr); });
  EXPECT_EQ(session.Generate({.max_new_tokens = 2}, nullptr).ids.size(), 2u);
  EXPECT_EQ(session.Generate({.max_new_tokens = 0}, nullptr).ids.size(), 0u);

  SessionOptions options;
  options.kv.policy = "nonsense";
  ExpectError({"nonsense: unknown; known policies: full, random"}, [&] { Session(model_, options); });
  options.kv = {};
  options.kv.budget = 0.5;
  ExpectError({"policy full keeps everything"}, [&] { Session(model_, options); });
}

}  // namespace
}  // namespace purekv
