// Saved caches and snapshots: what goes on from them is, bit for bit, what one session would have said; what does not
// fit is refused.
#include <gmock/gmock.h>

#include <atomic>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "base/file.h"
#include "checkpoint/pkv_file.h"
#include "policy/registry.h"
#include "purekv/cache_file.h"
#include "purekv/session.h"
#include "support/broken_model.h"
#include "support/flat_model_test.h"

namespace purekv {
namespace {

using ::testing::HasSubstr;

Turn Question(const std::string& text) {
  return {.prompt = text};
}

const char* const kQuestion = "Describe the video in one sentence.";
const std::vector<int32_t> kAnswer = {5, 6, 300, 8, 9, 77, 12};

// What a session says to a question: an answer, a second turn, and the logits of a given answer.
struct Said {
  std::vector<int32_t> prompt, ids;
  std::vector<float> logprobs, logits;
  bool operator==(const Said&) const = default;
};

Said Ask(Session& session, const std::string& question, const Turn* whole = nullptr) {
  Said said;
  Turn turn = whole != nullptr ? *whole : Question(question);
  turn.prompt = question;
  said.prompt = session.Read(turn).ids;
  for (int round = 0; round < 2; ++round) {
    const Answer answer = session.Generate({.max_new_tokens = 7}, nullptr);
    said.ids.insert(said.ids.end(), answer.ids.begin(), answer.ids.end());
    said.logprobs.insert(said.logprobs.end(), answer.logprobs.begin(), answer.logprobs.end());
    if (round == 0) session.Read(Question("And then?"));
  }
  said.logits = session.Score(kAnswer, true).logits;
  return said;
}

class SavedCacheTest : public FlatModelTest<SavedCacheTest> {
 protected:
  static SessionOptions Options(const std::string& policy, const std::map<std::string, std::string>& values = {},
                                const std::string& allocator = "uniform") {
    SessionOptions options;
    options.threads = 1;
    options.kv.policy = policy;
    if (policy != "full") options.kv.budget = 0.3;
    options.kv.options = values;
    options.kv.allocator = allocator;
    options.kv.when = KvOptions::When::kContext;
    return options;
  }
  static SessionOptions Plain() {
    SessionOptions options;
    options.threads = 1;
    return options;
  }
  std::string Save(const SessionOptions& options, Dtype dtype = Dtype::kF32) const {
    Session session(models_[dtype], options);
    session.ReadMedia(MediaTurn());
    const std::string path = directory_.File("saved.pkv");
    session.Save(path);
    return path;
  }
  // Options::kv of every kind of continuing state.
  static std::vector<SessionOptions> AllPolicies() {
    std::vector<SessionOptions> all;
    for (const PolicyInfo& policy : Policies()) {
      all.push_back(Options(policy.name));
      if (policy.make && !policy.holds && !policy.repeats) all.push_back(Options(policy.name, {{"decode_every", "3"}}));
      if (policy.ada) all.push_back(Options(policy.name, {}, "ada"));
    }
    all.push_back(Options("snapkv", {{"n-attn", "2"}}, "pyramid"));
    for (const char* const policy : {"vnorm", "h2o"}) {  // B comes from bytes: it is saved
      SessionOptions bytes = Options(policy);
      bytes.kv.budget.reset();
      bytes.kv.bytes = 30000;
      all.push_back(bytes);
    }
    all.push_back(Options("purekv", {{"decode_every", "2"}, {"normalise", "1"}, {"sources", "1,3"}}, "ada"));
    const std::map<std::string, std::string> small = {{"residual", "8"}, {"key_group", "8"}, {"value_group", "8"}};
    for (const char* const policy : {"full", "snapkv", "look-m"}) {
      SessionOptions encoded = Options(policy, small);
      encoded.kv.keys = "int8@0-1,int4";
      encoded.kv.values = "int4@1-2,same";
      all.push_back(encoded);
    }
    SessionOptions thin = Options("snapkv", {{"residual", "8"}});
    thin.kv.key_channels = 0.5;
    all.push_back(thin);
    SessionOptions holds = Options("h2o", small);
    holds.kv.options["key_axis"] = "token";
    holds.kv.keys = holds.kv.values = "int4";
    all.push_back(holds);
    return all;
  }

