// Tokens dropped from the prefill: equal to running all of them and hiding the dropped ones from their layer on, and
// what is chosen is what docs/purekv.md says.
#include "policy/drop.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "engine/conversation.h"
#include "engine/spatial_temporal.h"
#include "policy/registry.h"
#include "support/plain_decoder.h"
#include "support/small_model.h"

namespace purekv {
namespace {

constexpr uint64_t kSeed = SmallModel::kSeed;
constexpr int64_t kLayers = SmallModel::kLayers;

// What a run should give, by plain loops over all tokens.
class Expected {
 public:
  // sparse_from: the first layer with the spatial-temporal pattern.
  Expected(const SmallModel& small, const std::vector<int32_t>& ids, const KvOptions& kv,
           const std::vector<int32_t>& answer, int64_t sparse_from, bool video)
      : config_(small.internals().decoder().config()),
        plain_(config_, kSeed),
        kv_(kv),
        sparse_from_(sparse_from),
        has_video_(video) {
    std::vector<PreparedMedia> media;
    if (video) media.push_back(small.Video());
    const PromptTokens prompt = small.internals().LayOut(ids, media, 0);
    layout_ = prompt.layout;
    tokens_ = prompt.ids.size();
    part_ = kv.when == KvOptions::When::kContext ? static_cast<size_t>(prompt.media_end) : tokens_;
    std::vector<int32_t> all = prompt.ids;
    all.insert(all.end(), answer.begin(), answer.end() - 1);
    positions_ = prompt.positions;
    for (int32_t p = prompt.next_position; positions_.size() < all.size(); ++p) positions_.push_back({p, p, p});
    Matrix<float> embedded(static_cast<int64_t>(all.size()), config_.hidden);
    small.internals().decoder().Embed(all, embedded.View());
    const auto first = std::find_if(layout_.begin(), layout_.end(), IsVisual) - layout_.begin();
    if (video) small.internals().Encode(media[0], embedded.View().Rows(first, media[0].tokens), {});
    for (int64_t i = 0; i < embedded.rows(); ++i)
      hidden_.emplace_back(embedded.Row(i), embedded.Row(i) + config_.hidden);
    Run();
  }

  // Logits behind the prompt and behind every answer token but the last.
  std::vector<std::vector<double>> Logits() const {
    std::vector<std::vector<double>> logits;
    for (size_t i = tokens_ - 1; i < hidden_.size(); ++i) logits.push_back(plain_.Logits(hidden_[i]));
    return logits;
  }
  const std::vector<std::vector<std::vector<int32_t>>>& kept() const { return kept_; }
  const std::vector<int64_t>& alive_counts() const { return alive_counts_; }

 private:
  // Visual tokens; of a prompt without any, all.
  bool CanGo(size_t j) const { return !has_video_ || IsVisual(layout_[j]); }

  // purekv in the paper's form: source layer 2, all queries, the head's own sums.
  std::vector<double> Importance(int64_t layer, size_t head) const {
    std::vector<double> score(part_);
    for (size_t j = 0; j < part_; ++j) {
      score[j] = records_[2].received[head][j] * records_[static_cast<size_t>(layer)].norms[head][j];
    }
    return score;
  }

  // The best `count` of the alive tokens: protected ones, then by score.
  std::vector<int32_t> Best(const std::vector<int32_t>& alive, const std::vector<double>& score, size_t count) const {
    std::vector<int32_t> chosen, rest;
    for (size_t i = 0; i < alive.size(); ++i) {
      (i < sinks_ || i + recent_ >= alive.size() ? chosen : rest).push_back(alive[i]);
    }
    std::stable_sort(rest.begin(), rest.end(),
                     [&](int32_t a, int32_t b) { return score[size_t(a)] > score[size_t(b)]; });
    for (size_t i = 0; i < rest.size() && chosen.size() < count; ++i) chosen.push_back(rest[i]);
    std::sort(chosen.begin(), chosen.end());
    return chosen;
  }

