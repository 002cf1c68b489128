// Tokenizers of text models beside what Hugging Face's tokenizers and SentencePiece make of the same files, see
// tools/reference/text_tokenizers.py.
#include <gmock/gmock.h>

#include <chrono>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "base/utf8.h"
#include "checkpoint/checkpoint_testing.h"
#include "checkpoint/json.h"
#include "checkpoint/pretokenizer.h"
#include "checkpoint/sentencepiece.h"
#include "checkpoint/sentencepiece_model.h"
#include "checkpoint/tokenizer.h"

namespace purekv {
namespace {

using ::testing::ElementsAre;
using testing::ErrorOf;
using ::testing::HasSubstr;
using testing::ReadText;
using testing::ScratchDir;
using Ids = std::vector<int32_t>;

std::string Reference(const std::string& name) {
  return std::string(PUREKV_TEST_DATA) + "/reference/text_tokenizers/" + name;
}

class TextTokenizers : public ::testing::TestWithParam<const char*> {
 protected:
  const std::string dir_ = Reference(GetParam());
  const Json texts_ = ReadJson(Reference("texts.json")).at("texts");
  const Json expected_ = ReadJson(dir_ + "/ids.json");
  const std::unique_ptr<Tokenizer> tokenizer_ = Tokenizer::Load(dir_);
};

TEST_P(TextTokenizers, EncodeAsTheReference) {
  const Json& ids = expected_.at("ids");
  ASSERT_GE(texts_.size(), 280u);
  ASSERT_EQ(ids.size(), texts_.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i].is_null()) continue;  // SentencePiece itself has no added tokens
    const auto& text = texts_[i].get_ref<const std::string&>();
    EXPECT_EQ(tokenizer_->Encode(text), ids[i].get<Ids>()) << texts_[i].dump(-1, ' ', true);
  }
  EXPECT_EQ(tokenizer_->before_text(), expected_.value("before", tokenizer_->before_text()));
  EXPECT_TRUE(tokenizer_->after_text().empty());
}

TEST_P(TextTokenizers, DecodeAsTheReference) {
  const Json& list = expected_.at("decode");
  ASSERT_GE(list.size(), 50u);
  for (const Json& item : list) {
    const auto ids = item[0].get<Ids>();
    EXPECT_EQ(tokenizer_->Decode(ids, false), item[1].get<std::string>()) << item.dump();
    EXPECT_EQ(tokenizer_->Decode(ids, true), item[2].get<std::string>()) << item.dump();
  }
}

TEST_P(TextTokenizers, StreamWhatDecodeGives) {
  std::mt19937 random(3);
  for (int round = 0; round < 500; ++round) {
    Ids ids(random() % 20);
    for (int32_t& id : ids) id = static_cast<int32_t>(random() % static_cast<uint64_t>(tokenizer_->size() + 3));
    TextStream stream(*tokenizer_);
    std::string text;
    for (int32_t id : ids) {
      text += stream.Push(id);
      ASSERT_EQ(FirstInvalidUtf8(text), std::string::npos);
    }
    ASSERT_EQ(text + stream.Finish(), tokenizer_->Decode(ids, true));
    ASSERT_EQ(stream.Finish(), "");
  }
}

