// Sparse prefill of whole sessions: what must equal dense attention does, chunks and evictions change nothing but
// rounding, and what cannot take effect is refused.
#include <gmock/gmock.h>

#include <cmath>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/prefill_attention.h"
#include "purekv/cache_file.h"
#include "purekv/session.h"
#include "support/reference_model.h"

namespace purekv {
namespace {

using ::testing::HasSubstr;
using Values = std::map<std::string, std::string>;

// Sees all of one video: every cell of every earlier frame is near.
const Values kAll = {{"start", "0"}, {"temporal_radius", "1000"}};

class SparsePrefillTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    files_ = std::make_unique<ReferenceModel>("qwen2_5_vl_flat");
    model_ = Model::Load(files_->directory(), {.activations = Dtype::kF32});
  }
  static void TearDownTestSuite() {
    model_.reset();
    files_.reset();
  }
  static Turn VideoTurn() { return files_->TurnNamed("video"); }
  static SessionOptions Options(const std::string& kind, const Values& values = {}) {
    SessionOptions options;
    options.threads = 1;
    options.prefill = {kind, values};
    return options;
  }
  // Logits of an answer's tokens behind the video and its question.
  static std::vector<float> Logits(const SessionOptions& options, PrefillStats* stats = nullptr) {
    Session session(model_, options);
    session.Read(VideoTurn());
    std::vector<float> logits = session.Score({5, 9, 11, 3}, true).logits;
    if (stats != nullptr) *stats = session.prefill();
    return logits;
  }
  static double Distance(const std::vector<float>& a, const std::vector<float>& b) {
    EXPECT_EQ(a.size(), b.size());
    double most = 0;
    for (size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(static_cast<double>(a[i] - b[i])));
    return most;
  }
  static std::string Refusal(const SessionOptions& options) {
    try {
      Session session(model_, options);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), Error::Kind::kUsage);
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
      return error.what();
    }
    return "";
  }

  static constexpr double kRounding = 2e-4;
  static std::unique_ptr<ReferenceModel> files_;
  static std::shared_ptr<const Model> model_;
};
std::unique_ptr<ReferenceModel> SparsePrefillTest::files_;
std::shared_ptr<const Model> SparsePrefillTest::model_;

TEST_F(SparsePrefillTest, PatternsThatSeeAllAreDense) {
  const std::vector<float> dense = Logits(Options("dense"));
  PrefillStats stats;
  EXPECT_LT(Distance(Logits(Options("st", kAll), &stats), dense), kRounding);
  EXPECT_EQ(stats.start, 0);
  EXPECT_EQ(stats.flops_share, 1);
  EXPECT_LT(Distance(Logits(Options("st", {{"start", "0"}, {"anchor_every", "1"}, {"temporal", "0"}})), dense),
            kRounding);
  EXPECT_LT(Distance(Logits(Options("block-sparse", {{"start", "0"}, {"threshold", "1"}}), &stats), dense), kRounding);
  EXPECT_NEAR(stats.flops_share, 1, 1e-12);
}

TEST_F(SparsePrefillTest, SparsePatternsAreSparse) {
  const std::vector<float> dense = Logits(Options("dense"));
  PrefillStats stats;
  EXPECT_GT(
      Distance(Logits(Options("st", {{"start", "0"}, {"anchor_every", "none"}, {"temporal", "0"}}), &stats), dense),
      kRounding);
  EXPECT_LT(stats.flops_share, 1);
  EXPECT_GT(stats.flops_share, 0);
  ASSERT_EQ(stats.parts.size(), 5u);
  double sum = 0;
  for (const PrefillStats::Part& part : stats.parts) sum += part.flops_share;
  EXPECT_NEAR(sum, stats.flops_share, 1e-12);  // every layer is sparse
  Logits(Options("dense"), &stats);
  EXPECT_EQ(stats.flops_share, 1);
  EXPECT_TRUE(stats.parts.empty());
}

TEST_F(SparsePrefillTest, ChunksAndBlocksDoNotMatter) {
  for (const Values& values :
       {Values{{"start", "0"}}, Values{{"start", "0"}, {"temporal_radius", "1"}, {"temporal_window", "1"}},
        Values{{"start", "0"}, {"spatial", "0"}, {"anchor_every", "none"}}}) {
    const std::vector<float> whole = Logits(Options("st", values));
    for (const int64_t step : {1, 5, 16}) {
      SessionOptions options = Options("st", values);
      options.chunk_tokens = step;
      EXPECT_LT(Distance(Logits(options), whole), kRounding) << "chunks of " << step;
      options.chunk_tokens = 0;
      options.block_rows = step;
      EXPECT_LT(Distance(Logits(options), whole), kRounding) << "blocks of " << step;
    }
  }
}

