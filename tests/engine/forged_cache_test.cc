// Saved caches that fit together and yet not to the model, as only a forger makes them.
#include <gmock/gmock.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "engine/saved_cache_testing.h"

namespace purekv {
namespace {

class ForgedCacheTest : public SavedCacheTest {
 protected:
  // What the file says, changed, is refused with one line that names it and `says`.
  void ExpectRefused(const PkvContents& sound, const std::string& says,
                     const std::function<void(PkvContents& contents)>& edit) const {
    PkvContents contents = sound;
    edit(contents);
    const std::string forged = directory_.File("forged.pkv");
    WritePkv(forged, contents);
    ExpectError({forged, says}, [&] { Session::Open(models_[Dtype::kF32], forged, Plain()); });
  }
};

TEST_F(ForgedCacheTest, ForgedCodesAreRefused) {
  const std::string path = Save(Encoded());
  const MappedFile file(path);
  const PkvContents sound = ParsePkv(file.bytes(), path);
  const auto refused = [&](const std::string& says, const auto& edit) { ExpectRefused(sound, says, edit); };
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

TEST_F(ForgedCacheTest, ForgeriesAreRefused) {
  const std::string path = Save(Options("h2o"));
  const MappedFile file(path);
  const PkvContents sound = ParsePkv(file.bytes(), path);
  const auto refused = [&](const std::string& says, const auto& edit) { ExpectRefused(sound, says, edit); };
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
  refused("vocabulary", [&](PkvContents& c) { c.ids = ids; });
  refused("vocabulary", [&](PkvContents& c) { c.prompt_ids = prompt; });
  ids.assign(sound.ids.begin(), sound.ids.end());
  prompt.assign(sound.prompt_ids.begin(), sound.prompt_ids.end());
  ids[0] ^= 1;
  prompt[1] ^= 1;
  refused("id of token 0", [&](PkvContents& c) { c.ids = ids; });
  refused("id of token 1", [&](PkvContents& c) { c.prompt_ids = prompt; });
  prompt = {prompt[0]};
  refused("section tokens", [&](PkvContents& c) { c.prompt_ids = prompt; });
  std::vector<int32_t> records(sound.records.begin(), sound.records.end());
  const size_t cell = static_cast<size_t>(
      std::find_if(records.begin(), records.end(), [](int32_t kind) { return kind > 0; }) - records.begin());
  std::swap(records[cell + 4], records[cell + 9]);  // two cells of a row in each other's place
  refused("record of token", [&](PkvContents& c) { c.records = records; });
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
TEST(ForgedCache, HeadsOfOneSetAgree) {
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

TEST_F(ForgedCacheTest, ImpossibleEntriesNameTheFile) {
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
