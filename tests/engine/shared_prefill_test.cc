// One prefill shared by many settings gives what each setting gives in a session of its own.
#include "engine/shared_prefill.h"

#include <gmock/gmock.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "policy/registry.h"
#include "purekv/error.h"
#include "support/broken_model.h"
#include "support/expect_error.h"
#include "support/flat_model_test.h"

namespace purekv {
namespace {

using ::testing::HasSubstr;

const char* const kFirst = "Describe the video in one sentence.";
const char* const kSecond = "And what is at its end, in all detail that there is?";
const std::vector<int32_t> kAnswer = {5, 6, 300, 8, 9, 77, 12};

class SharedPrefillTest : public FlatModelTest<SharedPrefillTest> {
 protected:
  static KvOptions Setting(const std::string& policy, KvOptions::When when, double budget = 0.3) {
    KvOptions kv;
    kv.policy = policy;
    kv.when = when;
    if (policy != "full") kv.budget = budget;
    return kv;
  }
  static SessionOptions Threads() {
    SessionOptions options;
    options.threads = 1;
    return options;
  }

  // What a setting says to a question, in a conversation that has read it.
  struct Said {
    std::vector<int32_t> ids;
    std::vector<float> logits;
  };
  static Said Say(Conversation& conversation) {
    Said said;
    {
      Conversation twin = conversation.Fork();
      said.logits = twin.Score(kAnswer, true).logits;
    }
    said.ids = conversation.Generate({.max_new_tokens = 7}, nullptr).ids;
    return said;
  }

  // Everything of settings[i] against a session of its own.
  static void Compare(const std::vector<KvOptions>& settings, Dtype dtype, double tolerance, bool same_kept) {
    SharedPrefill shared(models_[dtype], Threads(), settings);
    const PromptInfo media = shared.ReadMedia(MediaTurn());
    EXPECT_EQ(static_cast<int64_t>(media.ids.size()), shared.media_tokens());
    for (const char* const question : {kFirst, kSecond}) {  // the second: after the first one was forgotten
      const PromptInfo info = shared.ReadQuestion(question);
      for (size_t i = 0; i < settings.size(); ++i) {
        const KvOptions& kv = settings[i];
        const bool at_media = kv.when == KvOptions::When::kContext;
        SCOPED_TRACE(kv.policy + (at_media ? " media" : " prompt") + " allocator " + kv.allocator);
        Turn turn = MediaTurn();
        turn.prompt = question;
        SessionOptions options = Threads();
        options.kv = kv;
        Conversation own(models_[dtype], options);
        EXPECT_EQ(own.ReadTurn(turn).ids, info.ids);
        Conversation made = shared.Compress(i);
        if (at_media) {
          EXPECT_EQ(made.ReadTurn({.prompt = question}).ids, info.ids);
        }
        EXPECT_EQ(made.tokens(), own.tokens());
        EXPECT_EQ(made.kv().tokens_full, own.kv().tokens_full);
        EXPECT_EQ(made.kv().tokens_compressed, own.kv().tokens_compressed);
        EXPECT_EQ(made.kv().tokens_kept_mean, own.kv().tokens_kept_mean);
        EXPECT_EQ(made.kv().bytes_full, own.kv().bytes_full);
        const auto near = [](int64_t a, int64_t b) {
          return std::abs(static_cast<double>(a - b)) < 0.02 * static_cast<double>(b) + 1024;
        };
        EXPECT_PRED2(near, made.kv().bytes_kept, own.kv().bytes_kept);
        EXPECT_PRED2(near, made.kv().bytes_peak, own.kv().bytes_peak);
        if (same_kept) {
          EXPECT_EQ(made.kept(), own.kept());
        }
        const Said ours = Say(made);
        const Said theirs = Say(own);
        if (same_kept) {
          EXPECT_EQ(ours.ids, theirs.ids);
        }
        ASSERT_EQ(ours.logits.size(), theirs.logits.size());
        double worst = 0;
        for (size_t k = 0; k < ours.logits.size(); ++k) {
          worst = std::max(worst, std::abs(static_cast<double>(ours.logits[k] - theirs.logits[k])));
        }
        EXPECT_LT(worst, tolerance);
      }
    }
  }

