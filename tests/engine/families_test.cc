// Every family under everything: what works on one works on all, or is refused for a reason that the family has (no
// videos, no windows of slices). On the tiny models of tests/data/reference.
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "engine/conversation.h"
#include "engine/shared_prefill.h"
#include "policy/registry.h"
#include "purekv/calibrate.h"
#include "purekv/session.h"
#include "support/reference_model.h"

namespace purekv {
namespace {

struct Family {
  std::string name;
  std::unique_ptr<ReferenceModel> files;
  std::shared_ptr<const Model> model;
  Turn turn;
  bool video = false;
};

// Of each case the prompt with most media, a video among them where there is one.
const std::vector<Family>& Families() {
  static const std::vector<Family>* const families = [] {
    auto* const all = new std::vector<Family>;
    std::vector<std::string> names = ReferenceCases();
    for (const std::string& name : OneAxisReferenceCases()) names.push_back(name);
    for (const std::string& name : names) {
      Family& family = all->emplace_back();
      family.name = name;
      family.files = std::make_unique<ReferenceModel>(name);
      family.model = Model::Load(family.files->directory(), {.activations = Dtype::kF32});
      size_t best = 0;
      for (const Json& prompt : family.files->prompts()) {
        const Turn turn = family.files->FirstTurn(prompt);
        bool video = false;
        for (const MediaSource& source : turn.media) video = video || source.kind != MediaSource::Kind::kImage;
        const size_t value = turn.media.size() + (video ? 100 : 0);
        if (value <= best) continue;
        best = value;
        family.turn = turn;
        family.video = video;
      }
      // A rate is of decoded frames; with images alone a family may refuse it.
      if (!family.video) family.turn.media_options.fps.reset();
    }
    return all;
  }();
  return *families;
}

// What a family makes of a setting: "" when it answers, and the message when it refuses.
std::string Outcome(const Family& family, const SessionOptions& options) {
  try {
    Session session(family.model, options);
    session.Read(family.turn);
    const Answer answer = session.Generate({.max_new_tokens = 3}, nullptr);
    EXPECT_GE(answer.ids.size(), 1U);
    if (options.kv.policy != "full") {
      EXPECT_LT(session.kv().bytes_kept, session.kv().bytes_full);
      EXPECT_LT(session.kv().tokens_kept_mean, static_cast<double>(session.kv().tokens_full));
    }
    session.Read({.prompt = "And then?"});
    EXPECT_GE(session.Generate({.max_new_tokens = 2}, nullptr).ids.size(), 1U);
    return "";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), Error::Kind::kUsage) << error.what();
    return error.what();
  }
}

// All answer; or all refuse, where the setting itself is at fault.
enum class Expected { kAnswers, kRefused };
void ExpectAlike(const SessionOptions& options, Expected expected = Expected::kAnswers,
                 const std::function<bool(const Family&)>& concerned = nullptr) {
  int64_t tried = 0;
  for (const Family& family : Families()) {
    if (concerned && !concerned(family)) continue;
    SCOPED_TRACE(family.name);
    const std::string refusal = Outcome(family, options);
    EXPECT_EQ(refusal.empty(), expected == Expected::kAnswers) << refusal;
    ++tried;
  }
  EXPECT_GT(tried, 1);
}

// Groups that every head's dimension is a multiple of.
void InIntegers(const char* form, KvOptions& kv) {
  kv.keys = kv.values = form;
  kv.options["key_group"] = kv.options["value_group"] = "16";
  kv.options["residual"] = "16";
}

SessionOptions With(const std::string& policy) {
  SessionOptions options;
  options.kv.policy = policy;
  if (policy != "full") options.kv.budget = 0.6;
  return options;
}

TEST(Families, EveryPolicyAndMomentOnAll) {
  for (const PolicyInfo& policy : Policies()) {
    for (const auto when : {KvOptions::When::kPrompt, KvOptions::When::kContext}) {
      SCOPED_TRACE(policy.name);
      SessionOptions options = With(policy.name);
      options.kv.when = when;
      ExpectAlike(options);
    }
  }
}