  void Drop(const DropLayer& drop, std::vector<int32_t>& alive) {
    std::vector<double> mean(part_, 0.0);
    for (size_t g = 0; g < size_t(config_.kv_heads); ++g) {
      const std::vector<double> score = Importance(drop.layer - 1, g);
      for (size_t j = 0; j < part_; ++j) mean[j] += score[j] / double(config_.kv_heads);
    }
    size_t visual = 0, taken = 0;
    for (size_t j = 0; j < part_; ++j) visual += CanGo(j) ? 1 : 0;
    const auto share = static_cast<size_t>(double(visual) * drop.alive + 1e-6);
    std::vector<int32_t> stay, rest;
    for (const int32_t j : alive) {
      const auto at = static_cast<size_t>(j);
      const bool kept = !CanGo(at) || at < sinks_ || at + recent_ >= part_ || at + 1 == part_;
      (kept ? stay : rest).push_back(j);
      taken += kept && CanGo(at) ? 1 : 0;
    }
    std::stable_sort(rest.begin(), rest.end(), [&](int32_t a, int32_t b) { return mean[size_t(a)] > mean[size_t(b)]; });
    for (size_t i = 0; i < rest.size() && taken < share; ++i, ++taken) stay.push_back(rest[i]);
    std::sort(stay.begin(), stay.end());
    alive = stay;
    alive_counts_.push_back(static_cast<int64_t>(alive.size()));
  }

  void Run() {
    const auto base = std::max<size_t>(1, static_cast<size_t>(*kv_.budget * double(part_) + 1e-6));
    sinks_ = std::min<size_t>(4, base / 4);
    recent_ = std::min<size_t>(32, base / 2);
    std::vector<int32_t> alive;
    for (size_t j = 0; j < part_; ++j) alive.push_back(static_cast<int32_t>(j));
    // Low layers keep by the last queries of their own; as large a window as the engine's.
    const size_t window = std::max<size_t>(1, std::min<size_t>(32, base / 2));
    for (int64_t layer = 0; layer < config_.layers; ++layer) {
      for (const DropLayer& drop : kv_.drop_layers) {
        if (drop.layer == layer) Drop(drop, alive);
      }
      std::vector<bool> is_alive(hidden_.size(), false);
      for (const int32_t j : alive) is_alive[size_t(j)] = true;
      // Rows of the part first: what they leave decides what the rows behind them see.
      Rows part(hidden_.begin(), hidden_.begin() + static_cast<std::ptrdiff_t>(part_));
      PlainDecoder::Masks masks;
      const auto pattern = [&](size_t query, size_t key) {
        return layer < sparse_from_ || query >= layout_.size() ||
               Sees(SpatialTemporalPattern(), layout_, int64_t(query), int64_t(key));
      };
      masks.sees = [&](int64_t, int64_t, size_t query, size_t key) { return is_alive[key] && pattern(query, key); };
      masks.counts = [&](int64_t, size_t query) { return is_alive[query] && (layer >= 2 || query + window >= part_); };
      plain_.Run(part, positions_, layer, layer + 1, masks, &records_);
      kept_.emplace_back();
      std::vector<std::set<int32_t>> kept_sets;
      for (size_t g = 0; g < size_t(config_.kv_heads); ++g) {
        const std::vector<double> score = layer < 2 ? records_.back().received[g] : Importance(layer, g);
        kept_.back().push_back(base >= alive.size() ? alive : Best(alive, score, base));
        kept_sets.emplace_back(kept_.back().back().begin(), kept_.back().back().end());
      }
      masks.sees = [&](int64_t, int64_t head, size_t query, size_t key) {
        if (key >= part_) return true;
        if (!pattern(query, key)) return false;
        return query < part_ ? bool(is_alive[key]) : kept_sets[size_t(head)].contains(int32_t(key));
      };
      plain_.Run(hidden_, positions_, layer, layer + 1, masks, nullptr);
    }
  }

