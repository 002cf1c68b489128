// The same tokenizers out of a GGUF file's metadata: their ids are those of the files.
#include "checkpoint/gguf_tokenizer.h"

#include <gmock/gmock.h>

#include <limits>

#include "checkpoint/chat_template.h"
#include "checkpoint/checkpoint_testing.h"
#include "checkpoint/gguf_header.h"
#include "checkpoint/json.h"
#include "checkpoint/tokenizer_files.h"
#include "support/gguf_writer.h"

namespace purekv {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using testing::ErrorOf;
using ::testing::HasSubstr;
using Ids = std::vector<int32_t>;

std::string Reference(const std::string& name) {
  return std::string(PUREKV_TEST_DATA) + "/reference/" + name;
}

// The keys of a tokenizer, which a test may change before it is read.
struct Keys {
  std::string model = "gpt2", pre = "gpt-2";
  std::vector<std::string> tokens, merges;
  std::vector<int32_t> types;
  std::vector<float> scores;
  std::map<std::string, uint32_t> ids;
  std::map<std::string, bool> flags;
  std::optional<std::string> chat_template;

  // Of a directory's files: byte-level ones with `pre`, or a tokenizer.model.
  static Keys Of(const std::string& dir, const std::string& pre) {
    const TokenizerParts parts = ReadTokenizerFiles(dir);
    Keys keys;
    keys.pre = pre;
    size_t size = parts.vocabulary.size();
    for (const AddedToken& token : parts.added) size = std::max(size, static_cast<size_t>(token.id) + 1);
    keys.tokens.resize(size);
    keys.types.assign(size, 1);
    for (const auto& [token, id] : parts.vocabulary) keys.tokens[static_cast<size_t>(id)] = token;
    for (const AddedToken& token : parts.added) {
      keys.tokens[static_cast<size_t>(token.id)] = token.content;
      keys.types[static_cast<size_t>(token.id)] = token.special ? 3 : 4;
    }
    for (const MergeRule& merge : parts.merges) {
      keys.merges.push_back(keys.tokens[static_cast<size_t>(merge.left)] + " " +
                            keys.tokens[static_cast<size_t>(merge.right)]);
    }
    if (parts.pieces.empty()) return keys;
    keys.model = "llama";
    keys.scores.assign(size, 0);
    for (const SentencePiece& piece : parts.pieces) {
      keys.scores[static_cast<size_t>(piece.id)] = piece.score;
      if (piece.unused) keys.types[static_cast<size_t>(piece.id)] = 5;
    }
    for (const int32_t id : parts.unknown.byte_ids) {
      if (id >= 0) keys.types[static_cast<size_t>(id)] = 6;
    }
    if (parts.unknown.id >= 0) keys.types[static_cast<size_t>(parts.unknown.id)] = 2;
    keys.ids["bos_token_id"] = 1;
    return keys;
  }

  GgufTokenizer Read() const {
    GgufWriter writer;
    if (!model.empty()) writer.Set("tokenizer.ggml.model", model);
    if (!pre.empty()) writer.Set("tokenizer.ggml.pre", pre);
    if (!tokens.empty()) writer.SetArray("tokenizer.ggml.tokens", tokens);
    if (!types.empty()) writer.SetArray("tokenizer.ggml.token_type", types);
    if (!scores.empty()) writer.SetArray("tokenizer.ggml.scores", scores);
    if (!merges.empty()) writer.SetArray("tokenizer.ggml.merges", merges);
    for (const auto& [name, id] : ids) writer.Set("tokenizer.ggml." + name, id);
    for (const auto& [name, flag] : flags) writer.Set("tokenizer.ggml." + name, flag);
    if (chat_template) writer.Set("tokenizer.chat_template", *chat_template);
    const std::string file = writer.File();
    return ReadGgufTokenizer(ParseGgufHeader(std::as_bytes(std::span(file)), "x.gguf").metadata);
  }
  std::string Error() const {
    return ErrorOf([&] { Read(); });
  }
};

void CompareTexts(const Tokenizer& tokenizer, const std::string& kind) {
  const Json texts = ReadJson(Reference("text_tokenizers/texts.json")).at("texts");
  const Json expected = ReadJson(Reference("text_tokenizers/" + kind + "/ids.json"));
  const Json& ids = expected.at("ids");
  ASSERT_GE(texts.size(), 280u);
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i].is_null()) continue;
    EXPECT_EQ(tokenizer.Encode(texts[i].get<std::string>()), ids[i].get<Ids>()) << kind << " " << texts[i].dump();
  }
  for (const Json& item : expected.at("decode")) {
    EXPECT_EQ(tokenizer.Decode(item[0].get<Ids>(), false), item[1].get<std::string>()) << kind << " " << item.dump();
    EXPECT_EQ(tokenizer.Decode(item[0].get<Ids>(), true), item[2].get<std::string>()) << kind << " " << item.dump();
  }
}

