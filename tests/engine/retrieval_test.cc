// Sessions that look entries up: what a whole budget gives, that scoring is generating, snapshots, files, bytes.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "engine/conversation.h"
#include "policy/retrieval_view.h"
#include "saved_cache_testing.h"
#include "support/expect_error.h"
#include "support/page_predictor.h"

namespace purekv {
namespace {

constexpr const char* kTrained = "attention-predictor with a file";

class RetrievalTest : public SavedCacheTest, public testing::WithParamInterface<std::string> {
 protected:
  // Pages small enough that the little video has many.
  static SessionOptions Looking(const std::string& view, std::optional<double> budget = 0.25) {
    SessionOptions options;
    options.threads = 1;
    options.kv.when = KvOptions::When::kContext;
    options.kv.attend.view = view;
    if (view == kTrained) {
      options.kv.attend.view = "attention-predictor";
      options.kv.attend.options["attend_model"] = PredictorPath();
    }
    options.kv.attend.budget = budget;
    options.kv.attend.options["attend_dense_layers"] = "1";
    if (view != "rekv") options.kv.attend.options["attend_page"] = "4";
    if (view == "actqkv" || options.kv.attend.view == "attention-predictor") {
      options.kv.attend.options["attend_sinks"] = "4";
      options.kv.attend.options["attend_local"] = "8";
    }
    return options;
  }
  // One of random numbers, for this model.
  static std::string PredictorPath() {
    static const TemporaryDirectory folder("retrieval");  // tests run beside one another
    const std::string path = folder.File("predictor.safetensors");
    const std::string metadata = "{\"fingerprint\":\"" + F32()->info().fingerprint + "\"}";
    WriteFile(path, PredictorFile(TensorsOf(RandomPredictor(1)), metadata));
    return path;
  }
  static std::shared_ptr<const Model> F32() { return models_[Dtype::kF32]; }
  static Said AskWhole(const SessionOptions& options, Dtype dtype = Dtype::kF32) {
    Session session(models_[dtype], options);
    const Turn turn = MediaTurn();
    return Ask(session, kQuestion, &turn);
  }
};

TEST_P(RetrievalTest, AWholeBudgetSaysWhatReadingAllSays) {
  for (const KvOptions::When when : {KvOptions::When::kPrompt, KvOptions::When::kContext}) {
    for (const Dtype dtype : {Dtype::kF32, Dtype::kBF16}) {
      SessionOptions plain, looking = Looking(GetParam(), 1.0);
      plain.threads = 1;
      plain.kv.when = looking.kv.when = when;
      const Said all = AskWhole(plain, dtype), some = AskWhole(looking, dtype);
      EXPECT_EQ(all.ids, some.ids);
      EXPECT_EQ(all.logprobs, some.logprobs);
    }
  }
}

TEST_P(RetrievalTest, SmallBudgetsReadLessAndSayItAgain) {
  for (const std::string policy : {"full", "snapkv"}) {
    SessionOptions options = Looking(GetParam());
    options.kv.policy = policy;
    if (policy != "full") options.kv.budget = 0.8;
    Session session(F32(), options);
    const Turn turn = MediaTurn();
    const Said said = Ask(session, kQuestion, &turn);
    EXPECT_EQ(AskWhole(options), said);
    const KvStats kv = session.kv();
    EXPECT_GT(kv.entries_attended_mean, 0);
    EXPECT_LT(kv.entries_attended_mean, 0.8 * static_cast<double>(session.tokens()));
    EXPECT_LT(kv.bytes_attended_mean, static_cast<double>(kv.bytes_now));
    EXPECT_GT(kv.bytes_attended_mean, 0.1 * static_cast<double>(kv.bytes_now));
  }
}

TEST_P(RetrievalTest, ScoringIsGenerating) {
  const SessionOptions options = Looking(GetParam());
  Session session(F32(), options), scored(F32(), options);
  Turn turn = MediaTurn();
  turn.prompt = kQuestion;
  session.Read(turn);
  const Answer answer = session.Generate({.max_new_tokens = 12}, nullptr);
  scored.Read(turn);
  const ScoreResult score = scored.Score(answer.ids, false);
  EXPECT_EQ(score.top1, answer.ids);
  for (size_t i = 0; i < answer.logprobs.size(); ++i) EXPECT_EQ(score.logprobs[i], answer.logprobs[i]) << i;
}

TEST_P(RetrievalTest, RollingBackForgetsWhatWasLookedUp) {
  Session session(F32(), Looking(GetParam()));
  session.ReadMedia(MediaTurn());
  session.TakeSnapshot();
  const Said first = Ask(session, kQuestion);
  session.Rollback();
  Ask(session, "What colour is it, and why is that so at the end of this video?");
  session.Rollback();
  EXPECT_EQ(Ask(session, kQuestion), first);
}

// What of a view is no function of the entries, the statistics of the part's queries and its last rows, is not in a
// file: such a view begins with nothing.
TEST_P(RetrievalTest, AFileIsLookedUpInAsItsReaderLikes) {
  Session session(F32(), Looking(GetParam()));
  session.ReadMedia(MediaTurn());
  const std::string path = directory_.File("looked.pkv");
  session.Save(path);
  EXPECT_EQ(InspectCache(path).kv.attend, AttendOptions());
  SessionOptions reader;
  reader.threads = 1;
  reader.kv.attend = Looking(GetParam()).kv.attend;
  Session opened = Session::Open(F32(), path, reader);
  const Said said = Ask(opened, kQuestion);
  if (GetParam() == "quest" || GetParam() == "rekv") {
    EXPECT_EQ(said, Ask(session, kQuestion));
  }
  EXPECT_GT(opened.kv().entries_attended_mean, 0);
  reader.kv.attend.budget = 1;
  Session whole = Session::Open(F32(), path, reader);
  reader.kv.attend = {};
  Session plain = Session::Open(F32(), path, reader);
  EXPECT_EQ(Ask(whole, kQuestion).ids, Ask(plain, kQuestion).ids);
}

TEST_P(RetrievalTest, TheIndexCounts) {
  SessionOptions options = Looking(GetParam());
  SessionOptions all;
  all.threads = 1;
  Session looking(F32(), options), plain(F32(), all);
  Turn turn = MediaTurn();
  turn.prompt = kQuestion;
  looking.Read(turn);
  plain.Read(turn);
  EXPECT_GT(looking.kv().bytes_kept, plain.kv().bytes_kept);
  EXPECT_EQ(looking.kv().bytes_full, plain.kv().bytes_full);
  EXPECT_GE(looking.kv().bytes_most, looking.kv().bytes_kept);
}

TEST_P(RetrievalTest, ManyAtOnceSayWhatEachSaysAlone) {
  const SessionOptions options = Looking(GetParam());
  Turn turn = MediaTurn();
  std::vector<std::vector<int32_t>> alone;
  std::vector<std::unique_ptr<Conversation>> together;
  for (const std::string question : {kQuestion, "Count the objects.", "Where is it?"}) {
    turn.prompt = question;
    Conversation one(F32(), options);
    one.ReadTurn(turn);
    alone.push_back(one.Generate({.max_new_tokens = 9}, nullptr).ids);
    together.push_back(std::make_unique<Conversation>(F32(), options));
    together.back()->ReadTurn(turn);
  }
  std::vector<std::vector<int32_t>> said(3);
  size_t next = 0;
  Conversation::GenerateTogether(
      {.max_new_tokens = 9}, [&] { return next < 3 ? together[next++].get() : nullptr; },
      [&](Conversation& of, const Answer& answer) {
        for (size_t i = 0; i < 3; ++i) {
          if (together[i].get() == &of) said[i] = answer.ids;
        }
      });
  EXPECT_EQ(said, alone);
}

// A file in place of memory changes no bit, whatever is kept in which form.
TEST_P(RetrievalTest, AFileSaysWhatMemorySays) {
  for (const Dtype dtype : {Dtype::kF32, Dtype::kBF16}) {
    for (const std::string policy : {"full", "snapkv", "kvzip", "prefixkv"}) {
      if (GetParam() == "actqkv" && policy == "kvzip") continue;  // heads of different lengths
      for (const char* const codec : {"same", "int8"}) {
        SessionOptions options = Looking(GetParam());
        options.kv.policy = policy;
        if (policy != "full") options.kv.budget = 0.7;
        options.kv.keys = options.kv.values = codec;
        if (options.kv.keys != "same")
          options.kv.options = {{"residual", "8"}, {"key_group", "8"}, {"value_group", "8"}};
        const Said memory = AskWhole(options, dtype);
        options.kv.store.kind = StoreOptions::Kind::kFile;
        options.kv.store.resident = 160 << 10;
        Session session(models_[dtype], options);
        const Turn turn = MediaTurn();
        EXPECT_EQ(Ask(session, kQuestion, &turn), memory) << policy << " " << codec;
        // Back to before the question, twice, through other questions of its length.
        Session again(models_[dtype], options);
        again.ReadMedia(MediaTurn());
        again.TakeSnapshot();
        for (const char* const other : {"What is it?", "Who is it??"}) {
          Ask(again, other);
          again.Rollback();
        }
        EXPECT_EQ(Ask(again, kQuestion), memory) << policy << " " << codec;
        const KvStats kv = session.kv();
        EXPECT_LT(kv.bytes_resident, kv.bytes_now) << policy << " " << codec;
        EXPECT_GT(kv.bytes_read_mean, 0);
      }
    }
  }
}

TEST_P(RetrievalTest, ASavedFileIsAStore) {
  Session session(F32(), Looking(GetParam()));
  session.ReadMedia(MediaTurn());
  const std::string path = directory_.File("store.pkv");
  session.Save(path);
  SessionOptions reader;
  reader.threads = 1;
  reader.kv.attend = Looking(GetParam()).kv.attend;
  Session memory = Session::Open(F32(), path, reader);
  reader.kv.store.kind = StoreOptions::Kind::kFile;
  Session stored = Session::Open(F32(), path, reader);
  EXPECT_EQ(Ask(stored, kQuestion), Ask(memory, kQuestion));
  EXPECT_LT(stored.kv().bytes_resident, memory.kv().bytes_resident);
}

class RetrievalRefusal : public RetrievalTest {};

INSTANTIATE_TEST_SUITE_P(Views, RetrievalTest,
                         testing::Values("quest", "actqkv", "attention-predictor", kTrained, "rekv"),
                         [](const auto& name) {
                           std::string text = name.param;
                           std::erase_if(text, [](char c) { return c == '-' || c == ' '; });
                           return text;
                         });

TEST_F(RetrievalRefusal, FramesNeedMedia) {
  Session session(F32(), Looking("rekv", {}));
  ExpectUsageError("kv.attend", "none has been read", [&] { session.Read({.prompt = "Hello?"}); });
  Turn turn = MediaTurn();
  turn.prompt = kQuestion;
  session.Read(turn);
  EXPECT_FALSE(session.Generate({.max_new_tokens = 3}, nullptr).ids.empty());
}

// Without a view every step reads the file through.
TEST_F(RetrievalRefusal, AStoreWithoutAView) {
  SessionOptions options;
  options.threads = 1;
  const Said memory = AskWhole(options);
  options.kv.store.kind = StoreOptions::Kind::kFile;
  EXPECT_EQ(AskWhole(options), memory);
  options.kv.policy = "purekv";
  options.kv.budget = 0.4;
  options.kv.store.kind = StoreOptions::Kind::kMemory;
  const Said purekv = AskWhole(options);
  options.kv.store.kind = StoreOptions::Kind::kFile;
  EXPECT_EQ(AskWhole(options), purekv);
}

// Layers that wait for a higher one's scores leave memory when they have been cut, in every chunk anew.
TEST_F(RetrievalRefusal, AStoreWaitsForWhatWaits) {
  SessionOptions options;
  options.threads = 1;
  options.kv.policy = "purekv";
  options.kv.tokens = 40;
  options.kv.options = {{"window", "8"}, {"below", "wait"}};
  options.kv.chunk = 30;
  const Said memory = AskWhole(options);
  options.kv.store.kind = StoreOptions::Kind::kFile;
  EXPECT_EQ(AskWhole(options), memory);
}

TEST_F(RetrievalRefusal, StoresThatCannotBe) {
  SessionOptions options;
  options.kv.store.resident = 1 << 20;
  ExpectUsageError("kv.store.resident", "entries lie in memory", [&] { Session(F32(), options); });
  options.kv.store = {StoreOptions::Kind::kFile, "", {}};
  options.kv.policy = "tova";
  options.kv.budget = 0.5;
  ExpectUsageError("kv.store", "evicts at every step", [&] { Session(F32(), options); });
  options.kv.policy = "snapkv";
  options.kv.options["decode_every"] = "3";
  ExpectUsageError("kv.store", "decode_every", [&] { Session(F32(), options); });
  options = Looking("quest");
  options.kv.store = {StoreOptions::Kind::kFile, "", 100};
  Session small(F32(), options);
  ExpectUsageError("kv.store.resident", "bytes of layer 1 at once", [&] { small.ReadMedia(MediaTurn()); });
  options.kv.store.directory = "/nonexistent";
  EXPECT_THROW(Session(F32(), options), Error);
}

// One set of pages for heads that keep different numbers of entries would be of nothing.
TEST_F(RetrievalRefusal, OneChoiceNeedsHeadsOfOneLength) {
  SessionOptions options = Looking("actqkv");
  options.kv.policy = "purekv";
  options.kv.budget = 0.5;
  ExpectUsageError("kv.attend", "different numbers of entries", [&] { Session(F32(), options); });
  options.kv.allocator = "uniform";
  EXPECT_NO_THROW(Session(F32(), options));
}

}  // namespace
}  // namespace purekv