  DecoderConfig config_;
  PlainDecoder plain_;
  KvOptions kv_;
  int64_t sparse_from_ = 0;
  bool has_video_ = true;
  TokenLayout layout_;
  size_t tokens_ = 0, part_ = 0, sinks_ = 0, recent_ = 0;
  std::vector<Position> positions_;
  Rows hidden_;
  std::vector<PlainDecoder::LayerRecord> records_;
  std::vector<std::vector<std::vector<int32_t>>> kept_;
  std::vector<int64_t> alive_counts_;
};

SessionOptions Options(double budget, const std::vector<DropLayer>& drops) {
  SessionOptions options;
  options.threads = 1;
  options.kv.policy = "purekv";
  options.kv.options["below"] = "window";  // the paper's form
  options.kv.budget = budget;
  options.kv.drop_layers = drops;
  return options;
}

void ExpectEqual(const SmallModel& small, const std::vector<int32_t>& ids, const SessionOptions& options,
                 bool video = true) {
  const std::vector<int32_t> answer = {5, 9, 120, 3};
  const bool sparse = options.prefill.kind != "dense";
  const Expected expected(small, ids, options.kv, answer,
                          sparse ? std::stoll(options.prefill.options.at("start")) : kLayers, video);
  Conversation conversation(small.model(), options);
  std::vector<PreparedMedia> media;
  if (video) media.push_back(small.Video());
  conversation.ReadPrompt(ids, std::move(media));
  EXPECT_EQ(conversation.kv().tokens_alive, expected.alive_counts());
  EXPECT_EQ(conversation.kept(), expected.kept());
  const ScoreResult score = conversation.Score(answer, true);
  const auto logits = expected.Logits();
  ASSERT_EQ(score.logits.size(), logits.size() * logits[0].size());
  double worst = 0, largest = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    for (size_t k = 0; k < logits[i].size(); ++k) {
      worst = std::max(worst, std::abs(double(score.logits[i * logits[i].size() + k]) - logits[i][k]));
      largest = std::max(largest, std::abs(logits[i][k]));
    }
  }
  EXPECT_LT(worst, 1e-5 * std::max(1.0, largest));
}

class SlowDropTest : public testing::TestWithParam<Heads> {};

TEST_P(SlowDropTest, EqualsRunningAllTokensAndHidingTheDroppedOnes) {
  const SmallModel small(GetParam());
  const std::vector<int32_t> ids = small.Ids(3, 9);
  ExpectEqual(small, ids, Options(0.3, {}));
  ExpectEqual(small, ids, Options(0.3, {{3, 0.5}}));
  ExpectEqual(small, ids, Options(0.3, {{3, 0.5}, {5, 0.2}}));
  ExpectEqual(small, ids, Options(1, {{4, 0.1}}));  // nothing is evicted but what is dropped
}

TEST_P(SlowDropTest, AlsoBehindTheMediaAndInBlocks) {
  const SmallModel small(GetParam());
  SessionOptions options = Options(0.4, {{3, 0.6}, {4, 0.3}});
  options.kv.when = KvOptions::When::kContext;
  options.block_rows = 7;
  ExpectEqual(small, small.Ids(2, 6), options);
  ExpectEqual(small, small.Ids(0, 0), Options(0.4, {{3, 0.3}}));  // the prompt ends with the video
}

TEST_P(SlowDropTest, AlsoOfText) {
  const SmallModel small(GetParam());
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < 50; ++i) ids.push_back(3 + 7 * i % 200);
  ExpectEqual(small, ids, Options(0.3, {{3, 0.5}, {5, 0.2}}), false);
  ExpectEqual(small, ids, Options(1, {{4, 0.1}}), false);
}

TEST_P(SlowDropTest, AlsoWithSparseAttention) {
  const SmallModel small(GetParam());
  SessionOptions options = Options(0.4, {{4, 0.6}, {5, 0.4}});
  options.prefill.kind = "st";
  options.prefill.options["start"] = "3";
  ExpectEqual(small, small.Ids(2, 6), options);
}

INSTANTIATE_TEST_SUITE_P(Gqa, SlowDropTest, testing::Values(Heads{2, 1}, Heads{4, 2}, Heads{4, 4}),
                         [](const auto& info) { return StrCat(info.param.heads, "over", info.param.kv_heads); });

class DropTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { small_ = std::make_unique<SmallModel>(Heads{4, 2}); }
  static void TearDownTestSuite() { small_.reset(); }
  static std::unique_ptr<SmallModel> small_;
};
std::unique_ptr<SmallModel> DropTest::small_;

TEST_F(DropTest, SharesSetTheCountsAndTextStays) {
  const std::vector<int32_t> ids = small_->Ids(3, 9);
  SessionOptions options = Options(1, {{3, 0.5}, {5, 0.25}});
  options.kv.options["recent"] = "3";  // text all
  Conversation conversation(small_->model(), options);
  const PromptInfo info = conversation.ReadPrompt(ids, {small_->Video()});
  const auto text = static_cast<int64_t>(info.ids.size()) - info.visual_tokens;
  EXPECT_EQ(conversation.kv().tokens_alive,
            (std::vector<int64_t>{text + info.visual_tokens / 2, text + info.visual_tokens / 4}));
  const auto& kept = conversation.kept();
  for (size_t layer = 0; layer < kept.size(); ++layer) {
    const size_t count =
        layer < 3 ? info.ids.size() : static_cast<size_t>(text + info.visual_tokens / (layer < 5 ? 2 : 4));
    for (const auto& head : kept[layer]) {
      EXPECT_EQ(head, kept[layer][0]);
      ASSERT_EQ(head.size(), count) << layer;
      for (size_t i = 0; i < 4; ++i) EXPECT_EQ(head[i], static_cast<int32_t>(i));
      EXPECT_EQ(head.back() + 1, static_cast<int32_t>(info.ids.size()));
    }
  }
  EXPECT_TRUE(std::includes(kept[3][0].begin(), kept[3][0].end(), kept[5][0].begin(), kept[5][0].end()));
}