TEST(GgufTokenizer, EncodesByteLevelAsTheFiles) {
  CompareTexts(*Keys::Of(Reference("text_tokenizers/smollm2"), "smollm").Read().tokenizer, "smollm2");
  Keys llama3 = Keys::Of(Reference("text_tokenizers/llama3"), "llama-bpe");
  llama3.ids["bos_token_id"] = 460;
  const GgufTokenizer read = llama3.Read();
  CompareTexts(*read.tokenizer, "llama3");
  EXPECT_TRUE(read.add_bos);  // whoever says nothing
  EXPECT_THAT(read.tokenizer->before_text(), ElementsAre(460));
}

TEST(GgufTokenizer, EncodesQwenAsTheFiles) {
  const auto tokenizer = Keys::Of(Reference("tokenizer"), "qwen2").Read().tokenizer;
  const Json strings = ReadJson(Reference("tokenizer/strings.json"));
  for (const char* group : {"wrapped", "special", "combined", "random"}) {
    for (const Json& item : strings.at(group)) {
      ASSERT_EQ(tokenizer->Encode(item[0].get<std::string>()), item[1].get<Ids>()) << item[0].dump();
    }
  }
}

TEST(GgufTokenizer, CutsByGpt2sRuleByDefault) {
  Keys keys = Keys::Of(Reference("text_tokenizers/gpt2"), "gpt-2");
  keys.tokens.push_back(".a");  // which no piece of GPT-2's holds
  keys.types.push_back(1);
  keys.merges.push_back(". a");
  const auto named = keys.Read().tokenizer;
  const std::string text = "it's 1234 IT'S  x\n\n y .a.a";
  for (const char* pre : {"default", ""}) {
    keys.pre = pre;
    EXPECT_EQ(keys.Read().tokenizer->Encode(text), named->Encode(text));
  }
  keys.pre = "qwen2";
  EXPECT_NE(keys.Read().tokenizer->Encode(text), named->Encode(text));
}

TEST(GgufTokenizer, MergesByScores) {
  Keys keys = Keys::Of(Reference("text_tokenizers/pieces_prefix"), "default");
  CompareTexts(*keys.Read().tokenizer, "pieces_prefix");
  keys = Keys::Of(Reference("text_tokenizers/pieces_bytes"), "");
  keys.flags["add_space_prefix"] = false;
  CompareTexts(*keys.Read().tokenizer, "pieces_bytes");
  // User-defined tokens are written with plain spaces, too.
  for (size_t i = 0; i < keys.tokens.size(); ++i) {
    if (keys.types[i] == 4) keys.tokens[i] = ReplaceAll(keys.tokens[i], "\u2581", " ");
  }
  CompareTexts(*keys.Read().tokenizer, "pieces_bytes");
}

