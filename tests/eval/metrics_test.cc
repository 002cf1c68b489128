// Metrics and intervals on cases that were worked out by hand.
#include "eval/metrics.h"

#include <gmock/gmock.h>

#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "eval/bootstrap.h"
#include "eval/runner.h"

namespace purekv {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(Metrics, NormalisedWords) {
  EXPECT_THAT(NormalisedWords("It's a RED ring."), ElementsAre("its", "a", "red", "ring"));
  EXPECT_THAT(NormalisedWords("  well-known,\ttwo/three\n"), ElementsAre("well", "known", "two", "three"));
  EXPECT_THAT(NormalisedWords("...!"), IsEmpty());
  EXPECT_THAT(NormalisedWords("na\xc3\xafve"), ElementsAre("na\xc3\xafve"));
}

TEST(Metrics, ExactMatch) {
  EXPECT_EQ(ExactMatch("It is red", "it is RED."), 1);
  EXPECT_EQ(ExactMatch("It is red red", "It is red."), 0);
  EXPECT_EQ(ExactMatch("", "It is red."), 0);
}

TEST(Metrics, ChosenLetter) {
  const std::vector<std::string> choices = {"a dog", "a black dog", "two cats", "Not sure"};
  struct Case {
    std::string answer;
    std::optional<char> letter;
  };
  for (const Case& one : std::vector<Case>{{"B", 'B'},
                                           {" c. ", 'C'},
                                           {"(D) Not sure", 'D'},
                                           {"**B**", 'B'},
                                           {"B: a black dog", 'B'},
                                           {"The answer is C.", 'C'},
                                           {"I think the best answer is: (B), a black dog", 'B'},
                                           {"Option D", 'D'},
                                           {"A dog can be seen.", 'A'},  // the words of A, not the letter
                                           {"It is a black dog.", 'B'},  // A's words stand inside B's
                                           {"There are two cats and a dog.", std::nullopt},
                                           {"E", std::nullopt},  // no such option
                                           {"Because of it", std::nullopt},
                                           {"", std::nullopt},
                                           {"???", std::nullopt}}) {
    EXPECT_EQ(ChosenLetter(one.answer, choices), one.letter) << one.answer;
  }
}

TEST(Metrics, Contains) {
  struct Case {
    std::string answer;
    std::vector<std::string> contains, lacks;
    double share;
  };
  for (const Case& one : std::vector<Case>{
           {"The code is **2013**.", {"2013"}, {}, 1},
           {"The code is 20134.", {"2013"}, {}, 0},
           {"a Red\nring", {"red ring"}, {}, 1},
           {"a red gold ring", {"red ring"}, {}, 0},
           {"2013 and 41", {"41", "2013", "7"}, {}, 2.0 / 3},
           {"", {"41"}, {}, 0},
           // Only what stands before something wrong counts.
           {"It is 2013. The other one is 41.", {"2013"}, {"41"}, 1},
           {"It was 41 and is 2013.", {"2013"}, {"7", "41"}, 0},
           {"First 1, then 7, then 2, then 9", {"1", "2"}, {"9", "7"}, 0.5},
       }) {
    EXPECT_DOUBLE_EQ(Contains(one.answer, one.contains, one.lacks), one.share) << one.answer;
  }
}

TEST(Metrics, AnAnswerIsRightWhenItContainsAll) {
  EvalQuestion question;
  question.answer = "41 and 7";
  question.contains = {"41", "7"};
  question.lacks = {"12"};
  EvalResult result;
  result.answer = "They are 41 and 7, of course.";
  JudgeAnswer(question, &result);
  EXPECT_EQ(result.score, 1);
  EXPECT_EQ(result.metrics.at("contains"), 1);
  EXPECT_EQ(result.metrics.at("exact"), 0);
  result.answer = "They are 41 and 12 and 7.";
  JudgeAnswer(question, &result);
  EXPECT_EQ(result.score, 0);  // half of it is not right
  EXPECT_EQ(result.metrics.at("contains"), 0.5);
}

TEST(Metrics, RougeL) {
  // Common subsequence "the cat the mat" of 6 and 5 words: 2 * 4 / 11.
  EXPECT_NEAR(RougeL("the cat sat on the mat", "the cat is the mat"), 8.0 / 11, 1e-12);
  EXPECT_EQ(RougeL("a b c", "a b c"), 1);
  EXPECT_EQ(RougeL("c b a", "x y z"), 0);
  EXPECT_EQ(RougeL("", ""), 1);
  EXPECT_EQ(RougeL("", "x"), 0);
}

TEST(Metrics, Events) {
  EXPECT_THAT(Events("First a dog runs. Then, a cat!  And then it sleeps"),
              ElementsAre(ElementsAre("a", "dog", "runs"), ElementsAre("a", "cat"), ElementsAre("it", "sleeps")));
  const std::string reference = "First a dog runs. Then a cat sits. Then a bird flies.";
  EXPECT_EQ(EventF1(reference, reference), 1);
  EXPECT_EQ(EventF1("A dog runs. A cat sits. A bird flies.", reference), 1);
  // Two of three, in order: 2 * 2 / (3 + 3).
  EXPECT_NEAR(EventF1("A dog runs. A cat eats. A bird flies.", reference), 4.0 / 6, 1e-12);
  // The wrong order: one of two counts. 2 * 1 / (2 + 3).
  EXPECT_NEAR(EventF1("A bird flies. A dog runs.", reference), 2.0 / 5, 1e-12);
  EXPECT_EQ(EventF1("", reference), 0);
  EXPECT_TRUE(IsLongAnswer("First a dog runs over the road. Then a cat sits there too."));
  EXPECT_FALSE(IsLongAnswer("It is a ring."));
}

TEST(Metrics, KullbackLeibler) {
  // p = (1/4, 3/4), q = (1/2, 1/2): 1/4 ln 1/2 + 3/4 ln 3/2.
  const std::vector<float> p = {0, std::log(3.0F)};
  const std::vector<float> q = {5, 5};
  EXPECT_NEAR(KullbackLeibler(p, q), 0.25 * std::log(0.5) + 0.75 * std::log(1.5), 1e-7);
  EXPECT_NEAR(KullbackLeibler(p, p), 0, 1e-12);
}

TEST(Metrics, Recall) {
  EXPECT_EQ(Recall(std::vector<int32_t>{1, 4, 9}, std::vector<int32_t>{0, 4, 5, 9, 12}), 2.0 / 3);
  EXPECT_EQ(CountCommon(std::vector<int32_t>{}, std::vector<int32_t>{1}), 0);
  EXPECT_EQ(CountCommon(std::vector<int32_t>{1, 2, 3}, std::vector<int32_t>{1, 2, 3}), 3);
}

TEST(Bootstrap, MeanOverValuesIntervalOverClusters) {
  const Interval none = BootstrapMean({{0, 0}, {0, 0}});
  EXPECT_EQ(none.count, 0);
  // One cluster, or equal ones: nothing can vary.
  for (const std::vector<Cluster>& equal :
       {std::vector<Cluster>{{3, 4}}, std::vector<Cluster>{{3, 4}, {1.5, 2}, {0, 0}}}) {
    const Interval one = BootstrapMean(equal);
    EXPECT_DOUBLE_EQ(one.mean, 0.75);
    EXPECT_DOUBLE_EQ(one.low, 0.75);
    EXPECT_DOUBLE_EQ(one.high, 0.75);
  }
  // 100 videos of 8 questions, half of them all right and half all wrong: the interval of a mean over 100 coins is
  // about 0.5 +- 1.96 * 0.05, however many questions a video has.
  std::vector<Cluster> coins;
  for (int i = 0; i < 100; ++i) coins.push_back({i % 2 == 0 ? 8.0 : 0.0, 8});
  const Interval half = BootstrapMean(coins);
  EXPECT_DOUBLE_EQ(half.mean, 0.5);
  EXPECT_EQ(half.count, 800);
  EXPECT_NEAR(half.low, 0.402, 0.02);
  EXPECT_NEAR(half.high, 0.598, 0.02);
  const Interval again = BootstrapMean(coins);
  EXPECT_EQ(half.low, again.low);
  EXPECT_EQ(half.high, again.high);
}

TEST(Bootstrap, IsThatOfTheTableOfLongTexts) {
  // tests/tools/long_context_test.py has these values too.
  std::vector<Cluster> clusters;
  for (int i = 0; i < 10; ++i) {
    const int count = 1 + i % 2;
    clusters.push_back({count * (i * 3 % 7) / 10.0, count});
  }
  const Interval one = BootstrapMean(clusters);
  EXPECT_NEAR(one.mean, 0.28, 1e-10);
  EXPECT_NEAR(one.low, 0.142785714286, 1e-10);
  EXPECT_NEAR(one.high, 0.441696428571, 1e-10);
}

}  // namespace
}  // namespace purekv