TEST_F(DropTest, EveryPolicyThatScoresCanDrop) {
  for (const PolicyInfo& policy : Policies()) {
    SCOPED_TRACE(policy.name);
    SessionOptions options = Options(0.3, {{3, 0.4}});
    options.kv.policy = policy.name;
    if (!policy.calibrated) options.kv.options.clear();
    if (policy.name == "full") options.kv.budget.reset();
    if (!policy.drops()) {
      ExpectError({"kv.drop_layers", policy.name}, [&] { Conversation(small_->model(), options); });
      continue;
    }
    for (const char* const allocator : {"uniform", "ada", "pyramid"}) {
      if (!policy.ada && allocator == std::string("ada")) continue;
      options.kv.allocator = allocator;
      Conversation conversation(small_->model(), options);
      const PromptInfo info = conversation.ReadPrompt(small_->Ids(3, 9), {small_->Video()});
      const auto text = static_cast<int64_t>(info.ids.size()) - info.visual_tokens;
      const int64_t alive = conversation.kv().tokens_alive.at(0);
      // What is protected may be visual, and more than the share.
      EXPECT_GE(alive, text + static_cast<int64_t>(0.4 * double(info.visual_tokens)));
      EXPECT_LT(alive, static_cast<int64_t>(info.ids.size()));
      for (size_t layer = 3; layer < kLayers; ++layer) {
        for (const auto& head : conversation.kept()[layer]) EXPECT_LE(static_cast<int64_t>(head.size()), alive);
      }
      conversation.Score({4, 8, 15}, false);
    }
  }
}

TEST_F(DropTest, BlocksOfRowsDoNotMatter) {
  std::vector<std::vector<std::vector<int32_t>>> first;
  for (const int64_t block : {0, 1, 5, 64}) {
    SessionOptions options = Options(0.25, {{3, 0.5}, {4, 0.3}});
    options.block_rows = block;
    Conversation conversation(small_->model(), options);
    conversation.ReadPrompt(small_->Ids(3, 9), {small_->Video()});
    if (first.empty()) first = conversation.kept();
    EXPECT_EQ(conversation.kept(), first) << block;
  }
}

TEST_F(DropTest, ChunksChooseAmongThemselves) {
  SessionOptions options = Options(0.3, {{3, 0.5}});
  options.kv.budget.reset();
  options.kv.tokens = 20;
  options.kv.chunk = 16;
  options.kv.options["window"] = "8";
  Conversation conversation(small_->model(), options);
  const PromptInfo info = conversation.ReadPrompt(small_->Ids(3, 9), {small_->Video()});
  EXPECT_LT(conversation.kv().tokens_alive.at(0), static_cast<int64_t>(info.ids.size()));
  EXPECT_GE(conversation.kv().tokens_alive.at(0), static_cast<int64_t>(info.ids.size()) - info.visual_tokens);
  for (const auto& head : conversation.kept()[5]) EXPECT_EQ(head.size(), 20U);
  EXPECT_FALSE(conversation.Score({4, 8, 15}, false).ids.empty());
}

TEST_F(DropTest, ASavedCacheGoesOnAsTheSessionThatSavedIt) {
  const TemporaryDirectory directory("dropped");
  SessionOptions options = Options(0.3, {{3, 0.5}, {5, 0.2}});
  options.kv.when = KvOptions::When::kContext;
  Turn media = small_->VideoTurn();
  const std::string question = std::exchange(media.prompt, "");
  const Turn ask = {.prompt = question};
  Session session(small_->model(), options);
  session.ReadMedia(media);
  session.Save(directory.File("a.pkv"));
  SessionOptions plain;
  plain.threads = 1;
  Session opened = Session::Open(small_->model(), directory.File("a.pkv"), plain);
  KvOptions saved = session.kv_options();
  saved.allocator = AllocatorOf(saved);
  EXPECT_EQ(opened.kv_options(), saved);
  EXPECT_EQ(opened.kv().tokens_alive, session.kv().tokens_alive);
  EXPECT_EQ(opened.kept(), session.kept());
  session.Read(ask);
  opened.Read(ask);
  EXPECT_EQ(opened.Score({4, 8, 15}, true).logits, session.Score({4, 8, 15}, true).logits);
  // Later turns are read whole.
  session.Read({.prompt = "And then?"});
  EXPECT_FALSE(session.Generate({.max_new_tokens = 3}, nullptr).ids.empty());
}