TEST(GgufTokenizer, SaysWhatPromptsNeed) {
  Keys keys;
  keys.tokens = {"a", "b", "ab", "<s>", "</s>"};
  keys.types = {1, 1, 1, 3, 4};
  keys.merges = {"a b"};
  keys.ids = {{"bos_token_id", 3}, {"eos_token_id", 4}, {"eot_token_id", 3}, {"padding_token_id", UINT32_MAX}};
  keys.flags = {{"add_bos_token", true}, {"add_eos_token", true}};
  keys.chat_template =
      "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt "
      "%}b{% endif %}";
  GgufTokenizer read = keys.Read();
  EXPECT_EQ(read.bos, 3);
  EXPECT_EQ(read.eos, 4);
  EXPECT_EQ(read.eot, 3);
  EXPECT_EQ(read.unknown, std::nullopt);
  EXPECT_EQ(read.padding, std::nullopt);
  EXPECT_TRUE(read.add_bos && read.add_eos);
  EXPECT_THAT(read.tokenizer->before_text(), ElementsAre(3));
  EXPECT_THAT(read.tokenizer->after_text(), ElementsAre(4));
  EXPECT_THAT(read.tokenizer->Encode("<s>ab</s>"), ElementsAre(3, 2, 4));
  EXPECT_EQ(read.tokenizer->Decode(Ids{3, 2, 4}, true), "ab</s>");  // only control tokens are special

  const ChatTemplate chat = ChatTemplate::FromText(*read.chat_template, "x.gguf: tokenizer.chat_template",
                                                   read.special_tokens, read.tokenizer->added_tokens());
  EXPECT_EQ(chat.FirstTurn({}, {{ContentPart::Kind::kText, "hi"}}), "<s>hi</s>b");
  EXPECT_EQ(chat.end_of_turn(), "</s>");
  EXPECT_THAT(ErrorOf([&] { ChatTemplate::FromText("{% if %}", "x.gguf: tokenizer.chat_template", {}, {}); }),
              HasSubstr("x.gguf: tokenizer.chat_template"));

  keys.flags = {};
  EXPECT_FALSE(keys.Read().add_bos);
  keys.pre = "llama-bpe";
  EXPECT_TRUE(keys.Read().add_bos);
}

class BadGgufTokenizer : public ::testing::Test {
 protected:
  BadGgufTokenizer() {
    bytes_.tokens = {"a", "b", "ab", "<s>"};
    bytes_.types = {1, 1, 1, 3};
    bytes_.merges = {"a b"};
    pieces_.model = "llama";
    pieces_.tokens = {"<unk>", "<s>", "a"};
    pieces_.types = {2, 3, 1};
    pieces_.scores = {0, 0, -1};
    pieces_.ids["bos_token_id"] = 1;
    bytes_.Read();
    pieces_.Read();
  }
  Keys bytes_, pieces_;
};

