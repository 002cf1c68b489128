// What holds for every policy: exact counts, protected tokens, ties, what is observed; and errors for broken scores.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <numeric>

#include "policy/policy_reference.h"
#include "policy/policy_testing.h"
#include "policy/scores.h"
#include "policy/selector.h"
#include "purekv/error.h"
#include "support/expect_error.h"

namespace purekv::testing {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<std::string> Compressing() {
  std::vector<std::string> names;
  for (const PolicyInfo& policy : Policies()) {
    if (policy.make) names.push_back(policy.name);
  }
  return names;
}

TEST(PolicyProperties, CountsAreExactAndProtectedTokensStay) {
  for (const std::string& policy : Compressing()) {
    for (const char* const allocator : {"uniform", "pyramid", "ada", "retrieval"}) {
      for (const int64_t tokens : {1, 5, 16, 33, 100}) {
        const Problem problem({.layers = 5, .tokens = tokens}, 3);
        for (const int64_t base : {1, 2, 3, 4, 8, 15, 30, 99, 100, 1000}) {
          KvOptions options = Options(policy, {}, allocator);
          options.tokens = base;
          const PolicyInfo& info = FindPolicy(policy);
          const std::string name = allocator;
          if ((name == "ada" && !info.ada) || (name != "uniform" && info.repeats) ||
              (name == "retrieval" && info.one_set)) {
            ExpectUsageError("kv.allocator", policy, [&] { CheckKvOptions(options); });
            continue;
          }
          SCOPED_TRACE(policy + " " + allocator + " " + std::to_string(base) + " of " + std::to_string(tokens));
          SmallEngine engine(problem, options);
          engine.ReadPart(tokens);
          const Kept kept = engine.KeptTokens();
          const Reference reference(problem, options, tokens);
          int64_t total = 0;
          for (size_t l = 0; l < kept.size(); ++l) {
            int64_t in_layer = 0;
            for (size_t g = 0; g < kept[l].size(); ++g) {
              const auto& head = kept[l][g];
              in_layer += int64_t(head.size());
              if (name != "ada" && !info.repeats) {
                EXPECT_EQ(int64_t(head.size()), base >= tokens ? tokens : reference.HeadBudget(int64_t(l), int64_t(g)))
                    << "layer " << l << ", head " << g;
              }
              for (int32_t j = 0; j < tokens; ++j) {
                const bool stays = base >= tokens || j < reference.sinks() || j >= tokens - reference.recent();
                EXPECT_TRUE(!stays || std::binary_search(head.begin(), head.end(), j)) << "token " << j;
              }
            }
            total += in_layer;
            if (name == "ada") {
              EXPECT_EQ(in_layer, 2 * std::min(base, tokens));
            }
          }
          EXPECT_EQ(total, 5 * 2 * std::min(base, tokens));
        }
      }
    }
  }
}

TEST(PolicyProperties, EqualScoresGoToTheLowerPositionThenTheLowerHead) {
  const std::vector<int32_t> tokens = {0, 1, 2, 3, 4, 5, 6, 7};
  const std::vector<std::span<const int32_t>> of_heads = {tokens, tokens};
  const Scores equal(2, std::vector<double>(8, 1.0));
  Quota quota{.counts = {3, 3}};
  EXPECT_THAT(SelectTop(equal, of_heads, {1, 1}, quota), ElementsAre(ElementsAre(0, 1, 7), ElementsAre(0, 1, 7)));
  quota = {.counts = {3, 4}, .shared = true};
  EXPECT_THAT(SelectTop(equal, of_heads, {1, 1}, quota), ElementsAre(ElementsAre(0, 1, 2, 7), ElementsAre(0, 1, 7)));
  EXPECT_EQ(LowestEntry(equal[0], {2, 2}), 5);
  EXPECT_EQ(LowestEntry(equal[0], {0, 0}), 7);
}

TEST(PolicyProperties, EqualKeysFillFromTheFront) {
  Problem problem({.tokens = 40}, 4);
  for (auto& layer : problem.layers) {
    for (int64_t i = 0; i < layer.v.size(); ++i) layer.v.data()[i] = 1.0F;
  }
  KvOptions options = Options("vnorm", {{"sinks", "0"}, {"recent", "2"}});
  options.tokens = 6;
  SmallEngine engine(problem, options);
  engine.ReadPart(40);
  EXPECT_THAT(engine.KeptTokens()[0][0], ElementsAre(0, 1, 2, 3, 38, 39));
}

TEST(PolicyProperties, RandomDependsOnSeedLayerAndHeadAndIsFair) {
  const Problem problem({.tokens = 300}, 5);
  const auto kept = [&](const std::string& seed) {
    KvOptions options = Options("random", {{"seed", seed}, {"sinks", "0"}, {"recent", "0"}});
    options.budget = 0.5;
    SmallEngine engine(problem, options);
    engine.ReadPart(300);
    return engine.KeptTokens();
  };
  const Kept a = kept("0"), b = kept("1");
  EXPECT_EQ(a, kept("0"));
  EXPECT_NE(a[0][0], b[0][0]);
  EXPECT_NE(a[0][0], a[0][1]);
  EXPECT_NE(a[0][0], a[1][0]);
  for (const auto& layer : a) {
    for (const auto& head : layer) {
      const double mean = std::accumulate(head.begin(), head.end(), 0.0) / double(head.size());
      EXPECT_NEAR(mean, 149.5, 25);  // five standard deviations
    }
  }
}

// An observer costs a pass over the keys: nothing may ask for more rows than its definition.
TEST(PolicyProperties, OnlyWhatIsNeededIsObserved) {
  const Problem problem({.layers = 4, .tokens = 100}, 6);
  const auto rows = [&](const std::string& policy, const std::map<std::string, std::string>& values) {
    KvOptions options = Options(policy, values);
    options.budget = 0.5;
    SmallEngine engine(problem, options, 16);
    engine.ReadPart(100);
    return engine.observed_rows;
  };
  for (const char* const none :
       {"random", "uniform", "streaming-llm", "knorm", "keydiff", "vnorm", "expected-attention", "kvzip"}) {
    EXPECT_EQ(rows(none, {}), 0) << none;
  }
  EXPECT_EQ(rows("h2o", {}), 400);
  EXPECT_EQ(rows("tova", {}), 4);
  EXPECT_EQ(rows("snapkv", {}), 4 * 25);
  EXPECT_EQ(rows("snapkv", {{"window", "7"}}), 4 * 7);
  EXPECT_EQ(rows("csp", {}), 4 * 64);
  EXPECT_EQ(rows("csp", {{"window", "101"}}), 400);
  EXPECT_EQ(rows("csp", {{"window", "half"}}), 4 * 25);
  EXPECT_EQ(rows("purekv", {}), 4 * 25);
  EXPECT_EQ(rows("purekv", {{"own", "7"}}), 4 * 7);
  EXPECT_EQ(rows("purekv", {{"own_share", "0"}}), 0);
  EXPECT_EQ(rows("purekv", {{"own", "7"}, {"source_share", "0.5"}}), 3 * 7 + 100);
  EXPECT_EQ(rows("purekv", {{"sources", "0"}}), 100);
  EXPECT_EQ(rows("purekv", {{"sources", "2"}, {"window", "10"}}), 2 * 25 + 10);
  EXPECT_EQ(rows("purekv", {{"sources", "2"}, {"below", "wait"}}), 100);
  EXPECT_EQ(rows("purekv", {{"sources", "2"}, {"below", "vnorm"}}), 100);
}

TEST(PolicyProperties, FullIsIdle) {
  const Problem problem({.tokens = 20}, 7);
  SmallEngine engine(problem, Options("full"));
  engine.ReadPart(20);
  EXPECT_FALSE(engine.compression.active());
  EXPECT_EQ(engine.KeptTokens()[2][1].size(), 20U);
}

TEST(PolicyProperties, ScoresThatAreNoNumberAreErrors) {
  Problem problem({.tokens = 30}, 8);
  problem.layers[1].v.Row(17)[8 + 3] = std::numeric_limits<float>::quiet_NaN();
  problem.layers[1].k.Row(9)[8 + 3] = std::numeric_limits<float>::infinity();
  const auto message = [&](const std::string& policy) -> std::string {
    KvOptions options = Options(policy);
    options.budget = 0.5;
    try {
      SmallEngine engine(problem, options);
      engine.ReadPart(30);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_THAT(message("vnorm"), AllOf(HasSubstr("vnorm: layer 1, KV head 1: token 17"), HasSubstr("nan")));
  EXPECT_THAT(message("knorm"), AllOf(HasSubstr("knorm: layer 1, KV head 1: token 9"), HasSubstr("inf")));
  for (const char* const policy : {"keydiff", "h2o", "tova", "snapkv", "csp", "expected-attention"}) {
    EXPECT_THAT(message(policy), HasSubstr("layer 1, KV head ")) << policy;
  }
  EXPECT_EQ(message("uniform"), "");
}

TEST(PolicyProperties, PoolingReadsZerosOutside) {
  std::vector<double> scores = {3, 6, 9, 100};
  PoolScores(Pool::kAverage, 3, 3, scores);
  EXPECT_THAT(scores, ElementsAre(3, 6, 5, 100));
  scores = {3, 6, 9, 100};
  PoolScores(Pool::kMax, 5, 3, scores);
  EXPECT_THAT(scores, ElementsAre(9, 9, 9, 100));
  scores = {-3, -6, -9};
  PoolScores(Pool::kMax, 3, 3, scores);
  EXPECT_THAT(scores, ElementsAre(0, -3, 0));
  scores = {-3};
  PoolScores(Pool::kMax, 1, 1, scores);
  EXPECT_THAT(scores, ElementsAre(-3));
}

TEST(PolicyProperties, QueryStatsKeepTheirDigitsUnderALargeBias) {
  std::mt19937 random(9);
  std::normal_distribution<float> normal;
  Matrix<float> q(700, 2 * 4);
  for (int64_t i = 0; i < q.size(); ++i) q.data()[i] = normal(random) + (i % 8 == 5 ? 3000.0F : 0.0F);
  QueryStats stats(2, 4);
  stats.Add(q.View().Rows(0, 301));
  stats.Add(q.View().Rows(301, 399));
  for (int64_t h = 0; h < 2; ++h) {
    for (int64_t a = 0; a < 4; ++a) {
      for (int64_t b = 0; b < 4; ++b) {
        double x = 0, y = 0, product = 0;
        for (int64_t i = 0; i < 700; ++i)
          x += double(q.Row(i)[h * 4 + a]) / 700, y += double(q.Row(i)[h * 4 + b]) / 700;
        for (int64_t i = 0; i < 700; ++i) {
          product += (double(q.Row(i)[h * 4 + a]) - x) * (double(q.Row(i)[h * 4 + b]) - y) / 700;
        }
        EXPECT_NEAR(stats.Mean(h)[size_t(a)], x, 1e-6);
        EXPECT_NEAR(stats.Covariance(h)[size_t(a * 4 + b)], product, 1e-5);
      }
    }
  }
}

// Where tokens were dropped the observed queries are not one stretch.
TEST(AttentionSums, CountsTheQueriesThatSeeAToken) {
  AttentionSums sums(1, 1);
  const std::vector<int64_t> lengths = {1};
  EXPECT_EQ(sums.QueriesThatSee(0), 0);
  const std::vector<std::vector<int32_t>> blocks = {{2, 3}, {4, 7}, {9, 10, 11}};
  std::vector<int32_t> all;
  for (const auto& block : blocks) {
    sums.Announce(block, lengths);
    all.insert(all.end(), block.begin(), block.end());
    for (int32_t token = 0; token < 14; ++token) {
      EXPECT_EQ(sums.QueriesThatSee(token),
                std::count_if(all.begin(), all.end(), [&](int32_t q) { return q >= token; }));
    }
    EXPECT_EQ(sums.queries(), static_cast<int64_t>(all.size()));
    EXPECT_EQ(sums.one_run(), all.size() <= 2);
  }
  EXPECT_EQ(sums.first_query(), 2);
  sums.Clear();
  EXPECT_EQ(sums.queries(), 0);
}

}  // namespace
}  // namespace purekv::testing
