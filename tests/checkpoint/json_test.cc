#include "checkpoint/json.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "checkpoint/checkpoint_testing.h"

namespace purekv {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using testing::ErrorOf;
using ::testing::HasSubstr;

std::string ParseError(const std::string& text) {
  return ErrorOf([&] { ParseJson(text, "dir/x.json"); });
}

TEST(Json, ParsesWhatNlohmannParses) {
  for (const char* text :
       {"{}", "[]", "null", "1", "-2.5e3", "\"a\\u00e9\\n\"", "[1,[2,[3,{}]],{\"a\":{\"b\":[null,true,false]}}]",
        " {\"a\" : [ ] , \"b\" : \"\" } \n", "[[],[[]],{},{\"\":0}]", "18446744073709551615"}) {
    EXPECT_EQ(ParseJson(text, "x"), Json::parse(text)) << text;
  }
}

TEST(Json, RefusesEveryTruncation) {
  const std::string text = R"({"a": [1, 2.5, "x\u00e9y"], "b": {"c": [true, null, -1e5]}})";
  ParseJson(text, "x");
  for (size_t size = 0; size < text.size(); ++size) {
    EXPECT_THAT(ParseError(text.substr(0, size)), HasSubstr("dir/x.json: ")) << size;
  }
}

TEST(Json, RefusesWhatIsNoJson) {
  for (const std::string& text :
       {std::string("{} x"), std::string("{'a': 1}"), std::string("[1,]"), std::string("{\"a\":1,}"), std::string("01"),
        std::string("1e999"), std::string("\"\xff\""), std::string("\"\xed\xa0\x80\""), std::string("\"\xc0\xaf\""),
        std::string("{}\0{}", 5), std::string("\0", 1), std::string("\"\\ud800\""), std::string("// c\n1"),
        std::string("tru")}) {
    EXPECT_THAT(ParseError(text), HasSubstr("dir/x.json: ")) << text;
  }
}

TEST(Json, NamesNonFiniteNumbers) {
  EXPECT_THAT(ParseError("{\"a\": NaN}"), AllOf(HasSubstr("NaN at byte 6"), HasSubstr("finite")));
  EXPECT_THAT(ParseError("[Infinity]"), HasSubstr("Infinity"));
  EXPECT_THAT(ParseError("[-Infinity]"), HasSubstr("Infinity"));
}

TEST(Json, RefusesDuplicateKeysAtAnyDepth) {
  EXPECT_THAT(ParseError(R"({"a": 1, "b": 2, "a": 1})"), HasSubstr("\"a\" appears twice"));
  EXPECT_THAT(ParseError(R"([{"x": {"k": 1, "k": 2}}])"), HasSubstr("\"k\" appears twice"));
  ParseJson(R"({"a": {"a": 1}, "b": {"a": 1}})", "x");
}

TEST(Json, BoundsNesting) {
  const auto nested = [](size_t depth, const std::string& open, const std::string& close) {
    std::string text;
    for (size_t i = 0; i < depth; ++i) text += open;
    text += "1";
    for (size_t i = 0; i < depth; ++i) text += close;
    return text;
  };
  ParseJson(nested(64, "[", "]"), "x");
  EXPECT_THAT(ParseError(nested(65, "[", "]")), HasSubstr("nested more than 64 deep"));
  EXPECT_THAT(ParseError(nested(65, "{\"a\":", "}")), HasSubstr("nested more than 64 deep"));
  EXPECT_THAT(ParseError(std::string(10'000'000, '[')), HasSubstr("nested more than 64 deep"));
}

TEST(Json, BoundsTheNumberOfValues) {
  std::string text = "[0";
  for (int i = 0; i < 5'000'000; ++i) text += ",0";
  EXPECT_THAT(ParseError(text + "]"), HasSubstr("values"));
}

TEST(Json, MessagesStayShortAndOneLine) {
  EXPECT_LT(ParseError("\"" + std::string(100'000, 'a') + "\n\"").size(), 400u);
  EXPECT_LT(ParseError("\"\x01\n\r\"").size(), 400u);
  EXPECT_LT(ParseError("{\"" + std::string(100'000, 'k') + "\":1,\"" + std::string(100'000, 'k') + "\":2}").size(),
            500u);
}

TEST(Json, ReadsFilesUnderALimit) {
  const testing::ScratchDir dir;
  dir.Write("a.json", "[1, 2]");
  EXPECT_EQ(ReadJson(dir.File("a.json")).size(), 2u);
  EXPECT_THAT(ErrorOf([&] { ReadJson(dir.File("a.json"), 5); }), HasSubstr("a.json"));
  EXPECT_THAT(ErrorOf([&] { ReadJson(dir.File("none.json")); }), HasSubstr("none.json"));
  EXPECT_THAT(ErrorOf([&] { ReadJson(dir.path()); }), HasSubstr("not a regular file"));
}

class Fields : public ::testing::Test {
 protected:
  const Json json_ = Json::parse(R"({"int": 7, "float": 2.5, "whole": 3.0, "huge": 18446744073709551615, "big": 1e300,
      "string": "s", "true": true, "null": null, "ints": [1, 2.0, 3], "mixed": [1, "x"], "numbers": [1, 2.5], "object": {"in": 1}})");
  const JsonFields fields_{json_, "dir/config.json"};
};

TEST_F(Fields, ReadEveryKind) {
  EXPECT_EQ(fields_.Int("int", 0, 7), 7);
  EXPECT_EQ(fields_.Int("whole", 0, 7), 3);
  EXPECT_EQ(fields_.Int("none", 0, 7, 5), 5);
  EXPECT_EQ(fields_.Int("null", 0, 7, 5), 5);
  EXPECT_EQ(fields_.Number("float", 0, 3), 2.5);
  EXPECT_EQ(fields_.Number("int", 0, 7), 7);
  EXPECT_EQ(fields_.Number("none", 0, 7, 0.5), 0.5);
  EXPECT_TRUE(fields_.Bool("true", false));
  EXPECT_FALSE(fields_.Bool("null", false));
  EXPECT_EQ(fields_.String("string"), "s");
  EXPECT_EQ(fields_.String("none", "d"), "d");
  EXPECT_THAT(fields_.Ints("ints", 1, 3), ElementsAre(1, 2, 3));
  EXPECT_THAT(fields_.Numbers("numbers", 0, 3), ElementsAre(1, 2.5));
  EXPECT_EQ(fields_.Object("object").Int("in", 0, 1), 1);
  EXPECT_TRUE(fields_.Has("int"));
  EXPECT_FALSE(fields_.Has("null"));
  EXPECT_FALSE(fields_.Has("none"));
}

TEST_F(Fields, NameFileAndField) {
  const auto expect = [](auto action, const char* field) {
    EXPECT_THAT(ErrorOf(action), AllOf(HasSubstr("dir/config.json: "), HasSubstr(field)));
  };
  expect([&] { fields_.Int("int", 8, 9); }, "\"int\" is 7; expected an integer from 8 to 9");
  expect([&] { fields_.Int("float", 0, 9); }, "\"float\" is 2.5; expected an integer");
  expect([&] { fields_.Int("huge", 0, INT64_MAX); }, "\"huge\"");
  expect([&] { fields_.Int("big", 0, INT64_MAX); }, "\"big\"");
  expect([&] { fields_.Int("true", 0, 9); }, "\"true\" is true or false; expected an integer");
  expect([&] { fields_.Int("string", 0, 9, 1); }, "\"string\" is a string");
  expect([&] { fields_.Int("null", 0, 9); }, "\"null\" is missing");
  expect([&] { fields_.Number("none", 0, 9); }, "\"none\" is missing");
  expect([&] { fields_.Number("big", 0, 9); }, "\"big\"");
  expect([&] { fields_.Bool("int", false); }, "\"int\" is a number; expected true or false");
  expect([&] { fields_.String("int"); }, "\"int\" is a number; expected a string");
  expect([&] { fields_.Ints("mixed", 0, 9); }, "\"mixed\"[1] is a string");
  expect([&] { fields_.Ints("int", 0, 9); }, "\"int\" is a number; expected a list");
  expect([&] { fields_.Numbers("mixed", 0, 9); }, "\"mixed\"[1]");
  expect([&] { fields_.Object("ints"); }, "\"ints\" is a list; expected an object");
  expect([&] { fields_.Object("object").Int("x", 0, 1); }, "config.json: object: \"x\" is missing");
  EXPECT_THAT(ErrorOf([&] { JsonFields(json_["ints"], "a.json"); }), HasSubstr("a.json: is a list"));
}

}  // namespace
}  // namespace purekv