TEST_P(TextTokenizers, PlainTextHasNoSpecialTokens) {
  for (const std::string& token : tokenizer_->added_tokens()) {
    const int32_t id = tokenizer_->Find(token).value();
    if (!tokenizer_->DecodeBytes(id, true).empty()) continue;
    EXPECT_THAT(tokenizer_->Encode("a" + token), ::testing::Contains(id)) << token;
    EXPECT_THAT(tokenizer_->EncodePlain("a" + token), ::testing::Not(::testing::Contains(id))) << token;
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, TextTokenizers,
                         ::testing::Values("smollm2", "llama3", "gpt2", "gemma", "llama2", "metaspace_first",
                                           "metaspace_always", "pieces_prefix", "pieces_bytes"),
                         [](const auto& info) { return std::string(info.param); });

// The classes of transformers put their own ids around a text.
TEST(TextTokenizer, LlamasClassAddsItsBos) {
  ScratchDir dir;
  dir.Write("tokenizer.json", ReadText(Reference("llama2/tokenizer.json")));
  EXPECT_TRUE(Tokenizer::Load(dir.path())->before_text().empty());
  dir.Write("tokenizer_config.json", R"({"tokenizer_class": "LlamaTokenizerFast", "add_prefix_space": true})");
  EXPECT_THAT(Tokenizer::Load(dir.path())->before_text(), ElementsAre(1));
  dir.Write("tokenizer_config.json", R"({"tokenizer_class": "LlamaTokenizer", "bos_token": {"content": "</s>"},
      "add_eos_token": true})");
  EXPECT_THAT(Tokenizer::Load(dir.path())->before_text(), ElementsAre(2));
  EXPECT_THAT(Tokenizer::Load(dir.path())->after_text(), ElementsAre(2));
  dir.Write("tokenizer_config.json", R"({"tokenizer_class": "LlamaTokenizer", "add_bos_token": false})");
  EXPECT_TRUE(Tokenizer::Load(dir.path())->before_text().empty());
  dir.Write("tokenizer_config.json", R"({"tokenizer_class": "GemmaTokenizer"})");
  EXPECT_THAT(ErrorOf([&] { Tokenizer::Load(dir.path()); }), HasSubstr("\"bos_token\" \"<bos>\" is no token"));
}

// What a spoiled tokenizer.json of Llama 2's kind says.
class TextTokenizerFiles : public ::testing::Test {
 protected:
  std::unique_ptr<Tokenizer> LoadWith(const std::string& pointer, const Json& value) {
    Json json = ReadJson(Reference("llama2/tokenizer.json"));
    json[Json::json_pointer(pointer)] = value;
    dir_.Write("tokenizer.json", json.dump());
    return Tokenizer::Load(dir_.path());
  }
  std::string ErrorWith(const std::string& pointer, const Json& value) {
    return ErrorOf([&] { LoadWith(pointer, value); });
  }
  ScratchDir dir_;
};

TEST_F(TextTokenizerFiles, RefuseWhatIsNotImplemented) {
  const Json replace = {{"type", "Replace"}, {"pattern", {{"Regex", "a+"}}}, {"content", "b"}};
  const auto strip = [](int start, int stop) {
    return Json{{"type", "Strip"}, {"content", " "}, {"start", start}, {"stop", stop}};
  };
  EXPECT_THAT(ErrorWith("/normalizer", replace), HasSubstr("normalizer: Replace of a regex is not supported"));
  EXPECT_THAT(ErrorWith("/normalizer/normalizers/0/prepend", ""), HasSubstr("\"prepend\" has 0 bytes"));
  EXPECT_THAT(ErrorWith("/normalizer/normalizers/0/prepend", std::string(65, 'x')), HasSubstr("has 65 bytes"));
  EXPECT_THAT(ErrorWith("/normalizer/normalizers/1/pattern/String", ""), HasSubstr("\"String\" has 0 bytes"));
  EXPECT_THAT(ErrorWith("/decoder/decoders/0", replace), HasSubstr("decoder[0]: Replace of a regex is not supported"));
  EXPECT_THAT(ErrorWith("/decoder/decoders/3", strip(1, 1)), HasSubstr("decoder[3]: Strip with \"stop\""));
  EXPECT_THAT(ErrorWith("/decoder/decoders/2", strip(1, 0)), HasSubstr("decoder[2]: \"Strip\" is not supported"));
  EXPECT_THAT(ErrorWith("/decoder", {{"type", "ByteLevel"}}),
              HasSubstr("decoder: ByteLevel, but pre_tokenizer is not"));
  EXPECT_THAT(ErrorWith("/decoder", nullptr), HasSubstr("decoder"));
  EXPECT_THAT(ErrorWith("/pre_tokenizer", {{"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "last"}}),
              HasSubstr("\"prepend_scheme\": \"last\" is none of always, first, never"));
  EXPECT_THAT(ErrorWith("/model/unk_token", "<none>"), HasSubstr("\"<none>\" is not in the vocabulary"));
}

TEST_F(TextTokenizerFiles, RefuseTemplatesWithoutOneText) {
  const auto processor = [](const Json& single, int id) {
    return Json{{"type", "TemplateProcessing"},
                {"single", single},
                {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {id}}}}}}};
  };
  const Json bos = {{"SpecialToken", {{"id", "<s>"}}}}, text = {{"Sequence", {{"id", "A"}}}};
  const auto tokenizer = LoadWith("/post_processor", processor({bos, text, bos}, 1));
  EXPECT_THAT(tokenizer->before_text(), ElementsAre(1));
  EXPECT_THAT(tokenizer->after_text(), ElementsAre(1));
  EXPECT_THAT(ErrorWith("/post_processor", processor(Json::array({bos}), 1)),
              HasSubstr("\"single\" holds 0 texts; expected 1"));
  EXPECT_THAT(ErrorWith("/post_processor", processor({text, text}, 1)), HasSubstr("holds 2 texts; expected 1"));
  EXPECT_THAT(ErrorWith("/post_processor", processor({bos, text}, 9999)), HasSubstr("id 9999 is no token's"));
  EXPECT_THAT(ErrorWith("/post_processor", processor({bos, text}, -1)), HasSubstr("\"ids\""));
  EXPECT_THAT(ErrorWith("/post_processor", processor(Json::array({{{"SpecialToken", {{"id", "<x>"}}}}, text}), 1)),
              HasSubstr("<x>"));
}