TEST_F(SparsePrefillTest, PastsThatLostKeysStayExact) {
  // Read in chunks and cut after each: every head keeps tokens of its own.
  for (const char* const policy : {"keydiff", "random", "streaming-llm"}) {
    SessionOptions options = Options("dense");
    options.kv.policy = policy;
    options.kv.tokens = 12;
    options.kv.chunk = 9;
    const std::vector<float> dense = Logits(options);
    options.prefill = {"st", kAll};
    EXPECT_LT(Distance(Logits(options), dense), kRounding) << policy;
    options.prefill = {"block-sparse", {{"start", "0"}, {"threshold", "1"}}};
    EXPECT_LT(Distance(Logits(options), dense), kRounding) << policy;
  }
}

TEST_F(SparsePrefillTest, LaterTurnsAndResetWork) {
  Session session(model_, Options("st", {{"start", "0"}}));
  session.Read(VideoTurn());
  const Answer first = session.Generate({.max_new_tokens = 4}, nullptr);
  session.Read({.prompt = "And then?"});
  session.Generate({.max_new_tokens = 4}, nullptr);
  session.Reset();
  EXPECT_EQ(session.prefill().flops_share, 1);  // nothing read
  session.Read(VideoTurn());
  EXPECT_EQ(session.Generate({.max_new_tokens = 4}, nullptr).ids, first.ids);
}

TEST_F(SparsePrefillTest, SavedCachesRememberHowTheyWereRead) {
  TemporaryDirectory directory("sparse");
  SessionOptions options = Options("st", {{"start", "0"}, {"temporal", "0"}});
  options.kv.when = KvOptions::When::kContext;
  Turn media = VideoTurn();
  const std::string question = media.prompt;
  Session whole(model_, options);
  whole.Read(media);
  media.prompt = "";
  Session reader(model_, options);
  reader.ReadMedia(media);
  reader.Save(directory.File("a.pkv"));
  EXPECT_EQ(InspectCache(directory.File("a.pkv")).prefill, options.prefill);
  SessionOptions plain;
  plain.threads = 1;
  Session opened = Session::Open(model_, directory.File("a.pkv"), plain);
  opened.Read({.prompt = question});
  EXPECT_EQ(opened.Score({5, 9, 11}, true).logits, whole.Score({5, 9, 11}, true).logits);
  EXPECT_THROW(Session::Open(model_, directory.File("a.pkv"), options), Error);
}

// Behind a drop layer rows and keys have holes where tokens were.
TEST_F(SparsePrefillTest, PatternsThatSeeAllAreDenseBehindADropLayer) {
  const auto dropping = [](const std::string& kind, const Values& values) {
    SessionOptions options = Options(kind, values);
    options.kv.policy = "keydiff";
    options.kv.tokens = 40;
    options.kv.options["recent"] = "4";
    options.kv.drop_layers = {{1, 0.5}};
    return options;
  };
  const std::vector<float> dense = Logits(dropping("dense", {}));
  SessionOptions whole = dropping("dense", {});
  whole.kv.drop_layers.clear();
  EXPECT_GT(Distance(Logits(whole), dense), kRounding);  // something was dropped that counts
  EXPECT_LT(Distance(Logits(dropping("st", kAll)), dense), kRounding);
  EXPECT_LT(Distance(Logits(dropping("block-sparse", {{"start", "0"}, {"threshold", "1"}})), dense), kRounding);
  EXPECT_GT(Distance(Logits(dropping("st", {{"start", "0"}, {"anchor_every", "none"}, {"temporal", "0"}})), dense),
            kRounding);
}

