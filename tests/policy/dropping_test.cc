// What purekv's drop layers choose, against plain loops over the scores of the reference policies.
#include "policy/dropping.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "policy/policy_reference.h"
#include "policy/policy_testing.h"

namespace purekv::testing {
namespace {

using LayerScores = std::vector<std::vector<std::vector<double>>>;  // [layers][kv_heads][tokens]

LayerScores ScoresOf(const Problem& problem, KvOptions options, const std::map<std::string, std::string>& more) {
  options.drop_layers.clear();
  for (const auto& [key, value] : more) options.options[key] = value;
  Reference reference(problem, options, problem.s.tokens);
  reference.KeptTokens();
  return reference.scores;
}

// The tokens that go on from `drop`: what counts in the share but is neither among the first nor the last ones
// competes.
std::vector<int32_t> SlowAlive(const Problem& problem, const KvOptions& options, const DropLayer& drop, Droppable by,
                               int64_t sinks, int64_t recent) {
  const int64_t n = problem.s.tokens;
  const bool seen = options.when == KvOptions::When::kPrompt;
  std::vector<std::pair<double, LayerScores>> rankings;
  if (seen) {
    rankings.emplace_back(0.8,
                          ScoresOf(problem, options, {{"own_share", "1"}, {"expected_share", "0"}, {"kernel", "15"}}));
  }
  rankings.emplace_back(seen ? 0.2 : 1.0, ScoresOf(problem, options, {}));
  std::vector<int32_t> alive, rest;
  int64_t count = 0;
  for (int32_t j = 0; j < n; ++j) {
    const bool counts = by == Droppable::kAny || IsVisual(problem.layout[size_t(j)]);
    count += counts ? 1 : 0;
    (counts && j >= sinks && j < n - recent && j + 1 < n ? rest : alive).push_back(j);
  }
  auto wanted = int64_t(double(count) * drop.alive + 1e-6);
  for (const int32_t j : alive) wanted -= by == Droppable::kAny || IsVisual(problem.layout[size_t(j)]) ? 1 : 0;
  std::vector<double> standing(size_t(n), 0.0);
  for (int64_t layer = 0; layer < drop.layer; ++layer) {
    for (int64_t g = 0; g < problem.s.kv_heads; ++g) {
      for (const auto& [share, scores] : rankings) {
        const auto& score = scores[size_t(layer)][size_t(g)];
        for (const int32_t j : rest) {
          const auto before = std::count_if(rest.begin(), rest.end(), [&](int32_t i) {
            return score[size_t(i)] > score[size_t(j)] || (score[size_t(i)] == score[size_t(j)] && i < j);
          });
          standing[size_t(j)] +=
              share * (problem.copying[size_t(layer)][size_t(g)] + 0.005) / (double(before) + 1 + 60);
        }
      }
    }
  }
  std::stable_sort(rest.begin(), rest.end(),
                   [&](int32_t a, int32_t b) { return standing[size_t(a)] > standing[size_t(b)]; });
  for (int64_t i = 0; i < std::min<int64_t>(wanted, int64_t(rest.size())); ++i) alive.push_back(rest[size_t(i)]);
  std::sort(alive.begin(), alive.end());
  return alive;
}

struct Case {
  const char* name;
  KvOptions::When when;
  bool text_only;
};

class DroppingTest : public ::testing::TestWithParam<Case> {};

TEST_P(DroppingTest, HeadsThatCopyBelowADropLayerChoose) {
  for (const uint32_t seed : {1U, 2U, 3U}) {
    const Problem problem({.layers = 6, .tokens = 180, .text_only = GetParam().text_only}, seed);
    KvOptions options;
    options.policy = "purekv";
    options.when = GetParam().when;
    options.budget = 0.3;
    options.options = {{"sinks", "3"}, {"recent", "5"}};
    options.drop_layers = {{4, 0.5}};
    const Droppable by = GetParam().text_only ? Droppable::kAny : Droppable::kVisual;
    SmallEngine engine(problem, options);
    engine.compression.SetPrefix(problem.s.tokens, by);
    engine.ReadChunk(problem.s.tokens);
    const auto alive = engine.compression.Alive(4);
    const auto expected = SlowAlive(problem, options, options.drop_layers[0], by, 3, 5);
    EXPECT_EQ(std::vector<int32_t>(alive.begin(), alive.end()), expected);
    EXPECT_EQ(engine.compression.AliveCounts(), std::vector<int64_t>{int64_t(expected.size())});
    EXPECT_TRUE(engine.compression.Alive(3).empty());
    EXPECT_TRUE(engine.compression.Alive(5).empty());
    // Heads at work change the choice: it is not that of the layer below alone.
    options.options["drop_by"] = "layer";
    SmallEngine one_layer(problem, options);
    one_layer.compression.SetPrefix(problem.s.tokens, by);
    one_layer.ReadChunk(problem.s.tokens);
    const auto other = one_layer.compression.Alive(4);
    EXPECT_EQ(other.size(), alive.size());
    EXPECT_FALSE(std::equal(other.begin(), other.end(), alive.begin(), alive.end()));
  }
}

INSTANTIATE_TEST_SUITE_P(Moments, DroppingTest,
                         ::testing::Values(Case{"seen", KvOptions::When::kPrompt, false},
                                           Case{"unseen", KvOptions::When::kContext, false},
                                           Case{"seen_text", KvOptions::When::kPrompt, true},
                                           Case{"unseen_text", KvOptions::When::kContext, true}),
                         [](const auto& info) { return info.param.name; });

// That the second chooses among what is left shows with an engine that runs no other rows: DropTest.
TEST(Dropping, EveryDropLayerHasItsShare) {
  const Problem problem({.layers = 6, .tokens = 120, .text_only = true}, 7);
  KvOptions options;
  options.policy = "purekv";
  options.budget = 1;
  options.drop_layers = {{3, 0.6}, {5, 0.4}};
  SmallEngine engine(problem, options);
  engine.compression.SetPrefix(problem.s.tokens, Droppable::kAny);
  engine.ReadChunk(problem.s.tokens);
  EXPECT_EQ(engine.compression.AliveCounts(), (std::vector<int64_t>{72, 48}));
}

TEST(Dropping, ChunksChooseAmongThemselves) {
  const Problem problem({.layers = 6, .tokens = 160, .text_only = true}, 9);
  KvOptions options;
  options.policy = "purekv";
  options.tokens = 60;
  options.chunk = 80;
  options.options = {{"sinks", "4"}, {"recent", "8"}};
  options.drop_layers = {{4, 0.25}};
  SmallEngine engine(problem, options);
  engine.compression.SetPrefix(problem.s.tokens, Droppable::kAny);
  for (const int64_t first : {int64_t{0}, int64_t{80}}) {
    engine.ReadChunk(80);
    const auto alive = engine.compression.Alive(4);
    ASSERT_EQ(alive.size(), 20U) << first;
    EXPECT_GE(alive.front(), first);
    EXPECT_EQ(alive.back(), first + 79);
  }
  EXPECT_EQ(engine.compression.AliveCounts(), std::vector<int64_t>{40});
}

TEST(Dropping, TextStaysWhereThereAreVisualTokens) {
  const Problem problem({.layers = 5, .tokens = 100}, 8);
  KvOptions options;
  options.policy = "random";
  options.budget = 0.5;
  options.options = {{"sinks", "0"}, {"recent", "0"}};
  options.drop_layers = {{1, 0.1}};
  SmallEngine engine(problem, options);
  engine.compression.SetPrefix(problem.s.tokens, Droppable::kVisual);
  engine.ReadChunk(problem.s.tokens);
  int64_t visual = 0, text = 0;
  const auto alive = engine.compression.Alive(1);
  for (int32_t j = 0; j < problem.s.tokens; ++j) {
    (IsVisual(problem.layout[size_t(j)]) ? visual : text) += 1;
    if (IsVisual(problem.layout[size_t(j)])) continue;
    EXPECT_TRUE(std::binary_search(alive.begin(), alive.end(), j)) << j;
  }
  EXPECT_EQ(engine.compression.AliveCounts(), std::vector<int64_t>{text + visual / 10});
}

}  // namespace
}  // namespace purekv::testing
