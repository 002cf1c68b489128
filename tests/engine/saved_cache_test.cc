// Saved caches and snapshots: what goes on from them is, bit for bit, what one session would have said; what does not
// fit is refused.
#include <gmock/gmock.h>

#include <atomic>
#include <nlohmann/json.hpp>
#include <random>

#include "engine/saved_cache_testing.h"

namespace purekv {
namespace {

using ::testing::HasSubstr;

class SavedCacheDtypeTest : public SavedCacheTest, public testing::WithParamInterface<Dtype> {};
INSTANTIATE_TEST_SUITE_P(Dtypes, SavedCacheDtypeTest, testing::Values(Dtype::kF32, Dtype::kBF16),
                         [](const auto& dtype) { return DtypeName(dtype.param); });

TEST_P(SavedCacheDtypeTest, ContinuesAsOneSessionWould) {
  const Turn whole = MediaTurn();
  const Dtype dtype = GetParam();
  const auto& model = models_[dtype];
  for (const SessionOptions& options : AllPolicies()) {
    SCOPED_TRACE(options.kv.policy + " " + options.kv.allocator + " " + DtypeName(dtype) +
                 (options.kv.options.empty() ? "" : " with options"));
    Session one(model, options);
    const Said expected = Ask(one, kQuestion, &whole);
    const std::string path = Save(options, dtype);
    Session opened = Session::Open(model, path, Plain());
    KvOptions saved = options.kv;
    saved.allocator = AllocatorOf(saved);
    if (MergeRuleOf(saved) != "none") saved.merge = MergeRuleOf(saved);
    EXPECT_EQ(opened.kv_options(), saved);
    EXPECT_EQ(opened.kept(), one.kept());
    EXPECT_EQ(opened.kv().tokens_compressed, one.kv().tokens_compressed);
    const Said said = Ask(opened, kQuestion);
    EXPECT_EQ(said.prompt, expected.prompt);
    EXPECT_EQ(said.ids, expected.ids);
    EXPECT_EQ(said.logprobs, expected.logprobs);
    EXPECT_EQ(said.logits, expected.logits);
    EXPECT_EQ(opened.tokens(), one.tokens());
    EXPECT_EQ(opened.kv().tokens_full, one.kv().tokens_full);
    EXPECT_EQ(opened.kv().tokens_kept_mean, one.kv().tokens_kept_mean);
    EXPECT_EQ(opened.kv().bytes_full, one.kv().bytes_full);
    if (options.kv.keys == "same" && !options.kv.key_channels) {
      EXPECT_EQ(opened.kv().bytes_kept, one.kv().bytes_kept);
      EXPECT_EQ(opened.kv().bytes_now, one.kv().bytes_now);
    } else {  // encoded entries stay in the file
      EXPECT_LE(opened.kv().bytes_kept, one.kv().bytes_kept);
    }
  }
}

TEST_F(SavedCacheTest, IndependentQuestionsSeeNothingOfEachOther) {
  const std::vector<std::string> questions = {kQuestion, "What moves?", "你好", "What moves?"};
  for (const SessionOptions& options : {Options("full"), Options("snapkv"), Options("h2o"), Options("streaming-llm"),
                                        Options("tova"), Options("purekv", {{"decode_every", "2"}}),
                                        Options("expected-attention", {{"decode_every", "3"}}), Encoded()}) {
    SCOPED_TRACE(options.kv.policy);
    std::vector<Said> alone;
    const Turn whole = MediaTurn();
    for (const std::string& question : questions) {
      Session session(models_[Dtype::kBF16], options);
      alone.push_back(Ask(session, question, &whole));
    }
    const std::string path = Save(options, Dtype::kBF16);
    Session opened = Session::Open(models_[Dtype::kBF16], path, Plain());
    Session read(models_[Dtype::kBF16], options);
    read.ReadMedia(whole);
    for (Session* const session : {&opened, &read}) {
      const int64_t bytes = session->kv().bytes_now;
      session->TakeSnapshot();
      for (size_t i = 0; i < questions.size(); ++i) {
        EXPECT_EQ(Ask(*session, questions[i]), alone[i]) << i;
        session->Rollback();
      }
      EXPECT_LE(session->kv().bytes_now, 2 * bytes + 2 * 4 * 2 * 4096);
    }
    // What was saved from a session that had been asked and rolled back is the same file.
    const std::string again = directory_.File("again.pkv");
    read.Save(again);
    EXPECT_EQ(ReadFile(again, 1 << 30), ReadFile(path, 1 << 30));
  }
}

TEST_F(SavedCacheTest, RollsBackAfterAStoppedQuestionAndInsideATurn) {
  std::atomic<bool> cancel{false};
  SessionOptions options = Options("h2o");
  options.cancel = &cancel;
  options.block_rows = 4;
  const Turn whole = MediaTurn();
  Session one(models_[Dtype::kF32], options);
  const Said expected = Ask(one, kQuestion, &whole);
  Session session(models_[Dtype::kF32], options);
  session.ReadMedia(whole);
  session.TakeSnapshot();
  cancel = true;
  EXPECT_THROW(session.Read(Question("Stop")), Cancelled);
  cancel = false;
  EXPECT_THROW(session.Read(Question("Go on")), Error);
  session.Rollback();
  EXPECT_THROW(session.Read(Question("<|video_pad|>")), Error);  // refused: nothing happened
  EXPECT_EQ(Ask(session, kQuestion), expected);

  // Behind an answer: what was generated last is read again with the next turn.
  session.Rollback();
  session.Read(Question("What moves?"));
  session.Generate({.max_new_tokens = 3}, nullptr);
  session.TakeSnapshot();
  const auto more = [&] {
    session.Read(Question("And then?"));
    return session.Generate({.max_new_tokens = 6}, nullptr).logprobs;
  };
  const std::vector<float> first = more();
  session.Rollback();
  EXPECT_EQ(more(), first);
  session.Rollback();
  const std::vector<float> on = session.Generate({.max_new_tokens = 6}, nullptr).logprobs;
  session.Rollback();
  EXPECT_EQ(session.Generate({.max_new_tokens = 6}, nullptr).logprobs, on);
  session.Reset();
  EXPECT_THROW(session.Rollback(), Error);
}

TEST_F(SavedCacheTest, ReadInPlaceUntilTheQuestionComes) {
  const std::string path = Save(Options("snapkv"));
  Session session = Session::Open(models_[Dtype::kF32], path, Plain());
  const SavedCache saved = InspectCache(path);
  EXPECT_EQ(saved.model, models_[Dtype::kF32]->info().fingerprint);
  EXPECT_EQ(saved.kv.policy, "snapkv");
  EXPECT_EQ(saved.media.size(), 1U);
  EXPECT_GT(session.kv().bytes_now, 0);
  EXPECT_LE(session.kv().bytes_now, saved.stats.bytes_kept);
  EXPECT_LT(session.kv().bytes_now, saved.bytes);
  std::filesystem::remove(path);  // the mapping stays
  session.Read(Question(kQuestion));
  EXPECT_GT(session.kv().bytes_now, saved.stats.bytes_kept);
}

TEST_F(SavedCacheTest, WrongOrderIsRefused) {
  const std::string path = Save(Options("snapkv"));
  const auto& model = models_[Dtype::kF32];
  Session session(model, Options("snapkv"));
  ExpectError({"ReadMedia"}, [&] { session.Save(directory_.File("x.pkv")); });
  ExpectError({"media"}, [&] { session.ReadMedia(Question("")); });
  ExpectError({"nothing has been read"}, [&] { session.TakeSnapshot(); });
  ExpectError({"no snapshot"}, [&] { session.Rollback(); });
  Turn asking = MediaTurn();
  asking.prompt = "What?";
  ExpectError({"question"}, [&] { session.ReadMedia(asking); });
  session.ReadMedia(MediaTurn());
  ExpectError({"Generate"}, [&] { session.Generate({}, nullptr); });
  ExpectError({"Score"}, [&] { session.Score({1}, false); });
  ExpectError({"already"}, [&] { session.ReadMedia(MediaTurn()); });
  ExpectError({"system message or media"}, [&] { session.Read(MediaTurn()); });
  ExpectError({"/nowhere/x.pkv"}, [&] { session.Save("/nowhere/x.pkv"); });
  ExpectError({directory_.path()}, [&] { session.Save(directory_.path()); });
  session.Read(Question("What?"));
  ExpectError({"ReadMedia"}, [&] { session.Save(directory_.File("x.pkv")); });

  SessionOptions at_prompt = Options("snapkv");
  at_prompt.kv.when = KvOptions::When::kPrompt;
  Session other(model, at_prompt);
  ExpectError({"kContext"}, [&] { other.ReadMedia(MediaTurn()); });
  ExpectError({path, "its own"}, [&] { Session::Open(model, path, at_prompt); });
  ExpectError({"/nowhere/x.pkv"}, [&] { Session::Open(model, "/nowhere/x.pkv", Plain()); });
}

TEST_F(SavedCacheTest, DamageIsFoundBeforeUse) {
  const std::string path = Save(Options("h2o"));
  const std::string whole = ReadFile(path, 1 << 30);
  const std::string broken = directory_.File("broken.pkv");
  std::mt19937 random(3);
  for (int i = 0; i < 100; ++i) {
    std::string bytes = whole;
    if (i % 4 == 0) {
      bytes.resize(random() % whole.size());
    } else {
      bytes[random() % whole.size()] ^= static_cast<char>(1U << random() % 8);
    }
    WriteFile(broken, bytes);
    ExpectError({broken}, [&] { Session::Open(models_[Dtype::kF32], broken, Plain()); });
  }
  WriteFile(broken, whole + std::string(4096, '\0'));
  ExpectError({broken, "too many"}, [&] { Session::Open(models_[Dtype::kF32], broken, Plain()); });
  WriteFile(broken, whole);
  EXPECT_EQ(Session::Open(models_[Dtype::kF32], broken, Plain()).tokens(), InspectCache(path).stats.tokens_full);
}

TEST_F(SavedCacheTest, AnotherModelIsRefused) {
  const std::string path = Save(Options("snapkv"));
  ExpectError({path, "f32", "bf16", "load.cache"}, [&] { Session::Open(models_[Dtype::kBF16], path, Plain()); });

  const auto refused = [&](const ModelCopy& copy) {
    const auto model = Model::Load(copy.path(), {.activations = Dtype::kF32, .threads = 1});
    EXPECT_NE(model->info().fingerprint, models_[Dtype::kF32]->info().fingerprint);
    ExpectError({path, "another model"}, [&] { Session::Open(model, path, Plain()); });
  };
  const ModelCopy seed(files_->directory());
  std::filesystem::remove(seed.path() + "/model.safetensors");
  WriteRandomWeights(seed.path(), {.seed = 12});
  refused(seed);
  const ModelCopy config(files_->directory());
  EditJson(config.path() + "/config.json", [](Json& json) { json["max_position_embeddings"] = 4000; });
  refused(config);
  const ModelCopy weight(files_->directory());  // one bias by a little
  WeightsFile file = ReadWeights(weight.path() + "/model.safetensors");
  const auto begin = file.header.at("model.layers.1.self_attn.k_proj.bias").at("data_offsets")[0].get<size_t>();
  file.data[begin] ^= 1;
  WriteWeights(weight.path() + "/model.safetensors", file);
  refused(weight);

  // The same model elsewhere and in other files is the same.
  const ModelCopy shards(files_->directory());
  std::filesystem::remove(shards.path() + "/model.safetensors");
  WriteRandomWeights(shards.path(), {.seed = files_->json().at("seed").get<uint64_t>(), .shards = 3});
  const auto model = Model::Load(shards.path(), {.activations = Dtype::kF32, .threads = 1});
  EXPECT_EQ(Session::Open(model, path, Plain()).kv_options().policy, "snapkv");

  // Another template says the turn in other words.
  const ModelCopy words(files_->directory());
  Json chat = ReadJson(words.path() + "/chat_template.json");
  chat["chat_template"] =
      "<|im_start|>system\nYou are somebody else.<|im_end|><|vision_start|><|image_pad|><|vision_end|><|video_pad|>";
  WriteFile(words.path() + "/chat_template.json", chat.dump());
  Turn silent = MediaTurn();
  silent.system.reset();
  Session first(models_[Dtype::kF32], Options("snapkv"));
  first.ReadMedia(silent);
  first.Save(path);
  Session second = Session::Open(Model::Load(words.path(), {.activations = Dtype::kF32, .threads = 1}), path, Plain());
  ExpectError({"chat template"}, [&] { second.Read(Question("What?")); });
}

TEST_F(SavedCacheTest, BytesCapTheMediaAlone) {
  for (const char* const policy : {"vnorm", "h2o"}) {
    SessionOptions options = Options(policy);
    options.kv.budget.reset();
    options.kv.bytes = 30000;
    Session session(models_[Dtype::kF32], options);
    session.ReadMedia(MediaTurn());
    EXPECT_LE(session.kv().bytes_kept, 30000);
    EXPECT_GE(session.kv().bytes_kept, 20000);
    const int64_t media = session.tokens();
    session.Read(Question(kQuestion));  // read on top
    const int64_t heads = models_[Dtype::kF32]->info().layers * models_[Dtype::kF32]->info().kv_heads;
    EXPECT_GT(session.kv().bytes_kept, 30000);
    EXPECT_LE(session.kv().bytes_kept,
              30000 + (session.tokens() - media) * models_[Dtype::kF32]->info().kv_bytes_per_token + heads * 2 * 4096);
  }
}

// A file from before B was saved: B was that of the entries alone.
TEST_F(SavedCacheTest, OldFilesOfBytesAreRead) {
  SessionOptions options = Options("h2o");
  options.kv.budget.reset();
  options.kv.tokens = 20;
  const std::string path = Save(options);
  const auto& model = models_[Dtype::kF32];
  Session by_tokens = Session::Open(model, path, Plain());
  const Said expected = Ask(by_tokens, kQuestion);
  const MappedFile file(path);
  PkvContents contents = ParsePkv(file.bytes(), path);
  contents.kv.tokens.reset();
  contents.kv.bytes = 21 * model->info().kv_bytes_per_token - 1;
  const std::string old = directory_.File("old.pkv");
  WritePkv(old, contents);
  Session by_bytes = Session::Open(model, old, Plain());
  EXPECT_EQ(Ask(by_bytes, kQuestion), expected);
}

}  // namespace
}  // namespace purekv
