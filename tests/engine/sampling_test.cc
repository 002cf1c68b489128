// Choosing the next token: ties, penalties, the truncations, and the distribution of draws.
#include "engine/sampling.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>

#include "purekv/error.h"

namespace purekv {
namespace {

TEST(Sampling, GreedyTakesTheLowestOfEqualsAndRefusesNonsense) {
  EXPECT_EQ(ArgMax(std::vector<float>{1, 3, 3, 2}), 1);
  EXPECT_EQ(ArgMax(std::vector<float>{-5}), 0);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_THROW(ArgMax(std::vector<float>{1, nan, 3}), Error);
  EXPECT_THROW(ArgMax(std::vector<float>{nan, 1}), Error);
  EXPECT_THROW(ArgMax(std::vector<float>{1, infinity}), Error);
  EXPECT_THROW(ArgMax(std::vector<float>{-infinity, -infinity}), Error);
  EXPECT_EQ(ArgMax(std::vector<float>{-infinity, 0}), 1);
}

TEST(Sampling, LogProbabilitiesOfHugeLogitsStayFinite) {
  EXPECT_NEAR(LogProbability(std::vector<float>{1e4F, 1e4F, -1e4F}, 0), std::log(0.5), 1e-6);
  EXPECT_NEAR(LogProbability(std::vector<float>{0, 1}, 0), -std::log(1 + std::exp(1.0)), 1e-6);
}

TEST(Sampling, RepetitionPenaltyShrinksBothSigns) {
  GenerateOptions options;
  options.repetition_penalty = 2;
  Sampler sampler(options);
  std::vector<float> logits = {4, 3, -1};
  EXPECT_EQ(sampler.Next(logits, {0, 2, 99, -1}), 1);
  EXPECT_EQ(logits, (std::vector<float>{2, 3, -2}));
}

// Over the answer alone, behind the repetition penalty.
TEST(Sampling, PresenceAndFrequencyLowerWhatWasSaid) {
  GenerateOptions options;
  options.repetition_penalty = 2;
  options.presence_penalty = 0.5F;
  options.frequency_penalty = 0.25F;
  Sampler sampler(options);
  std::vector<float> logits = {4, 3, -1, 1};
  EXPECT_EQ(sampler.Next(logits, {0, 2}, {{1, 3}, {2, 1}}), 0);
  EXPECT_EQ(logits, (std::vector<float>{2, 1.75F, -2.75F, 1}));
}

TEST(Sampling, TheMostLikelyComeBestFirst) {
  const std::vector<float> logits = {1, 5, 2, 5, 0};
  EXPECT_EQ(MostLikely(logits, 3), (std::vector<int32_t>{1, 3, 2}));
  EXPECT_EQ(MostLikely(logits, 9).size(), 5U);
  EXPECT_TRUE(MostLikely(logits, 0).empty());
}

std::map<int32_t, double> Draw(const GenerateOptions& options, const std::vector<float>& logits) {
  std::map<int32_t, double> share;
  Sampler sampler(options);
  const int count = 20000;
  for (int i = 0; i < count; ++i) {
    std::vector<float> copy = logits;
    share[sampler.Next(copy, {})] += 1.0 / count;
  }
  return share;
}

TEST(Sampling, DrawsFollowTheSoftmax) {
  const std::vector<float> logits = {0, std::log(2.0F), std::log(5.0F), std::log(2.0F)};
  GenerateOptions options;
  options.temperature = 1;
  const auto plain = Draw(options, logits);
  EXPECT_NEAR(plain.at(0), 0.1, 0.01);
  EXPECT_NEAR(plain.at(2), 0.5, 0.015);
  options.top_k = 2;  // the lower of the two equal ones stays
  const auto two = Draw(options, logits);
  EXPECT_EQ(two.size(), 2u);
  EXPECT_NEAR(two.at(2), 5.0 / 7, 0.015);
  options.top_k = 0;
  options.top_p = 0.6F;  // 0.5 is not enough: the token that crosses the line stays
  const auto nucleus = Draw(options, logits);
  EXPECT_EQ(nucleus.size(), 2u);
  EXPECT_NEAR(nucleus.at(1), 2.0 / 7, 0.015);
  options.top_p = 1e-6F;
  EXPECT_EQ(Draw(options, logits).size(), 1u);
  options.top_p = 1;
  options.temperature = 1e-4F;
  EXPECT_NEAR(Draw(options, logits).at(2), 1, 1e-9);
}

TEST(Sampling, OneSeedOneAnswer) {
  GenerateOptions options;
  options.temperature = 1;
  options.seed = 42;
  std::vector<int32_t> answers[2];
  for (auto& answer : answers) {
    Sampler sampler(options);
    for (int i = 0; i < 50; ++i) {
      std::vector<float> logits(100, 0.0F);
      answer.push_back(sampler.Next(logits, {}));
    }
  }
  EXPECT_EQ(answers[0], answers[1]);
}

TEST(Sampling, OptionsOutOfRangeAreNamed) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const GenerateOptions& options :
       {GenerateOptions{.max_new_tokens = -1}, GenerateOptions{.temperature = -1}, GenerateOptions{.temperature = nan},
        GenerateOptions{.top_k = -1}, GenerateOptions{.top_p = 0}, GenerateOptions{.top_p = 1.5F},
        GenerateOptions{.repetition_penalty = 0}, GenerateOptions{.presence_penalty = 2.5F},
        GenerateOptions{.frequency_penalty = nan}, GenerateOptions{.top_logprobs = -1}}) {
    EXPECT_THROW(CheckGenerateOptions(options), Error);
  }
  CheckGenerateOptions({});
}

}  // namespace
}  // namespace purekv