  static std::vector<KvOptions> EveryPolicy() {
    std::vector<KvOptions> settings;
    for (const PolicyInfo& policy : Policies()) {
      for (const auto when : {KvOptions::When::kPrompt, KvOptions::When::kContext}) {
        settings.push_back(Setting(policy.name, when));
      }
      if (!policy.ada) continue;
      settings.push_back(Setting(policy.name, KvOptions::When::kPrompt, 0.15));
      settings.back().allocator = "ada";
    }
    return settings;
  }
};

TEST_F(SharedPrefillTest, EveryPolicyKeepsAndSaysWhatItsOwnSessionDoes) {
  Compare(EveryPolicy(), Dtype::kF32, 1e-3, true);
}

TEST_F(SharedPrefillTest, OptionsThatObserveDifferently) {
  std::vector<KvOptions> settings;
  const auto add = [&](const std::string& policy, std::map<std::string, std::string> options) {
    for (const auto when : {KvOptions::When::kPrompt, KvOptions::When::kContext}) {
      settings.push_back(Setting(policy, when));
      settings.back().options = options;
    }
  };
  add("purekv", {{"window", "7"}, {"sources", "0,1"}});
  add("purekv", {{"normalise", "1"}, {"heads", "mean"}});
  add("snapkv", {{"window", "64"}, {"pool", "max"}});
  add("csp", {{"window", "200"}, {"n", "3"}, {"combine", "intersect"}});
  add("csp", {{"window", "half"}, {"cross_ratio", "0.1"}});
  add("expected-attention", {{"sinks", "9"}});
  add("expected-attention", {{"sinks", "0"}, {"covariance", "0"}});
  add("h2o", {{"recent_ratio", "0.1"}});
  add("vnorm", {{"decode_every", "3"}});
  Compare(settings, Dtype::kF32, 1e-3, true);
}

TEST_F(SharedPrefillTest, TheFullCacheIsUntouchedByWhatWasMadeFromIt) {
  const std::vector<KvOptions> settings = {Setting("h2o", KvOptions::When::kPrompt),
                                           Setting("full", KvOptions::When::kPrompt)};
  SharedPrefill shared(models_[Dtype::kF32], Threads(), settings);
  shared.ReadMedia(MediaTurn());
  shared.ReadQuestion(kFirst);
  const auto score = [&] {
    Conversation full = shared.Full();
    return full.Score(kAnswer, true).logits;
  };
  const std::vector<float> before = score();
  {
    Conversation made = shared.Compress(0);
    made.Generate({.max_new_tokens = 5}, nullptr);
    Conversation full = shared.Compress(1);
    full.Generate({.max_new_tokens = 5}, nullptr);
  }
  EXPECT_EQ(score(), before);
  shared.ReadQuestion(kSecond);
  shared.ReadQuestion(kFirst);
  EXPECT_EQ(score(), before);
}

// It has nothing to share, and reads anew: exactly as a session of its own.
TEST_F(SharedPrefillTest, WhatChangesThePrefillReadsAnew) {
  KvOptions n = Setting("snapkv", KvOptions::When::kPrompt);
  n.options["n-attn"] = "1";
  KvOptions chunk = Setting("snapkv", KvOptions::When::kContext);
  chunk.budget.reset();
  chunk.tokens = 20;
  chunk.chunk = 64;
  KvOptions drop = Setting("snapkv", KvOptions::When::kContext);
  drop.drop_layers = {{1, 0.3}};
  KvOptions drop_behind = drop;
  drop_behind.when = KvOptions::When::kPrompt;
  const std::vector<KvOptions> settings = {n, chunk, drop, drop_behind, Setting("snapkv", KvOptions::When::kPrompt)};
  SharedPrefill shared(models_[Dtype::kF32], Threads(), settings);
  shared.ReadMedia(MediaTurn());
  for (const char* const question : {kFirst, kSecond}) {
    shared.ReadQuestion(question);
    for (size_t i = 0; i < settings.size(); ++i) {
      EXPECT_EQ(shared.ReadsAnew(i), i < 4);
      if (i == 4) continue;
      const bool behind = settings[i].when == KvOptions::When::kPrompt;
      SessionOptions options = Threads();
      options.kv = settings[i];
      Conversation own(models_[Dtype::kF32], options);
      Turn turn = MediaTurn();
      if (behind) turn.prompt = question;
      if (behind) {
        own.ReadTurn(turn);
      } else {
        own.ReadMedia(turn);
      }
      Conversation made = shared.Compress(i);
      EXPECT_EQ(made.kept(), own.kept()) << i;
      EXPECT_EQ(made.kv().tokens_alive, own.kv().tokens_alive) << i;
      if (!behind) {
        own.ReadTurn({.prompt = question});
        made.ReadTurn({.prompt = question});
      }
      const Said expected = Say(own), said = Say(made);
      EXPECT_EQ(said.ids, expected.ids) << i;
      EXPECT_EQ(said.logits, expected.logits) << i;
    }
  }
}

TEST_F(SharedPrefillTest, RefusesWhatCannotBe) {
  KvOptions unknown = Setting("nonsense", KvOptions::When::kPrompt);
  KvOptions late = Setting("snapkv", KvOptions::When::kPrompt);
  late.drop_layers = {{400, 0.3}};
  for (const auto& [kv, says] :
       std::vector<std::pair<KvOptions, std::string>>{{late, "kv.drop_layers"}, {unknown, "nonsense"}}) {
    try {
      SharedPrefill(models_[Dtype::kF32], Threads(), {kv});
      ADD_FAILURE() << says;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), Error::Kind::kUsage);
      EXPECT_THAT(error.what(), HasSubstr(says));
    }
  }
  SharedPrefill shared(models_[Dtype::kF32], Threads(), {Setting("snapkv", KvOptions::When::kPrompt)});
  ExpectUsageError("", "nothing has been read", [&] { shared.Compress(0); });
  shared.ReadMedia(MediaTurn());
  ExpectUsageError("", "the question comes first", [&] { shared.Compress(0); });
}

}  // namespace
}  // namespace purekv