  TemporaryDirectory directory_{"saved_cache"};
};

SessionOptions Encoded() {
  SessionOptions options;
  options.kv.policy = "snapkv";
  options.kv.budget = 0.6;
  options.kv.when = KvOptions::When::kContext;
  options.kv.keys = options.kv.values = "int4";
  options.kv.options = {{"residual", "8"}, {"key_group", "8"}, {"value_group", "8"}};
  return options;
}

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

// Files that fit together and yet not to this model, as only a forger makes them.
TEST_F(SavedCacheTest, ForgedCodesAreRefused) {
  const std::string path = Save(Encoded());
  const MappedFile file(path);
  const PkvContents sound = ParsePkv(file.bytes(), path);
  const std::string forged = directory_.File("forged.pkv");
  const auto refused = [&](const std::string& says, const auto& edit) {
    PkvContents contents = sound;
    edit(contents);
    WritePkv(forged, contents);
    ExpectError({forged, says}, [&] { Session::Open(models_[Dtype::kF32], forged, Plain()); });
  };
  ASSERT_GT(sound.heads[1].encoded, 0);
  refused("the layer keeps plain ones", [](PkvContents& c) {
    c.kv.keys = c.kv.values = "same";
    c.kv.options.clear();
  });
  refused("bytes of encoded keys", [](PkvContents& c) { c.kv.keys = "int8"; });
  refused("bytes of encoded values", [](PkvContents& c) { c.kv.options.erase("value_group"); });
  refused("last layer", [](PkvContents& c) { c.kv.keys = "int8@0-9,int4"; });
  refused("channels of keys are held", [](PkvContents& c) { c.heads[1].key_channels = {1, 2}; });
  refused("channels of keys are held", [](PkvContents& c) { c.kv.key_channels = 0.5; });
  std::vector<std::byte> bad(sound.heads[1].encoded_keys.begin(), sound.heads[1].encoded_keys.end());
  bad.back() = std::byte{0x7c};  // the last step: an infinity
  bad[bad.size() - 2] = std::byte{0};
  refused("not finite", [&](PkvContents& c) { c.heads[1].encoded_keys = bad; });
}

TEST_F(SavedCacheTest, ForgeriesAreRefused) {
  const std::string path = Save(Options("h2o"));
  const MappedFile file(path);
  const PkvContents sound = ParsePkv(file.bytes(), path);
  const std::string forged = directory_.File("forged.pkv");
  const auto refused = [&](const std::string& says, const auto& edit) {
    PkvContents contents = sound;
    edit(contents);
    WritePkv(forged, contents);
    ExpectError({forged, says}, [&] { Session::Open(models_[Dtype::kF32], forged, Plain()); });
  };
  refused("another model", [](PkvContents& c) { c.model[31] = c.model[31] == '0' ? '1' : '0'; });
  refused("policy", [](PkvContents& c) { c.kv.policy = "nonsense"; });
  refused("sinks", [](PkvContents& c) { c.kv.options["sinks"] = "4"; });
  refused("budget", [](PkvContents& c) { c.kv.budget.reset(); });
  refused("KV head 0", [](PkvContents& c) {  // more than that holds
    c.kv.budget.reset();
    c.kv.bytes = 1;
  });
  refused("KV head 0", [](PkvContents& c) { c.kv.budget = 0.1; });
  refused("keeps all", [](PkvContents& c) {
    c.kv = {};
    c.kv.when = KvOptions::When::kContext;
  });
  refused("sums", [](PkvContents& c) { c.kv.policy = "tova"; });
  refused("protects", [](PkvContents& c) {
    const auto gone = static_cast<double>(c.heads[0].tokens.size());
    c.stats.tokens_kept_mean -= gone / static_cast<double>(c.heads.size());
    c.heads[0] = {};
    c.sums[0].lists[0] = {};
  });
  const std::vector<int32_t> ones(sound.heads[0].tokens.size(), 1);
  refused("merges none", [&](PkvContents& c) { c.heads[0].counts = ones; });
  refused("sums", [](PkvContents& c) { c.sums.assign(c.sums.size(), {}); });
  refused("sources", [](PkvContents& c) {
    c.kv.policy = "purekv";
    c.kv.options["sources"] = "9";
  });
  std::vector<int32_t> ids(sound.ids.begin(), sound.ids.end());
  ids.back() = 1 << 29;
  std::vector<int32_t> prompt(sound.prompt_ids.begin(), sound.prompt_ids.end());
  prompt.back() = 1 << 29;
  refused("vocabulary", [&](PkvContents& c) {
    c.ids = ids;
    c.prompt_ids = prompt;
  });
  refused("id of token", [&](PkvContents& c) { c.ids = ids; });
  refused("id of token", [&](PkvContents& c) { c.prompt_ids = prompt; });
  // What the model makes of media and prompt ids.
  refused("media[0]", [](PkvContents& c) {  // cells of 1 x 1 patch, as many
    c.media[0].grid[1] /= 2;
    c.media[0].grid[2] /= 2;
  });
  refused("next_position", [](PkvContents& c) { ++c.next_position; });
  refused("media[0]: frames", [](PkvContents& c) { c.media[0].frames = 1; });
  refused("next_position", [](PkvContents& c) { c.media[0].sample_fps = 0.01; });
  std::vector<int32_t> positions(sound.positions.begin(), sound.positions.end());
  std::swap(positions[3], positions[4 * 3]);
  refused("position of token", [&](PkvContents& c) { c.positions = positions; });
  // Text behind the media's end, which a saved part does not have.
  const auto longer = [](std::span<const int32_t> list, const std::vector<int32_t>& more) {
    std::vector<int32_t> out(list.begin(), list.end());
    out.insert(out.end(), more.begin(), more.end());
    return out;
  };
  const auto next = static_cast<int32_t>(sound.next_position);
  const std::vector<int32_t> more_ids = longer(sound.ids, {5}), more_prompt = longer(sound.prompt_ids, {5}),
                             more_positions = longer(sound.positions, {next, next, next}),
                             more_records = longer(sound.records, {0, -1, -1, -1, -1});
  refused("the media end behind", [&](PkvContents& c) {
    c.ids = more_ids;
    c.prompt_ids = more_prompt;
    c.positions = more_positions;
    c.records = more_records;
    ++c.next_position;
  });
  // A medium's placeholder as text.
  const auto visual = static_cast<size_t>(std::find_if(sound.ids.begin(), sound.ids.end(),
                                                       [&](int32_t id) {
                                                         return std::count(sound.ids.begin(), sound.ids.end(), id) ==
                                                                sound.media[0].tokens;
                                                       }) -
                                          sound.ids.begin());
  std::vector<int32_t> reserved(sound.ids.begin(), sound.ids.end()),
      reserved_prompt(sound.prompt_ids.begin(), sound.prompt_ids.end());
  reserved[0] = reserved_prompt[0] = sound.ids[visual];
  refused("reserved for media", [&](PkvContents& c) {
    c.ids = reserved;
    c.prompt_ids = reserved_prompt;
  });
  refused("bytes_full", [](PkvContents& c) { c.stats.bytes_full /= 2; });
  refused("bytes_kept", [](PkvContents& c) { c.stats.bytes_kept /= 4; });
  refused("sum_first_query", [](PkvContents& c) { c.sums[0].first_query = 3; });
  refused("head", [](PkvContents& c) {
    c.kv_heads = 2;
    c.layers /= 2;
    for (PkvSums& sums : c.sums) sums = {};
    c.sums.resize(static_cast<size_t>(c.layers));
  });
}

// Numbers that are finite and cannot be right: what comes of them is the file's fault, not the weights'.
TEST(SavedCache, HeadsOfOneSetAgree) {
  const ReferenceModel files("qwen2_5_vl_nested");  // two KV heads
  const auto model = Model::Load(files.directory(), {.activations = Dtype::kF32});
  SessionOptions options;
  options.threads = 1;
  options.kv.policy = "streaming-llm";
  options.kv.budget = 0.3;
  options.kv.when = KvOptions::When::kContext;
  TemporaryDirectory directory{"one_set"};
  const std::string path = directory.File("saved.pkv"), forged = directory.File("forged.pkv");
  Session session(model, options);
  Turn turn = files.TurnNamed("video_image");
  turn.prompt.clear();
  session.ReadMedia(turn);
  session.Save(path);
  const MappedFile file(path);
  PkvContents contents = ParsePkv(file.bytes(), path);
  contents.kv.policy = "tova";
  contents.kv.options = {{"recent", "0"}};
  SessionOptions plain;
  plain.threads = 1;
  WritePkv(forged, contents);
  EXPECT_NO_THROW(Session::Open(model, forged, plain));
  std::vector<int32_t> tokens(contents.heads[1].tokens.begin(), contents.heads[1].tokens.end());
  ASSERT_GT(tokens.size(), 5U);
  --tokens[4];  // behind the sinks, a token that no head has
  contents.heads[1].tokens = tokens;
  WritePkv(forged, contents);
  ExpectError({forged, "KV head 1", "other tokens than KV head 0"}, [&] { Session::Open(model, forged, plain); });
}

TEST_F(SavedCacheTest, ImpossibleEntriesNameTheFile) {
  const std::string path = Save(Options("snapkv"));
  const MappedFile file(path);
  PkvContents contents = ParsePkv(file.bytes(), path);
  std::vector<std::vector<float>> values;
  for (PkvHead& head : contents.heads) {
    values.emplace_back(head.values.size() / sizeof(float), 3e38F);
    head.values = std::as_bytes(std::span(values.back()));
  }
  const std::string forged = directory_.File("forged.pkv");
  WritePkv(forged, contents);
  for (const bool score : {false, true}) {
    Session session = Session::Open(models_[Dtype::kF32], forged, Plain());
    session.Read(Question(kQuestion));
    ExpectError({forged, "not finite"}, [&] {
      if (score) {
        session.Score(kAnswer, false);
      } else {
        session.Generate({.max_new_tokens = 3}, nullptr);
      }
    });
  }
}

}  // namespace
}  // namespace purekv
