#include "checkpoint/tokenizer.h"

#include <gmock/gmock.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <random>

#include "base/utf8.h"
#include "checkpoint/bpe.h"
#include "checkpoint/checkpoint_testing.h"
#include "checkpoint/json.h"
#include "checkpoint/pretokenizer.h"

namespace purekv {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using testing::ErrorOf;
using ::testing::HasSubstr;
using testing::ScratchDir;
using Ids = std::vector<int32_t>;

std::string Reference(const std::string& name) {
  return std::string(PUREKV_TEST_DATA) + "/reference/" + name;
}

// What Hugging Face's library made of the same files: see tools/reference/.
class TokenizerReference : public ::testing::Test {
 protected:
  void Compare(const Tokenizer& tokenizer, const char* group, size_t at_least) {
    const Json& list = strings_.at(group);
    ASSERT_GE(list.size(), at_least) << group;
    for (const Json& item : list) {
      const auto& text = item[0].get_ref<const std::string&>();
      ASSERT_EQ(tokenizer.Encode(text), item[1].get<Ids>()) << group << ": " << item[0].dump(-1, ' ', true);
    }
  }
  const Json strings_ = ReadJson(Reference("tokenizer/strings.json"));
};

TEST_F(TokenizerReference, EncodesAsHuggingFace) {
  for (const char* dir : {"tokenizer", "tokenizer_files"}) {
    const auto tokenizer = Tokenizer::Load(Reference(dir));
    Compare(*tokenizer, "text", 20);
    Compare(*tokenizer, "wrapped", 500);
    Compare(*tokenizer, "contractions", 100);
    Compare(*tokenizer, "spaces", 400);
    Compare(*tokenizer, "special", 200);
    Compare(*tokenizer, "categories", 300);
    Compare(*tokenizer, "combined", 500);
    Compare(*tokenizer, "random", 1000);
    Compare(*tokenizer, "runs", 10);
    Compare(*tokenizer, "recent", 50);
  }
}

TEST_F(TokenizerReference, EncodesWithMergesAsPairs) {
  Compare(*Tokenizer::Load(Reference("tokenizer_pairs")), "pairs", 100);
}

TEST_F(TokenizerReference, DecodesAsHuggingFace) {
  const auto tokenizer = Tokenizer::Load(Reference("tokenizer"));
  const Json& list = strings_.at("decode");
  ASSERT_GE(list.size(), 100u);
  for (const Json& item : list) {
    const auto ids = item[0].get<Ids>();
    EXPECT_EQ(tokenizer->Decode(ids, false), item[1].get<std::string>()) << item.dump();
    EXPECT_EQ(tokenizer->Decode(ids, true), item[2].get<std::string>()) << item.dump();
  }
}

TEST_F(TokenizerReference, StreamsWhatDecodeGives) {
  const auto tokenizer = Tokenizer::Load(Reference("tokenizer"));
  std::mt19937 random(3);
  for (int round = 0; round < 2000; ++round) {
    Ids ids(random() % 20);
    for (int32_t& id : ids) id = static_cast<int32_t>(random() % static_cast<uint64_t>(tokenizer->size() + 3));
    TextStream stream(*tokenizer);
    std::string text;
    for (int32_t id : ids) {
      text += stream.Push(id);
      ASSERT_EQ(FirstInvalidUtf8(text), std::string::npos);
    }
    ASSERT_EQ(text + stream.Finish(), tokenizer->Decode(ids, true));
    ASSERT_EQ(stream.Finish(), "");
  }
}

TEST_F(TokenizerReference, PlainTextHasNoAddedTokens) {
  const auto tokenizer = Tokenizer::Load(Reference("tokenizer"));
  const std::string text = "a<|im_end|>b<tool_call>";
  const int32_t end = tokenizer->Find("<|im_end|>").value();
  EXPECT_THAT(tokenizer->Encode(text), ::testing::Contains(end));
  const Ids plain = tokenizer->EncodePlain(text);
  EXPECT_THAT(plain, ::testing::Not(::testing::Contains(end)));
  EXPECT_THAT(plain, ::testing::Each(::testing::Lt(700)));
  EXPECT_EQ(tokenizer->Decode(plain, true), text);
  EXPECT_EQ(tokenizer->DecodeBytes(end, true), "");
  EXPECT_EQ(tokenizer->DecodeBytes(end, false), "<|im_end|>");
  EXPECT_EQ(tokenizer->size(), 722);
  EXPECT_FALSE(tokenizer->Find("<|nothing|>").has_value());
  EXPECT_EQ(tokenizer->Find("!").value(), 0);
  EXPECT_EQ(tokenizer->Decode(Ids{-1, 5000, INT32_MAX, INT32_MIN}, false), "");
}

// A small tokenizer whose files each test can spoil: 256 bytes, "ab" (256), "abc" (257), and added tokens from 300.
struct Parts {
  Json vocabulary = Json::object();
  Json json;