TEST_F(BadGgufTokenizer, IsRefusedByName) {
  bytes_.model = "bert";
  EXPECT_THAT(bytes_.Error(),
              AllOf(HasSubstr("x.gguf: tokenizer.ggml.model \"bert\" is not supported"), HasSubstr("gpt2 and llama")));
  bytes_.model = "";
  EXPECT_THAT(bytes_.Error(), HasSubstr("the file has no tokenizer"));
  bytes_.model = "\xff";
  EXPECT_THAT(bytes_.Error(), HasSubstr("tokenizer.ggml.model is not valid UTF-8"));
  bytes_.model = "gpt2";
  bytes_.pre = "deepseek-llm";
  EXPECT_THAT(bytes_.Error(), HasSubstr("tokenizer.ggml.pre \"deepseek-llm\" is not supported"));
  bytes_.pre = std::string(10'000, 'x');
  EXPECT_THAT(bytes_.Error(), HasSubstr("tokenizer.ggml.pre has 10000 bytes"));
}

TEST_F(BadGgufTokenizer, ListsAreOneEntryForEachToken) {
  bytes_.types.pop_back();
  EXPECT_THAT(bytes_.Error(), HasSubstr("tokenizer.ggml.token_type has 3 entries; expected 4"));
  pieces_.scores.push_back(1);
  EXPECT_THAT(pieces_.Error(), HasSubstr("tokenizer.ggml.scores has 4 entries; expected 3"));
  pieces_.scores.clear();
  EXPECT_THAT(pieces_.Error(), HasSubstr("tokenizer.ggml.scores is missing"));
  pieces_.tokens.clear();
  EXPECT_THAT(pieces_.Error(), HasSubstr("tokenizer.ggml.tokens is missing"));
  bytes_.types = {1, 1, 1, 3};
  bytes_.merges.clear();
  EXPECT_THAT(bytes_.Error(), HasSubstr("tokenizer.ggml.merges is missing"));
}

TEST_F(BadGgufTokenizer, TokensAreDistinctTextsOfKnownTypes) {
  for (Keys* keys : {&bytes_, &pieces_}) {
    const Keys good = *keys;
    keys->tokens[2] = "<s>";
    EXPECT_THAT(keys->Error(), HasSubstr("is \"<s>\", as token"));
    keys->tokens[2] = "\xc3";
    EXPECT_THAT(keys->Error(), HasSubstr("token 2 is not valid UTF-8"));
    for (int32_t type : {0, 7, -1, INT32_MAX, INT32_MIN}) {
      *keys = good;
      keys->types[2] = type;
      EXPECT_THAT(keys->Error(), HasSubstr("token 2: type " + std::to_string(type) + " is none of 1 to 6"));
    }
    *keys = good;
    keys->types[2] = 4;
    keys->tokens[2] = std::string(10'000, 'x');
    EXPECT_THAT(keys->Error(), HasSubstr("token 2 has 10000 bytes"));
    keys->tokens[2] = "";
    EXPECT_THAT(keys->Error(), HasSubstr("token 2 has 0 bytes"));
  }
}

TEST_F(BadGgufTokenizer, ScoresAreNumbers) {
  pieces_.scores[2] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(pieces_.Error(), HasSubstr("tokenizer.ggml.scores: element 2 is NaN"));
  for (const float score : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()}) {
    pieces_.scores[2] = score;
    EXPECT_THAT(pieces_.Read().tokenizer->Encode("a"), ElementsAre(0, 2));
  }
}

TEST_F(BadGgufTokenizer, MergesAreOfTheVocabulary) {
  for (const char* merge : {"ab", "a  b", "a b c", " ab", ""}) {
    bytes_.merges = {"a b", merge};
    EXPECT_THAT(bytes_.Error(), HasSubstr("merge 1 is not of the form \"a b\"")) << merge;
  }
  bytes_.merges = {"a b", "b a"};
  EXPECT_THAT(bytes_.Error(), HasSubstr("\"ba\", which is not in the vocabulary"));
  bytes_.merges = {"a " + std::string(1 << 20, 'b')};
  EXPECT_THAT(bytes_.Error(), HasSubstr("which is not in the vocabulary"));
}

TEST_F(BadGgufTokenizer, IdsAreOfTheVocabulary) {
  for (const char* name : {"bos_token_id", "eos_token_id", "eot_token_id", "unknown_token_id", "padding_token_id"}) {
    Keys keys = bytes_;
    keys.ids[name] = 4;
    EXPECT_THAT(keys.Error(), AllOf(HasSubstr(name), HasSubstr("is 4; the vocabulary has 4 tokens")));
  }
  pieces_.ids.clear();
  EXPECT_THAT(pieces_.Error(), HasSubstr("tokenizer.ggml.bos_token_id is missing, and a text needs it"));
  pieces_.flags["add_bos_token"] = false;
  EXPECT_TRUE(pieces_.Read().tokenizer->before_text().empty());
}

TEST_F(BadGgufTokenizer, TemplatesAreText) {
  bytes_.chat_template = "\xff";
  EXPECT_THAT(bytes_.Error(), HasSubstr("tokenizer.chat_template is not valid UTF-8"));
  bytes_.chat_template = std::string((1 << 20) + 1, 'x');
  EXPECT_THAT(bytes_.Error(), HasSubstr("tokenizer.chat_template has 1048577 bytes"));
}

TEST_F(BadGgufTokenizer, NormalizersAreRefused) {
  pieces_.flags["remove_extra_whitespaces"] = true;
  EXPECT_THAT(pieces_.Error(), HasSubstr("tokenizer.ggml.remove_extra_whitespaces: true is not supported"));
  pieces_.flags = {{"precompiled_charsmap", true}};
  EXPECT_THAT(pieces_.Error(), HasSubstr("tokenizer.ggml.precompiled_charsmap is not supported"));
}

TEST_F(BadGgufTokenizer, EveryTextNeedsTokens) {
  pieces_.types[0] = 1;
  EXPECT_THAT(pieces_.Error(), HasSubstr("no unknown token, and 0 of the 256 byte tokens"));
}

}  // namespace
}  // namespace purekv