TEST(Families, EveryAllocatorOnAll) {
  for (const std::string& allocator : Allocators()) {
    for (const char* policy : {"snapkv", "purekv", "keydiff"}) {
      SCOPED_TRACE(policy + (":" + allocator));
      SessionOptions options = With(policy);
      options.kv.allocator = allocator;
      // It shares out by attention of whole layers, which neither of these has.
      const bool no_scores = allocator == "prefix" && policy != std::string_view("snapkv");
      ExpectAlike(options, no_scores ? Expected::kRefused : Expected::kAnswers);
    }
  }
}

TEST(Families, EveryFormOfTheCacheOnAll) {
  const std::vector<std::pair<const char*, std::function<void(KvOptions&)>>> forms = {
      {"int8", [](KvOptions& kv) { InIntegers("int8", kv); }},
      {"int4", [](KvOptions& kv) { InIntegers("int4", kv); }},
      {"channels", [](KvOptions& kv) { kv.key_channels = 0.5; }},
      {"bytes", [](KvOptions& kv) { kv.budget_of = KvOptions::Of::kBytes; }},
      {"chunks",
       [](KvOptions& kv) {
         kv.budget.reset();  // a share is not known while they are read
         kv.tokens = 24;
         kv.chunk = 40;
       }},
      {"merge", [](KvOptions& kv) { kv.merge = "weighted"; }},
      {"quest", [](KvOptions& kv) { kv.attend.view = "quest", kv.attend.budget = 0.5; }},
      {"rekv", [](KvOptions& kv) { kv.attend.view = "rekv", kv.attend.budget = 0.5; }},
      {"file", [](KvOptions& kv) {
         kv.store.kind = StoreOptions::Kind::kFile;
         kv.store.directory = testing::TempDir();
       }}};
  for (const auto& [name, add] : forms) {
    for (const char* policy : {"vnorm", "purekv"}) {
      SCOPED_TRACE(policy + std::string(":") + name);
      SessionOptions options = With(policy);
      add(options.kv);
      ExpectAlike(options);
    }
  }
}

// The models have three layers or four, and purekv drops from layer 3 on.
TEST(Families, DroppingOnAll) {
  for (const char* policy : {"snapkv", "vnorm", "expected-attention", "csp"}) {
    SCOPED_TRACE(policy);
    SessionOptions options = With(policy);
    options.kv.drop_layers = {{2, 0.6}};
    ExpectAlike(options, policy == std::string_view("csp") ? Expected::kRefused : Expected::kAnswers);
  }
}

TEST(Families, SparsePrefillOnThoseThatSeeVideos) {
  for (const char* kind : {"st", "block-sparse"}) {
    for (const char* policy : {"full", "purekv", "snapkv"}) {
      SCOPED_TRACE(policy + std::string(":") + kind);
      SessionOptions options = With(policy);
      options.prefill.kind = kind;
      ExpectAlike(options, Expected::kAnswers, [](const Family& family) { return family.video; });
    }
  }
}

TEST(Families, SavedCachesAnswerAsTheirSessions) {
  const TemporaryDirectory directory("families");
  for (const Family& family : Families()) {
    SCOPED_TRACE(family.name);
    SessionOptions options = With("purekv");
    options.kv.when = KvOptions::When::kContext;
    Session session(family.model, options);
    Turn media = family.turn;
    media.prompt.clear();
    session.ReadMedia(media);
    const std::string path = directory.File(family.name + ".pkv");
    session.Save(path);
    Session opened = Session::Open(family.model, path, {});
    const Turn question{.prompt = "What happens?"};
    session.Read(question);
    opened.Read(question);
    EXPECT_EQ(session.Generate({.max_new_tokens = 8}, nullptr).ids,
              opened.Generate({.max_new_tokens = 8}, nullptr).ids);
  }
}