// Sixteen steps of a file could make terabytes of a few letters.
TEST_F(TextTokenizerFiles, BoundWhatReplacingMakes) {
  Json steps = Json::array();
  for (int i = 0; i < 16; ++i) {
    steps.push_back({{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", std::string(64, 'a')}});
  }
  const auto tokenizer = LoadWith("/normalizer/normalizers", steps);
  EXPECT_THAT(ErrorOf([&] { tokenizer->Encode("aaaa"); }), HasSubstr("the text has more than 1088 bytes"));
  EXPECT_FALSE(tokenizer->Encode("bbbb").empty());
  steps.push_back(steps[0]);
  EXPECT_THAT(ErrorWith("/normalizer/normalizers", steps), HasSubstr("\"normalizers\" is not a list of 1 to 16"));
}

class TokenizerModelTest : public ::testing::Test {
 protected:
  std::string ErrorWith(const std::string& bytes) {
    dir_.Write("tokenizer.model", bytes);
    const std::string message = ErrorOf([&] { Tokenizer::Load(dir_.path()); });
    EXPECT_THAT(message, HasSubstr("tokenizer.model"));
    return message;
  }
  // A field of a protocol buffer: a message or text, or an integer below 128.
  static std::string Field(int number, const std::string& bytes) {
    const std::string head = static_cast<char>(number << 3 | 2) + std::string();
    if (bytes.size() < 128) return head + static_cast<char>(bytes.size()) + bytes;
    return head + static_cast<char>(bytes.size() % 128 | 128) + static_cast<char>(bytes.size() / 128) + bytes;
  }
  static std::string Field(int number, int value) { return {static_cast<char>(number << 3), static_cast<char>(value)}; }
  static std::string Piece(const std::string& text, int type = 1, float score = 0) {
    return Field(1, Field(1, text) + static_cast<char>(2 << 3 | 5) +
                        std::string(reinterpret_cast<const char*>(&score), sizeof(score)) + Field(3, type));
  }
  static std::string Model(const std::string& pieces, const std::string& trainer = Field(3, 2),
                           const std::string& normalizer = Field(4, 0)) {
    return pieces + Field(2, trainer) + Field(3, normalizer);
  }
  const std::string unknown_ = Piece("<unk>", 2);
  ScratchDir dir_;
};

TEST_F(TokenizerModelTest, MergesByScoreThenFromTheLeft) {
  dir_.Write("tokenizer.model", Model(unknown_ + Piece("a") + Piece("b") + Piece("aa", 1, -2) + Piece("ab", 1, -1) +
                                      Piece("aab", 5, -3) + Piece("\u2581", 1) + Piece("b b", 4)));
  const auto tokenizer = Tokenizer::Load(dir_.path());
  EXPECT_THAT(tokenizer->Encode("aaa"), ElementsAre(6, 3, 1));
  EXPECT_THAT(tokenizer->Encode("ab"), ElementsAre(6, 4));
  EXPECT_THAT(tokenizer->Encode("aab"), ElementsAre(6, 1, 4));  // an unused piece falls apart
  EXPECT_THAT(tokenizer->Encode("xxa"), ElementsAre(6, 0, 1));  // one for all unknown characters in a row
  EXPECT_THAT(tokenizer->Encode("b b b"), ElementsAre(6, 7, 6, 2));
  EXPECT_THAT(tokenizer->Encode("b\u2581b<unk>"), ElementsAre(6, 7, 0));
  EXPECT_EQ(tokenizer->Decode(Ids{6, 4, 6, 7}, false), "ab b b");
}

TEST_F(TokenizerModelTest, HoldsThePrefixBackWhereTheConfigSaysSo) {
  const std::string model = Model(unknown_ + Piece("\u2581") + Piece("a") + Piece("<s>", 3));
  dir_.Write("tokenizer.model", model);
  EXPECT_THAT(Tokenizer::Load(dir_.path())->Encode("a<s>a"), ElementsAre(1, 2, 3, 1, 2));
  dir_.Write("tokenizer_config.json", R"({"legacy": false})");
  EXPECT_THAT(Tokenizer::Load(dir_.path())->Encode("a<s>a"), ElementsAre(1, 2, 3, 2));
  dir_.Write("tokenizer_config.json", R"({"added_tokens_decoder": {"3": {"content": "<s>", "special": false}}})");
  EXPECT_EQ(Tokenizer::Load(dir_.path())->Decode(Ids{3}, true), "<s>");
  dir_.Write("tokenizer_config.json", R"({"added_tokens_decoder": {"2": {"content": "<x>"}}})");
  EXPECT_THAT(ErrorOf([&] { Tokenizer::Load(dir_.path()); }), HasSubstr("has id 2, which is \"a\""));
}

TEST_F(TokenizerModelTest, RefusesWhatIsNotImplemented) {
  const std::string pieces = unknown_ + Piece("a");
  EXPECT_THAT(ErrorWith(Model(pieces, Field(3, 1))), HasSubstr("model_type unigram is not supported"));
  EXPECT_THAT(ErrorWith(Model(pieces, "")), HasSubstr("model_type unigram is not supported"));
  EXPECT_THAT(ErrorWith(Model(pieces, Field(3, 4))), HasSubstr("model_type char is not supported"));
  EXPECT_THAT(ErrorWith(Model(pieces, Field(3, 9))), HasSubstr("model_type unknown is not supported"));
  EXPECT_THAT(ErrorWith(Model(pieces, Field(3, 2), "")), HasSubstr("remove_extra_whitespaces is not supported"));
  EXPECT_THAT(ErrorWith(Model(pieces, Field(3, 2), Field(4, 0) + Field(2, "x"))),
              HasSubstr("precompiled_charsmap is not supported"));
  EXPECT_THAT(ErrorWith(Model(pieces, Field(3, 2), Field(4, 0) + Field(5, 0))), HasSubstr("escape_whitespaces"));
}

TEST_F(TokenizerModelTest, RefusesWrongPieces) {
  EXPECT_THAT(ErrorWith(Model("")), HasSubstr("no tokens"));
  EXPECT_THAT(ErrorWith(Model(unknown_)), HasSubstr("no token is ordinary text"));
  EXPECT_THAT(ErrorWith(Model(unknown_ + Piece("a") + Piece("a"))), HasSubstr("token 2 is \"a\", as token 1 is"));
  EXPECT_THAT(ErrorWith(Model(unknown_ + Piece("a", 7))), HasSubstr("token 1: type 7 is none of 1 to 6"));
  EXPECT_THAT(ErrorWith(Model(unknown_ + Piece("a", 0))), HasSubstr("token 1: type 0 is none of 1 to 6"));
  EXPECT_THAT(ErrorWith(Model(unknown_ + Piece("a", 1, NAN))), HasSubstr("token 1: its score is not a number"));
  EXPECT_THAT(ErrorWith(Model(unknown_ + Piece("\xff"))), HasSubstr("token 1 is not valid UTF-8"));
  EXPECT_THAT(ErrorWith(Model(unknown_ + Piece("<0xG0>", 6))), HasSubstr("expected <0x00> to <0xFF>"));
  EXPECT_THAT(ErrorWith(Model(unknown_ + Piece("<u>", 2))), HasSubstr("token 1 is an unknown token, as token 0 is"));
  EXPECT_THAT(ErrorWith(Model(unknown_ + Piece("", 3))), HasSubstr("token 1 has 0 bytes"));
  EXPECT_THAT(ErrorWith(Model(unknown_ + Piece(std::string(1025, 'x')))), HasSubstr("has 1025 bytes; at most 1024"));
  EXPECT_THAT(ErrorWith(Model(Piece("a") + Piece("<0x41>", 6))), HasSubstr("1 of the 256 byte tokens"));
}

TEST_F(TokenizerModelTest, RefusesDamagedFiles) {
  const std::string model = Model(unknown_ + Piece("a"));
  for (size_t size = 0; size < model.size(); ++size) ErrorWith(model.substr(0, size));
  EXPECT_THAT(ErrorWith("\x0b"), HasSubstr("no SentencePiece model, or damaged"));  // a wire type that is none
  EXPECT_THAT(ErrorWith("\x0a\xff\xff\xff\xff\x0f"), HasSubstr("damaged"));         // 4 GiB that are not there
  EXPECT_THAT(ErrorWith(std::string(20, '\xff')), HasSubstr("damaged"));            // an integer without end
}

// The definition, word for word: quadratic and obvious.
Ids EncodeSlowly(const std::map<std::string, SentencePiece>& pieces, const std::string& text) {
  std::vector<std::string> symbols;
  for (char c : text) symbols.emplace_back(1, c);
  while (true) {
    float best = 0;
    size_t place = symbols.size();
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto found = pieces.find(symbols[i] + symbols[i + 1]);
      if (found != pieces.end() && (place == symbols.size() || found->second.score > best)) {
        best = found->second.score;
        place = i;
      }
    }
    if (place == symbols.size()) break;
    symbols[place] += symbols[place + 1];
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(place) + 1);
  }
  Ids ids;
  for (const std::string& symbol : symbols) ids.push_back(pieces.count(symbol) != 0 ? pieces.at(symbol).id : 0);
  return ids;
}

TEST(SentencePieceEncoder, EqualsTheDefinition) {
  std::mt19937 random(5);
  for (int round = 0; round < 300; ++round) {
    std::map<std::string, SentencePiece> by_text;
    std::vector<SentencePiece> pieces;
    const size_t count = 1 + random() % 30;
    for (size_t i = 0; i < count; ++i) {
      std::string text;
      for (size_t j = 1 + random() % 4; j > 0; --j) text += static_cast<char>('a' + random() % 3);
      const SentencePiece piece{text, static_cast<int32_t>(i + 1), -static_cast<float>(random() % 12), false};
      if (by_text.emplace(text, piece).second) pieces.push_back(piece);
    }
    UnknownRule unknown;
    unknown.id = 0;
    const SentencePieceEncoder encoder(pieces, {}, unknown);
    for (int i = 0; i < 30; ++i) {
      std::string text;
      for (size_t j = random() % 40; j > 0; --j) text += static_cast<char>('a' + random() % 4);
      Ids ids;
      encoder.Encode(text, &ids);
      ASSERT_EQ(ids, EncodeSlowly(by_text, text)) << text;
    }
  }
}

TEST(TextTokenizer, LongTextIsNotQuadratic) {
  const std::string letters(1 << 20, 'a'), spaces(1 << 20, ' ');
  for (const char* kind : {"gemma", "llama2", "pieces_bytes", "gpt2", "llama3", "smollm2"}) {
    const auto tokenizer = Tokenizer::Load(Reference(kind));
    const auto begin = std::chrono::steady_clock::now();
    EXPECT_GT(tokenizer->Encode(letters).size(), 1000u);
    EXPECT_GT(tokenizer->Encode(spaces).size(), 1000u);
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20)) << kind;
  }
}

}  // namespace
}  // namespace purekv