  Parts() {
    for (unsigned byte = 0; byte < 256; ++byte) {
      std::string token;
      AppendUtf8(ByteCharacter(static_cast<unsigned char>(byte)), &token);
      vocabulary[token] = byte;
    }
    vocabulary["ab"] = 256;
    vocabulary["abc"] = 257;
    const Json byte_level = {
        {"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}, {"trim_offsets", false}};
    const Json split = {{"type", "Split"},
                        {"pattern", {{"Regex", std::string(kQwenPattern)}}},
                        {"behavior", "Isolated"},
                        {"invert", false}};
    json = {{"version", "1.0"},
            {"added_tokens", Json::array({Added(300, "<s>", true), Added(301, "<tool>", false)})},
            {"normalizer", {{"type", "NFC"}}},
            {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", Json::array({split, byte_level})}}},
            {"post_processor", byte_level},
            {"decoder", byte_level},
            {"model",
             {{"type", "BPE"},
              {"dropout", nullptr},
              {"unk_token", nullptr},
              {"vocab", vocabulary},
              {"merges", {"a b", "ab c"}}}}};
  }

  static Json Added(int id, const std::string& content, bool special) {
    return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
            {"rstrip", false}, {"normalized", false}, {"special", special}};
  }
};

class TokenizerFilesTest : public ::testing::Test {
 protected:
  std::unique_ptr<Tokenizer> Load() {
    dir_.Write("tokenizer.json", parts_.json.dump());
    return Tokenizer::Load(dir_.path());
  }
  // Sets the value at a JSON pointer and gives the error of loading; the next call begins from a good file again.
  std::string ErrorWith(const std::string& pointer, const Json& value) {
    const Json good = parts_.json;
    parts_.json[Json::json_pointer(pointer)] = value;
    const std::string message = ErrorOf([&] { Load(); });
    parts_.json = good;
    EXPECT_THAT(message, HasSubstr("tokenizer.json")) << pointer;
    return message;
  }
  Parts parts_;
  ScratchDir dir_;
};

TEST_F(TokenizerFilesTest, LoadsTheSmallOne) {
  const auto tokenizer = Load();
  EXPECT_THAT(tokenizer->Encode("abc<s>ab<tool>"), ElementsAre(257, 300, 256, 301));
  EXPECT_EQ(tokenizer->Decode(Ids{257, 300, 256, 301}, true), "abcab<tool>");
  EXPECT_EQ(tokenizer->Decode(Ids{257, 300, 256, 301}, false), "abc<s>ab<tool>");
}

TEST_F(TokenizerFilesTest, TakesTheLongestTokenOfAPlace) {
  parts_.json["added_tokens"].push_back(Parts::Added(302, "<s>x", false));
  parts_.json["added_tokens"].push_back(Parts::Added(303, "s>xy", false));
  EXPECT_THAT(Load()->Encode("<s>xy<s>"), ElementsAre(302, 'y', 300));
}

TEST_F(TokenizerFilesTest, HonoursStripAndNormalized) {
  parts_.json["added_tokens"][0]["lstrip"] = true;
  parts_.json["added_tokens"][1]["rstrip"] = true;
  Json normalized = Parts::Added(302, "e\u0301", false);
  normalized["normalized"] = true;
  parts_.json["added_tokens"].push_back(normalized);
  const auto tokenizer = Load();
  EXPECT_THAT(tokenizer->Encode("a \u3000<s> b"), ElementsAre('a', 300, ' ', 'b'));
  EXPECT_THAT(tokenizer->Encode("a <tool>\n b"), ElementsAre('a', ' ', 301, 'b'));
  EXPECT_THAT(tokenizer->Encode("\u00e9e\u0301"), ElementsAre(302, 302));
}

TEST_F(TokenizerFilesTest, RefusesInvalidText) {
  const auto tokenizer = Load();
  for (const char* text : {"ab\xff", "ab\xc3", "ab\xed\xa0\x80"}) {
    try {
      tokenizer->Encode(text);
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), Error::Kind::kUsage);
      EXPECT_THAT(error.what(), HasSubstr("byte 2"));
    }
    EXPECT_THROW(tokenizer->EncodePlain(text), Error);
  }
}

TEST_F(TokenizerFilesTest, RefusesPartsThatAreNotImplemented) {
  const std::string sequence = "/pre_tokenizer/pretokenizers";
  EXPECT_THAT(ErrorWith("/model/type", "Unigram"), HasSubstr("\"Unigram\" is not supported"));
  EXPECT_THAT(ErrorWith("/model/dropout", 0.1), HasSubstr("dropout"));
  EXPECT_THAT(ErrorWith("/model/continuing_subword_prefix", "##"), HasSubstr("continuing_subword_prefix"));
  EXPECT_THAT(ErrorWith("/model/end_of_word_suffix", "</w>"), HasSubstr("end_of_word_suffix"));
  EXPECT_THAT(ErrorWith("/normalizer/type", "NFKC"), HasSubstr("normalizer: \"NFKC\" is not supported"));
  EXPECT_THAT(ErrorWith("/normalizer", {{"type", "Sequence"}, {"normalizers", {{{"type", "Lowercase"}}}}}),
              HasSubstr("Lowercase"));
  EXPECT_THAT(ErrorWith("/pre_tokenizer", nullptr), HasSubstr("pre_tokenizer"));
  EXPECT_THAT(ErrorWith("/pre_tokenizer/type", "Whitespace"), HasSubstr("\"Whitespace\" is not supported"));
  EXPECT_THAT(ErrorWith(sequence + "/0/type", "Punctuation"), HasSubstr("\"Punctuation\" is not supported"));
  EXPECT_THAT(ErrorWith(sequence + "/1/type", "Metaspace"), HasSubstr("\"Metaspace\" is not supported"));
  EXPECT_THAT(ErrorWith(sequence + "/0/type", "ByteLevel"), HasSubstr("\"ByteLevel\" is not supported"));
  EXPECT_THAT(ErrorWith("/pre_tokenizer/pretokenizers/0/behavior", "Removed"), HasSubstr("Removed"));
  EXPECT_THAT(ErrorWith("/pre_tokenizer/pretokenizers/0/invert", true), HasSubstr("invert"));
  EXPECT_THAT(ErrorWith("/pre_tokenizer/pretokenizers/0/pattern", {{"Other", " "}}), HasSubstr("Regex"));
  EXPECT_THAT(ErrorWith("/pre_tokenizer/pretokenizers/0/pattern", {{"String", ""}}), HasSubstr("0 bytes"));
  EXPECT_THAT(ErrorWith("/pre_tokenizer/pretokenizers/0/behavior", "MergedWithPrevious"),
              HasSubstr("MergedWithPrevious"));
  EXPECT_THAT(ErrorWith("/pre_tokenizer/pretokenizers/0/pattern/Regex", "^a"), HasSubstr("regex"));
  EXPECT_THAT(ErrorWith("/pre_tokenizer/pretokenizers/1/add_prefix_space", true), HasSubstr("add_prefix_space"));
  EXPECT_THAT(ErrorWith("/post_processor", {{"type", "TemplateProcessing"}}), HasSubstr("TemplateProcessing"));
  EXPECT_THAT(ErrorWith("/post_processor", {{"type", "RobertaProcessing"}}), HasSubstr("RobertaProcessing"));
  EXPECT_THAT(ErrorWith("/decoder", nullptr), HasSubstr("decoder"));
  EXPECT_THAT(ErrorWith("/decoder/type", "ByteFallback"), HasSubstr("pre_tokenizer is ByteLevel"));
  EXPECT_THAT(ErrorWith("/decoder/type", "Metaspace"), HasSubstr("\"Metaspace\" is not supported"));
  EXPECT_THAT(ErrorWith("/added_tokens/0/single_word", true), HasSubstr("single_word"));
}

TEST_F(TokenizerFilesTest, RefusesWrongVocabularies) {
  EXPECT_THAT(ErrorWith("/model/vocab/abc", 256), HasSubstr("id 256"));
  EXPECT_THAT(ErrorWith("/model/vocab/abc", -1), HasSubstr("\"abc\""));
  EXPECT_THAT(ErrorWith("/model/vocab/abc", 10'000'000), HasSubstr("\"abc\""));
  EXPECT_THAT(ErrorWith("/model/vocab/abc", 1e300), HasSubstr("\"abc\""));
  EXPECT_THAT(ErrorWith("/model/vocab/abc", UINT64_MAX), HasSubstr("\"abc\""));
  EXPECT_THAT(ErrorWith("/model/vocab/abc", "257"), HasSubstr("\"abc\""));
  EXPECT_THAT(ErrorWith("/model/vocab", Json::array()), HasSubstr("vocab"));
  EXPECT_THAT(ErrorWith("/model/vocab", Json::object()), HasSubstr("no tokens"));
  EXPECT_THAT(ErrorWith("/model", 3), HasSubstr("model"));
  // Holes are fine, and so are bytes without a token.
  parts_.json["model"]["vocab"].erase("\u00ff");
  parts_.json["model"]["vocab"]["abc"] = 9'999'999;
  EXPECT_EQ(Load()->size(), 10'000'000);
}

TEST_F(TokenizerFilesTest, DropsBytesWithoutAToken) {
  parts_.json["model"]["vocab"].erase("x");
  EXPECT_THAT(Load()->Encode("axbx<s>x"), ElementsAre(256, 300));  // its neighbours then merge
  parts_.json["model"]["unk_token"] = "!";
  EXPECT_THAT(Load()->Encode("axbxx"), ElementsAre('a', '!', 'b', '!', '!'));
  parts_.json["model"]["fuse_unk"] = true;
  EXPECT_THAT(Load()->Encode("axbxx"), ElementsAre('a', '!', 'b', '!'));
  EXPECT_THAT(ErrorWith("/model/unk_token", "x"), HasSubstr("\"unk_token\" \"x\" is not in the vocabulary"));
}

TEST_F(TokenizerFilesTest, RefusesWrongMerges) {
  for (const Json& merge : std::vector<Json>{"ab", "a  b", "a b c", " ab", "ab ", "", 1, nullptr, Json::array({"a"}),
                                             Json::array({"a", "b", "c"}), Json::array({"a", 1})}) {
    EXPECT_THAT(ErrorWith("/model/merges/1", merge), HasSubstr("merge 1")) << merge;
  }
  EXPECT_THAT(ErrorWith("/model/merges/1", "x y"), HasSubstr("\"xy\", which is not in the vocabulary"));
  EXPECT_THAT(ErrorWith("/model/merges/1", "zz a"), HasSubstr("\"zz\", which is not in the vocabulary"));
  EXPECT_THAT(ErrorWith("/model/merges", "a b"), HasSubstr("merges"));
  EXPECT_THAT(ErrorWith("/model/merges", nullptr), HasSubstr("merges"));
}

TEST_F(TokenizerFilesTest, RefusesWrongAddedTokens) {
  EXPECT_THAT(ErrorWith("/added_tokens", {{"a", 1}}), HasSubstr("added_tokens"));
  EXPECT_THAT(ErrorWith("/added_tokens/0", 1), HasSubstr("added_tokens[0]"));
  EXPECT_THAT(ErrorWith("/added_tokens/0/id", 10'000'000), HasSubstr("\"id\""));
  EXPECT_THAT(ErrorWith("/added_tokens/0/id", -1), HasSubstr("\"id\""));
  EXPECT_THAT(ErrorWith("/added_tokens/0/id", 301), HasSubstr("301"));
  EXPECT_THAT(ErrorWith("/added_tokens/0/id", 256), HasSubstr("which is \"ab\""));
  EXPECT_THAT(ErrorWith("/added_tokens/0/content", ""), HasSubstr("0 bytes"));
  EXPECT_THAT(ErrorWith("/added_tokens/0/content", std::string(10'000, 'x')), HasSubstr("10000 bytes"));
  EXPECT_THAT(ErrorWith("/added_tokens/0/content", "<tool>"), HasSubstr("there twice"));
  EXPECT_THAT(ErrorWith("/added_tokens/0/content", "abc"), HasSubstr("257 in the vocabulary"));
  EXPECT_THAT(ErrorWith("/added_tokens/0/special", 1), HasSubstr("\"special\""));
}

TEST_F(TokenizerFilesTest, RefusesEveryTruncation) {
  const std::string text = parts_.json.dump();
  for (size_t size = 0; size < text.size(); size += 7) {
    dir_.Write("tokenizer.json", text.substr(0, size));
    EXPECT_THAT(ErrorOf([&] { Tokenizer::Load(dir_.path()); }), HasSubstr("tokenizer.json"));
  }
}

TEST_F(TokenizerFilesTest, ConfigAddsTokensAndFlags) {
  dir_.Write("tokenizer_config.json",
             R"({"added_tokens_decoder": {"301": {"content": "<tool>", "special": true, "normalized": false},
      "302": {"content": "<new>", "special": true, "normalized": false}}})");
  const auto tokenizer = Load();
  EXPECT_THAT(tokenizer->Encode("<new><tool>"), ElementsAre(302, 301));
  EXPECT_EQ(tokenizer->Decode(Ids{301, 302}, true), "");
  const auto config_error = [&](const std::string& text) {
    dir_.Write("tokenizer_config.json", text);
    return ErrorOf([&] { Load(); });
  };
  EXPECT_THAT(config_error(R"({"added_tokens_decoder": {"x": {"content": "a"}}})"),
              AllOf(HasSubstr("tokenizer_config.json"), HasSubstr("\"x\"")));
  EXPECT_THAT(config_error(R"({"added_tokens_decoder": {"99999999": {"content": "a"}}})"),
              HasSubstr("tokenizer_config.json"));
  EXPECT_THAT(config_error(R"({"added_tokens_decoder": []})"), HasSubstr("tokenizer_config.json"));
  EXPECT_THAT(config_error(R"({"added_tokens_decoder": {"5": {"content": "<s>"}}})"), HasSubstr("<s>"));
  EXPECT_THAT(config_error(R"({"split_special_tokens": true})"), HasSubstr("split_special_tokens"));
  EXPECT_THAT(config_error(R"({"add_prefix_space": true})"), HasSubstr("add_prefix_space"));
  EXPECT_THAT(config_error("{"), HasSubstr("tokenizer_config.json"));
}

TEST_F(TokenizerFilesTest, ReadsTheOlderFiles) {
  EXPECT_THAT(ErrorOf([&] { Tokenizer::Load(dir_.path()); }), HasSubstr("no tokenizer"));
  dir_.Write("vocab.json", parts_.vocabulary.dump());
  EXPECT_THAT(ErrorOf([&] { Tokenizer::Load(dir_.path()); }), HasSubstr("no tokenizer"));
  dir_.Write("merges.txt", "#version: 0.2\r\na b\r\n\nab c\n");
  dir_.Write("added_tokens.json", R"({"<s>": 300, "<tool>": 301})");
  dir_.Write("tokenizer_config.json", R"({"eos_token": {"content": "<s>"}, "tokenizer_class": "Qwen2Tokenizer"})");
  const auto tokenizer = Tokenizer::Load(dir_.path());
  EXPECT_THAT(tokenizer->Encode("abc<s>ab<tool>"), ElementsAre(257, 300, 256, 301));
  EXPECT_EQ(tokenizer->Decode(Ids{300, 301}, true), "<tool>");

  const auto merges_error = [&](const std::string& text) {
    dir_.Write("merges.txt", text);
    return ErrorOf([&] { Tokenizer::Load(dir_.path()); });
  };
  EXPECT_THAT(merges_error("a b\nabc\n"), AllOf(HasSubstr("merges.txt"), HasSubstr("line 2")));
  EXPECT_THAT(merges_error("a b\nx y"), AllOf(HasSubstr("merges.txt"), HasSubstr("line 2"), HasSubstr("\"xy\"")));
  EXPECT_THAT(merges_error("a \xff"), AllOf(HasSubstr("merges.txt"), HasSubstr("byte 2")));
  dir_.Write("merges.txt", "a b\n");
  dir_.Write("tokenizer_config.json", R"({"tokenizer_class": "GPT2Tokenizer"})");
  EXPECT_THAT(ErrorOf([&] { Tokenizer::Load(dir_.path()); }), HasSubstr("GPT2Tokenizer"));
}

TEST_F(TokenizerFilesTest, LongTextTakesLinearTime) {
  const auto tokenizer = Load();
  std::string spaces(200'000, ' '), letters, marks = "a", mixed;
  for (int i = 0; i < 100'000; ++i) {
    letters += "ab";
    marks += i % 2 == 0 ? "\u0301" : "\u0316";
    mixed += i % 3 == 0 ? "\n " : i % 3 == 1 ? "<" : "'s ";
  }
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(tokenizer->Encode(letters).size(), 100'000u);
  EXPECT_EQ(tokenizer->Encode(spaces).size(), 200'000u);
  tokenizer->Encode(marks);
  tokenizer->Encode(mixed);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));
}

TEST_F(TokenizerFilesTest, StreamNeverShowsHalfACharacter) {
  const auto tokenizer = Load();
  TextStream stream(*tokenizer);
  EXPECT_EQ(stream.Push('a'), "a");
  for (int32_t byte : {0xf0, 0x9f, 0x8e}) EXPECT_EQ(stream.Push(byte), "");
  EXPECT_EQ(stream.Push(0x89), "\U0001f389");
  EXPECT_EQ(stream.Push(0xe2), "");
  EXPECT_EQ(stream.Push(300), "");  // special: gives nothing, ends nothing
  EXPECT_EQ(stream.Push(0x82), "");
  EXPECT_EQ(stream.Push('x'), "\ufffdx");
  EXPECT_EQ(stream.Push(0xff), "\ufffd");
  EXPECT_EQ(stream.Push(0xc3), "");
  EXPECT_EQ(stream.Finish(), "\ufffd");
  EXPECT_EQ(stream.Finish(), "");
}

}  // namespace
}  // namespace purekv