TEST_F(SparsePrefillTest, PoliciesThatNeedScoresAreRefusedByName) {
  for (const char* const policy : {"h2o"}) {
    for (const char* const kind : {"st", "block-sparse"}) {
      SessionOptions options = Options(kind, {{"start", "0"}});
      options.kv.policy = policy;
      options.kv.tokens = 10;
      const std::string refusal = Refusal(options);
      EXPECT_THAT(refusal, HasSubstr("start=0"));
      EXPECT_THAT(refusal, HasSubstr(policy));
      options.prefill.options.clear();
      EXPECT_THAT(Refusal(options), HasSubstr(std::string("prefill.kind ") + kind));
    }
  }
  for (const char* const policy : {"random", "uniform", "streaming-llm", "knorm", "keydiff", "vnorm",
                                   "expected-attention", "tova", "snapkv", "csp", "purekv"}) {
    SessionOptions options = Options("st", {{"start", "0"}});
    options.kv.policy = policy;
    options.kv.tokens = 10;
    EXPECT_EQ(Refusal(options), "");
  }
  // purekv needs its sources, and the layers below the first, dense.
  const int64_t layers = model_->info().layers;
  ASSERT_GE(layers, 2);
  SessionOptions options = Options("st", {{"start", "0"}});
  options.kv.policy = "purekv";
  options.kv.tokens = 10;
  options.kv.options["sources"] = "0";
  EXPECT_THAT(Refusal(options), ::testing::AllOf(HasSubstr("start=0"), HasSubstr("purekv"), HasSubstr("layer 0"),
                                                 HasSubstr("1 or more")));
  options.prefill.options["start"] = "1";
  EXPECT_EQ(Refusal(options), "");
  for (const char* const window : {"all", "5"}) {
    options.kv.options["window"] = window;
    EXPECT_EQ(Logits(options).size() % static_cast<size_t>(model_->info().vocabulary), 0u);
  }
  options.prefill.options.clear();  // auto: above the source
  PrefillStats stats;
  Logits(options, &stats);
  EXPECT_GE(stats.start, 1);
  options.kv.options = {{"sources", std::to_string(layers - 1)}};
  EXPECT_THAT(Refusal(options), HasSubstr("the last one"));
}

// What the last queries attend to is not what a sparse layer computed: it is looked at apart.
TEST_F(SparsePrefillTest, AFewLastQueriesAreSeenInSparseLayersToo) {
  for (const char* const policy : {"snapkv", "tova", "csp", "purekv"}) {
    std::vector<std::vector<std::vector<std::vector<int32_t>>>> kept;
    for (const char* const kind : {"dense", "block-sparse"}) {
      SessionOptions options = Options(kind);
      if (kept.size() == 1) options.prefill.options = {{"start", "0"}, {"threshold", "1"}};  // all blocks: dense
      options.kv.policy = policy;
      options.kv.tokens = 24;
      options.block_rows = 16;
      Session session(model_, options);
      session.Read(files_->TurnNamed("video"));
      kept.push_back(session.kept());
    }
    EXPECT_EQ(kept[1], kept[0]) << policy;
  }
}

TEST_F(SparsePrefillTest, OptionsAreChecked) {
  EXPECT_THAT(Refusal(Options("sparse")), HasSubstr("dense, st, block-sparse"));
  EXPECT_THAT(Refusal(Options("dense", {{"start", "1"}})), HasSubstr("prefill.option.start"));
  EXPECT_THAT(Refusal(Options("st", {{"radius", "1"}})),
              HasSubstr("valid here: start, sinks, temporal_radius, temporal_window, anchor_every, spatial, temporal"));
  EXPECT_THAT(Refusal(Options("st", {{"spatial", "2"}})), HasSubstr("prefill.option.spatial=2: out of range (1|0)"));
  EXPECT_THAT(Refusal(Options("st", {{"temporal_window", "0"}})), HasSubstr("out of range (all or 1"));
  EXPECT_THAT(Refusal(Options("st", {{"anchor_every", "-1"}})), HasSubstr("out of range (none or 0"));
  EXPECT_THAT(Refusal(Options("st", {{"start", "1000"}})), HasSubstr("out of range (layers 0 .."));
  EXPECT_THAT(Refusal(Options("st", {{"temporal", "0"}, {"temporal_radius", "1"}})), HasSubstr("cannot take effect"));
  EXPECT_THAT(Refusal(Options("block-sparse", {{"threshold", "1.5"}})), HasSubstr("out of range (0 .. 1)"));
  EXPECT_THAT(Refusal(Options("block-sparse", {{"stride", "7"}})), HasSubstr("16|8|4|32"));
  SessionOptions weighing = Options("block-sparse");
  weighing.kv.policy = "vnorm";
  weighing.kv.budget = 0.5;
  weighing.kv.merge = "weighted";
  EXPECT_EQ(Refusal(weighing), "");
  weighing.kv.options["merge_bias"] = "1";
  EXPECT_THAT(Refusal(weighing), HasSubstr("merge_bias"));
  EXPECT_EQ(Refusal(Options("st")), "");
}

}  // namespace
}  // namespace purekv