// What eval does: the full cache is read once, and compressed for every setting.
// By the template, in the text, or by words: the texts are where they were given.
TEST(Families, TextsStandAmongImagesOnAll) {
  for (const Family& family : Families()) {
    SCOPED_TRACE(family.name);
    Turn turn;
    const std::string picture = ReferencePath("media/street.png");
    turn.media = {{MediaSource::Kind::kImage, picture}, {MediaSource::Kind::kImage, picture}};
    turn.media_texts = {"Begin with ", " go on with "};
    turn.prompt = " and end.";
    Session session(family.model, {});
    const PromptInfo info = session.Read(turn);
    std::vector<std::vector<int32_t>> ids(3);  // before the first image, between the two, behind them
    size_t part = 0;
    for (size_t i = 0; i < info.ids.size(); ++i) {
      const TokenRecord& one = session.layout()[i];
      if (one.kind == TokenRecord::Kind::kText) {
        ids[part].push_back(info.ids[i]);
      } else {
        part = static_cast<size_t>(one.item) + 1;
      }
    }
    ASSERT_EQ(part, 2U);
    const char* const texts[] = {"Begin with", "go on with", "and end."};
    for (size_t at = 0; at < ids.size(); ++at) {
      const std::string said = family.model->internals().tokenizer()->Decode(ids[at], true);
      for (size_t text = 0; text < ids.size(); ++text) {
        EXPECT_EQ(said.find(texts[text]) != said.npos, text == at) << "part " << at << ": " << said;
      }
    }
  }
}

TEST(Families, OnePrefillServesManySettings) {
  for (const Family& family : Families()) {
    SCOPED_TRACE(family.name);
    std::vector<KvOptions> settings;
    for (const char* policy : {"snapkv", "purekv", "keydiff"}) settings.push_back(With(policy).kv);
    SharedPrefill shared(family.model, {}, settings);
    Turn media = family.turn;
    media.prompt.clear();
    shared.ReadMedia(media);
    shared.ReadQuestion(family.turn.prompt);
    for (size_t i = 0; i < settings.size(); ++i) {
      SessionOptions options;
      options.kv = settings[i];
      Session alone(family.model, options);
      alone.Read(family.turn);
      EXPECT_EQ(shared.Compress(i).kept(), alone.kept()) << settings[i].policy;
    }
  }
}

TEST(Families, CalibrationRunsOnAll) {
  for (const Family& family : Families()) {
    SCOPED_TRACE(family.name);
    CalibrationSample sample;
    sample.name = family.name;
    sample.turn = family.turn;
    CalibrationRequest request;
    request.budgets = {1};
    request.max_loss = 0.99;
    request.answer_tokens = 3;
    const Calibration result = Calibrate(family.model, {sample}, request, {});
    EXPECT_EQ(result.own.size(), static_cast<size_t>(family.model->info().layers));
    EXPECT_GT(result.visual_tokens, 0);
  }
}

TEST(Families, InspectSaysWhatAVideoTakes) {
  for (const Family& family : Families()) {
    if (!family.video) continue;
    SCOPED_TRACE(family.name);
    Frames frames{8, 96, 128, std::vector<uint8_t>(static_cast<size_t>(8 * 96 * 128 * 3), 77)};
    const VideoCost cost = Model::CostOfVideo(family.files->directory(), 8, 96, 128, {}, "What happens?");
    Session session(family.model, {});
    Turn turn;
    turn.media = {MediaSource::Of(std::move(frames))};
    turn.prompt = "What happens?";
    const PromptInfo read = session.Read(turn);
    EXPECT_EQ(cost.media.tokens, read.visual_tokens);
    EXPECT_EQ(cost.prompt_tokens, session.tokens());
  }
}

TEST(Families, AFullCacheInChunksOfRowsIsTheSame) {
  for (const Family& family : Families()) {
    SCOPED_TRACE(family.name);
    const auto logits = [&](int64_t block_rows) {
      SessionOptions options;
      options.block_rows = block_rows;
      Session session(family.model, options);
      session.Read(family.turn);
      return session.Score({3, 4, 5}, true).logits;
    };
    const std::vector<float> whole = logits(SessionOptions().block_rows), parts = logits(16);
    ASSERT_EQ(whole.size(), parts.size());
    for (size_t i = 0; i < whole.size(); ++i) ASSERT_NEAR(whole[i], parts[i], 2e-3F) << i;
  }
}

}  // namespace
}  // namespace purekv
