// Texts that end an answer: what is found, and what is said of it, does not depend on how the answer comes in pieces.
#include "engine/stop_texts.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "checkpoint/tokenizer.h"
#include "engine/generation.h"
#include "support/small_model.h"

namespace purekv {
namespace {

// The plain form: the first place where a stop text ends, and the longest that ends there.
struct Found {
  std::string text;
  bool found = false;
};
Found Plainly(const std::string& text, const std::vector<std::string>& stops) {
  for (size_t end = 1; end <= text.size(); ++end) {
    size_t longest = 0;
    for (const std::string& stop : stops) {
      if (std::string_view(text).substr(0, end).ends_with(stop)) longest = std::max(longest, stop.size());
    }
    if (longest > 0) return {text.substr(0, end - longest), true};
  }
  return {text, false};
}

TEST(StopTexts, AreFoundWhereverPiecesEnd) {
  std::mt19937 random(3);
  const auto below = [&](size_t n) { return std::uniform_int_distribution<size_t>(0, n - 1)(random); };
  const auto word = [&](size_t longest) {
    std::string text;
    for (size_t n = 1 + below(longest); n > 0; --n) text += static_cast<char>('a' + below(2));
    return text;
  };
  int found = 0;
  for (int round = 0; round < 5000; ++round) {
    std::vector<std::string> stops;
    for (size_t n = 1 + below(3); n > 0; --n) stops.push_back(word(6));
    const std::string text = word(24);
    const Found expected = Plainly(text, stops);
    found += expected.found ? 1 : 0;
    StopTexts matcher(stops);
    std::string said;
    for (size_t at = 0; at < text.size() && !matcher.found();) {
      const size_t size = std::min(1 + below(5), text.size() - at);
      said += matcher.Push(text.substr(at, size));
      // Nothing is said that has to be taken back.
      ASSERT_TRUE(expected.text.starts_with(said)) << text;
      at += size;
    }
    EXPECT_EQ(matcher.found(), expected.found) << text;
    said += matcher.Finish();
    EXPECT_EQ(said, expected.text);
  }
  EXPECT_GT(found, 1000);
  EXPECT_LT(found, 4900);
}

TEST(StopTexts, NothingIsHeldBackWithoutReason) {
  StopTexts matcher({"\n\nUser:", "END"});
  EXPECT_EQ(matcher.Push("A cat.\n"), "A cat.");
  EXPECT_EQ(matcher.Push("\nUse"), "");
  EXPECT_EQ(matcher.Push("ful"), "\n\nUseful");
  EXPECT_EQ(matcher.Push(" EN"), " ");
  EXPECT_EQ(matcher.Push("D of it"), "");
  EXPECT_TRUE(matcher.found());
  EXPECT_EQ(matcher.Push("more"), "");
  EXPECT_EQ(matcher.Finish(), "");
}

class StoppedAnswers : public testing::Test {
 protected:
  StoppedAnswers() : small_(Heads{4, 2}) {}
  Answer Generate(const GenerateOptions& options, std::string* streamed) const {
    SessionOptions session;
    session.threads = 1;
    Session one(small_.model(), session);
    one.Read(small_.VideoTurn());
    return one.Generate(options, [&](const std::string& text) { *streamed += text; });
  }
  SmallModel small_;
};

TEST_F(StoppedAnswers, EndInFrontOfTheText) {
  std::string all, streamed;
  const Answer whole = Generate({.max_new_tokens = 24}, &all);
  ASSERT_EQ(whole.finish, Answer::Finish::kLength);
  ASSERT_EQ(all, whole.text);
  ASSERT_GT(all.size(), 20U);
  // Across the borders of tokens, wherever they are: every text of 7 bytes that is UTF-8 by itself.
  int tried = 0;
  for (size_t at = 3; at + 7 < all.size() && tried < 4; ++at) {
    GenerateOptions options{.max_new_tokens = 24};
    options.stop = {all.substr(at, 7)};
    try {
      CheckGenerateOptions(options);
    } catch (const Error&) {
      continue;
    }
    ++tried;
    streamed.clear();
    const Answer stopped = Generate(options, &streamed);
    EXPECT_EQ(stopped.finish, Answer::Finish::kStop);
    EXPECT_EQ(stopped.text, all.substr(0, all.find(options.stop[0])));
    EXPECT_EQ(streamed, stopped.text);
    EXPECT_LT(stopped.ids.size(), whole.ids.size());
    EXPECT_TRUE(std::equal(stopped.ids.begin(), stopped.ids.end(), whole.ids.begin()));
  }
  EXPECT_GT(tried, 0);
}

TEST_F(StoppedAnswers, TextsThatCannotStopAreRefused) {
  std::string streamed;
  for (const std::string& stop : {std::string(), std::string("\xff"), std::string(5000, 'x')}) {
    GenerateOptions options;
    options.stop = {stop};
    try {
      Generate(options, &streamed);
      ADD_FAILURE() << stop.size();
    } catch (const Error& error) {
      EXPECT_EQ(error.field(), "generate.stop");
    }
  }
}

TEST_F(StoppedAnswers, TopLogprobsHoldTheGreedyTokenFirst) {
  std::string streamed;
  GenerateOptions options{.max_new_tokens = 6};
  options.top_logprobs = 3;
  const Answer answer = Generate(options, &streamed);
  ASSERT_EQ(answer.top.size(), answer.ids.size());
  for (size_t i = 0; i < answer.ids.size(); ++i) {
    ASSERT_EQ(answer.top[i].size(), 3U);
    EXPECT_EQ(answer.top[i][0].id, answer.ids[i]);
    EXPECT_EQ(answer.top[i][0].logprob, answer.logprobs[i]);
    EXPECT_GE(answer.top[i][0].logprob, answer.top[i][1].logprob);
    EXPECT_GE(answer.top[i][1].logprob, answer.top[i][2].logprob);
  }
}

}  // namespace
}  // namespace purekv
