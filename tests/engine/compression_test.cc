// Compressing sessions: exact counts, the full budget, independence of blocks and chunks, several turns, memory.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "policy/registry.h"
#include "purekv/session.h"
#include "support/expect_error.h"
#include "support/reference_model.h"

namespace purekv {
namespace {

using Kept = std::vector<std::vector<std::vector<int32_t>>>;

std::vector<std::string> CompressingPolicies() {
  std::vector<std::string> names;
  for (const PolicyInfo& policy : Policies()) {
    if (policy.name != "full") names.push_back(policy.name);
  }
  return names;
}

class CompressionTest : public testing::TestWithParam<std::string> {
 protected:
  static void SetUpTestSuite() {
    files_ = std::make_unique<ReferenceModel>("qwen2_5_vl_flat");
    model_ = Model::Load(files_->directory(), {.activations = Dtype::kF32});
  }
  static void TearDownTestSuite() {
    model_.reset();
    files_.reset();
  }
  // Whether layers and heads share one budget.
  static bool Together() { return FindPolicy(GetParam()).repeats || GetParam() == "prefixkv"; }
  // Whether keys are judged by all queries of the part.
  static bool ByTheWholePart() {
    static const std::set<std::string> names = {"h2o", "expected-attention", "elastic", "look-m", "kvmerger"};
    return names.contains(GetParam()) || Together();
  }
  static Turn VideoTurn() { return files_->TurnNamed("video"); }
  static SessionOptions Options(const std::string& policy, int64_t tokens) {
    SessionOptions options;
    options.kv.policy = policy;
    options.threads = 1;  // tiny products: a second thread only waits
    if (policy != "full") options.kv.tokens = tokens;
    return options;
  }
  static Turn Later(const std::string& text) { return {.prompt = text}; }