TEST_F(DropTest, RefusesWhatCannotWork) {
  const auto refuse = [&](const std::vector<std::string>& words, const SessionOptions& options) {
    ExpectError(words, [&] { Conversation(small_->model(), options); });
  };
  refuse({"kv.drop_layers", "'6:0.5'", "last layer is 5"}, Options(0.3, {{6, 0.5}}));
  refuse({"kv.drop_layers", "'2:0.5'", "layer 2"}, Options(0.3, {{2, 0.5}}));
  refuse({"'0:0.5'", "at least 1"}, Options(0.3, {{0, 0.5}}));
  refuse({"'4:0.5'", "descend"}, Options(0.3, {{3, 0.5}, {4, 0.5}}));
  refuse({"'3:0.4'", "ascend"}, Options(0.3, {{3, 0.5}, {3, 0.4}}));
  SessionOptions options = Options(0.3, {{3, 0.5}});
  options.chunk_tokens = 8;
  refuse({"chunk_tokens"}, options);
  options = Options(0.3, {{3, 0.5}});
  options.dump_directory = "somewhere";
  refuse({"dump_directory"}, options);
  options = Options(0.3, {{3, 0.5}});
  options.kv.options = {{"drop_by", "layer"}, {"drop_kernel", "7"}};
  refuse({"kv.option.drop_kernel", "drop_by=layer"}, options);
  options.kv.options = {{"drop_kernel", "7"}, {"own_share", "0"}};
  refuse({"kv.option.drop_kernel", "no share"}, options);
  options.kv.options = {{"drop_kernel", "7"}};
  options.kv.drop_layers.clear();
  refuse({"kv.option.drop_kernel", "nothing is dropped"}, options);
  options = Options(0.3, {{3, 0.5}});
  options.kv.options = {{"sources", "2,4"}, {"decode_every", "8"}};
  refuse({"kv.drop_layers", "decode_every", "4"}, options);
  options.kv.options = {{"sources", "2,4"}};
  Conversation conversation(small_->model(), options);
  conversation.ReadPrompt(small_->Ids(3, 9), {small_->Video()});
}

TEST(DropLayers, TextAndBack) {
  const auto drops = ParseDropLayers("4:0.25,12:0.15");
  EXPECT_EQ(drops, (std::vector<DropLayer>{{4, 0.25}, {12, 0.15}}));
  EXPECT_EQ(DropLayersText(drops), "4:0.25,12:0.15");
  for (const char* const bad : {"", "4", "4:", ":0.5", "4:x", "4:0.5,", "4:0.5 ", "4:nan", "-1:0.5", "4:0", "4:1.5",
                                "4:0.5,3:0.2", "4:0.5,5:0.6", "4:0.5;5:0.2", "4:1e-400"}) {
    ExpectError({"kv.drop_layers"}, [&] { ParseDropLayers(bad); });
  }
}

TEST(DropLayers, DefaultsFollowWhatCopiesAndTheBudget) {
  const auto text = [](int64_t layers, int64_t first, double budget, const CopyingHeads& copying = {}) {
    return DropLayersText(DefaultDropLayers(layers, first, budget, copying));
  };
  EXPECT_EQ(text(28, 3, 0.3), "14:0.3");
  EXPECT_EQ(text(28, 20, 0.3), "20:0.3");
  EXPECT_EQ(text(7, 3, 0.05), "4:0.2");  // a fifth at least
  EXPECT_EQ(text(28, 3, 1), "");
  EXPECT_EQ(text(2, 2, 0.2), "");
  const CopyingHeads copying = {{0, 0.1}, {0.2, 0}, {0.3, 0.1}, {0.5, 0.4}, {0.3, 0.2}};  // a third: 0.7
  EXPECT_EQ(text(5, 1, 0.5, copying), "3:0.5");
  EXPECT_EQ(text(5, 4, 0.5, copying), "4:0.5");
  EXPECT_EQ(text(5, 1, 0.5, CopyingHeads(5, {0.0, 0.0})), "3:0.5");  // none copies
}

}  // namespace
}  // namespace purekv