  static std::unique_ptr<ReferenceModel> files_;
  static std::shared_ptr<const Model> model_;
};
std::unique_ptr<ReferenceModel> CompressionTest::files_;
std::shared_ptr<const Model> CompressionTest::model_;

TEST_P(CompressionTest, KeepsExactlyTheBudget) {
  for (const int64_t budget : {1, 2, 7, 20}) {
    Session session(model_, Options(GetParam(), budget));
    const PromptInfo info = session.Read(VideoTurn());
    const auto tokens = static_cast<int32_t>(info.ids.size());
    ASSERT_GT(tokens, budget);
    ASSERT_EQ(static_cast<int64_t>(session.kept().size()), model_->info().layers);
    int64_t sum = 0;
    for (const auto& layer : session.kept()) {
      ASSERT_EQ(static_cast<int64_t>(layer.size()), model_->info().kv_heads);
      for (const auto& head : layer) {
        sum += static_cast<int64_t>(head.size());
        if (head.empty() && Together()) continue;
        if (!Together() && GetParam() != "purekv") {  // whose heads get what they copy for
          EXPECT_EQ(static_cast<int64_t>(head.size()), budget);
        }
        EXPECT_TRUE(std::is_sorted(head.begin(), head.end()));
        EXPECT_EQ(std::adjacent_find(head.begin(), head.end()), head.end());
        EXPECT_GE(head.front(), 0);
        EXPECT_LT(head.back(), tokens);
      }
    }
    EXPECT_EQ(sum, budget * model_->info().layers * model_->info().kv_heads);
    EXPECT_EQ(session.kv().tokens_kept_mean, static_cast<double>(budget));
    EXPECT_EQ(session.kv().tokens_full, tokens);
    session.Generate({.max_new_tokens = 5}, nullptr);  // goes on over what is left
  }
}

TEST_P(CompressionTest, AFullBudgetIsTheFullCacheBitForBit) {
  Session full(model_, Options("full", 0));
  Session all(model_, [&] {
    SessionOptions options = Options(GetParam(), 1);
    options.kv.tokens.reset();
    options.kv.budget = 1.0;
    return options;
  }());
  full.Read(VideoTurn());
  all.Read(VideoTurn());
  EXPECT_EQ(all.kept(), full.kept());
  const std::vector<int32_t> answer = {5, 9, 11, 3, 8, 21};
  if (FindPolicy(GetParam()).holds) {
    // These hold their size while decoding: the first token is the full cache's, later ones need not be.
    EXPECT_EQ(all.Score({5}, true).logits, full.Score({5}, true).logits);
  } else {
    EXPECT_EQ(all.Score(answer, true).logits, full.Score(answer, true).logits);
  }
}

TEST_P(CompressionTest, BlocksOfRowsDoNotMatter) {
  Kept first;
  for (const int64_t block : {0, 1, 7, 64}) {
    SessionOptions options = Options(GetParam(), 13);
    options.block_rows = block;
    Session session(model_, options);
    session.Read(VideoTurn());
    if (first.empty()) first = session.kept();
    EXPECT_EQ(session.kept(), first) << "blocks of " << block;
  }
}

TEST_P(CompressionTest, AfterTheMediaTheQuestionIsKept) {
  SessionOptions options = Options(GetParam(), 9);
  options.kv.when = KvOptions::When::kContext;
  Session session(model_, options);
  const PromptInfo info = session.Read(VideoTurn());
  const KvStats kv = session.kv();
  ASSERT_LT(kv.tokens_compressed, static_cast<int64_t>(info.ids.size()));
  const auto behind = static_cast<double>(static_cast<int64_t>(info.ids.size()) - kv.tokens_compressed);
  EXPECT_EQ(kv.tokens_kept_mean, 9 + behind);
  for (const auto& layer : session.kept()) {
    for (const auto& head : layer) EXPECT_TRUE(head.empty() || head.back() < kv.tokens_compressed);
  }
  // The same part is kept whatever the question is.
  Session other(model_, options);
  Turn turn = VideoTurn();
  turn.prompt = "Something else entirely, and longer.";
  other.Read(turn);
  EXPECT_EQ(other.kept(), session.kept());
  // Later turns go on.
  session.Generate({.max_new_tokens = 3}, nullptr);
  session.Read(Later("And then?"));
  EXPECT_FALSE(session.Generate({.max_new_tokens = 3}, nullptr).ids.empty());
}

TEST_P(CompressionTest, ScoringEqualsGenerating) {
  SessionOptions options = Options(GetParam(), 11);
  Session session(model_, options);
  session.Read(VideoTurn());
  const Answer answer = session.Generate({.max_new_tokens = 8}, nullptr);
  Session again(model_, options);
  again.Read(VideoTurn());
  const ScoreResult score = again.Score(answer.ids, false);
  EXPECT_EQ(score.top1, answer.ids);
  for (size_t i = 0; i < answer.ids.size(); ++i) EXPECT_NEAR(score.logprobs[i], answer.logprobs[i], 1e-4) << i;
}

TEST_P(CompressionTest, HoldersKeepTheirSizeAndTheOthersGrow) {
  Session session(model_, Options(GetParam(), 12));
  session.Read(VideoTurn());
  const int64_t before = session.kv().bytes_now;
  session.Generate({.max_new_tokens = 120}, nullptr);
  if (FindPolicy(GetParam()).holds) {
    EXPECT_LE(session.kv().bytes_now, 2 * before);
  } else {
    EXPECT_GT(session.kv().bytes_now, 2 * before);
  }
}

// A long prompt, so that pages do not hide it: the peak is the compressed layers and one full one.
TEST_P(CompressionTest, PeakIsTheCompressedLayersAndOneFullOne) {
  std::vector<int32_t> ids(3000);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(3 + i * 7 % 200);
  Session session(model_, Options(GetParam(), 150));
  session.ReadIds(ids);
  const KvStats kv = session.kv();
  if (Together()) {  // all of it, and a chunk that repeats
    EXPECT_LE(kv.bytes_peak, kv.bytes_full * (3000 + 2048 + 64) / 3000);
    EXPECT_LE(kv.bytes_kept, kv.bytes_full / 20 + kv.bytes_full / 50);
    return;
  }
  const int64_t layer = kv.bytes_full / model_->info().layers;
  EXPECT_LE(kv.bytes_kept, kv.bytes_full / 20 + kv.bytes_full / 50);
  EXPECT_LE(kv.bytes_peak, kv.bytes_kept + layer + layer / 20);
}

// A hard cap: the cache never holds more than the budget and one chunk, in any layer.
TEST_P(CompressionTest, ChunksKeepTheCap) {
  std::vector<int32_t> ids(2000);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(3 + i * 7 % 200);
  SessionOptions options = Options(GetParam(), 128);
  options.kv.chunk = 256;
  if (GetParam() == "purekv") {
    options.kv.options = {{"expected_share", "0.4"}};
    ExpectUsageError("kv.chunk", "kv.option.expected_share=0", [&] { Session(model_, options); });
    options.kv.options = {{"own_share", "0.6"}, {"expected_share", "0"}, {"key_share", "0.4"}};
    options.kv.allocator = "uniform";  // so that one chunk's heads say what all do
  }
  if (ByTheWholePart()) {
    ExpectUsageError("kv.chunk", GetParam(), [&] { Session(model_, options); });
    return;
  }
  Session session(model_, options);
  session.ReadIds(ids);
  const KvStats kv = session.kv();
  for (const auto& layer : session.kept()) {
    for (const auto& head : layer) EXPECT_EQ(head.size(), 128U);
  }
  EXPECT_LE(kv.bytes_peak, kv.bytes_full * (128 + 256 + 64) / 2000);
  SessionOptions one = options;  // a single chunk is the ordinary way
  one.kv.chunk = 5000;
  Session alone(model_, one);
  alone.ReadIds(ids);
  one.kv.chunk = 0;
  Session ordinary(model_, one);
  ordinary.ReadIds(ids);
  EXPECT_EQ(alone.kept(), ordinary.kept());
}

// The same cap in bytes, whole and in chunks, the last of one token; and while decoding, where the policy holds.
TEST_P(CompressionTest, BytesAreACap) {
  std::vector<int32_t> ids(1001);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(3 + i * 7 % 200);
  const bool holds = FindPolicy(GetParam()).holds;
  for (const int64_t chunk : {0, 100}) {
    for (const int64_t share : {3, 12}) {
      SessionOptions options = Options(GetParam(), 1);
      options.kv.tokens.reset();
      const int64_t cap = 1001 * model_->info().kv_bytes_per_token / share + 1000;
      options.kv.bytes = cap;
      options.kv.chunk = chunk;
      if (chunk > 0 && ByTheWholePart()) continue;
      SCOPED_TRACE(std::to_string(chunk) + " at a time, " + std::to_string(cap));
      Session session(model_, options);
      session.ReadIds(ids);
      const KvStats kv = session.kv();
      EXPECT_LE(kv.bytes_kept, cap);
      EXPECT_GE(kv.bytes_kept, cap / 4);
      if (chunk > 0) {
        EXPECT_LE(kv.bytes_peak, cap);
      }
      for (int i = 0; holds && i < 5; ++i) {
        session.Generate({.max_new_tokens = 20}, nullptr);
        EXPECT_LE(session.kv().bytes_now, cap);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, CompressionTest, testing::ValuesIn(CompressingPolicies()), [](const auto& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

}  // namespace
}  // namespace purekv
