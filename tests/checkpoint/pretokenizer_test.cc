#include "checkpoint/pretokenizer.h"

#include <gmock/gmock.h>

#include <array>
#include <random>

#include "base/utf8.h"
#include "checkpoint/checkpoint_testing.h"
#include "checkpoint/unicode_ranges.h"

namespace purekv {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using testing::ErrorOf;
using ::testing::HasSubstr;

std::vector<std::string> Split(const Pretokenizer& pretokenizer, std::string_view text) {
  std::vector<std::string_view> pieces;
  pretokenizer.Split(text, &pieces);
  return {pieces.begin(), pieces.end()};
}

std::vector<std::string> Regex(const std::string& pattern, std::string_view text) {
  return Split(*MakeRegexPretokenizer(pattern, "dir/tokenizer.json"), text);
}

std::string RegexError(const std::string& pattern) {
  return ErrorOf([&] { MakeRegexPretokenizer(pattern, "dir/tokenizer.json: pre_tokenizer"); });
}

TEST(QwenPretokenizer, CutsLikeTheRule) {
  const auto qwen = MakeKnownPretokenizer(kQwenPattern);
  EXPECT_TRUE(Split(*qwen, "").empty());
  EXPECT_THAT(Split(*qwen, "Hello  world, it's 12 o'clock!\n\n  x"),
              ElementsAre("Hello", " ", " world", ",", " it", "'s", " ", "1", "2", " o", "'clock", "!\n\n", " ", " x"));
  EXPECT_THAT(Split(*qwen, " \n \n  "), ElementsAre(" \n \n", "  "));
  EXPECT_THAT(Split(*qwen, "'RE'\u017f'LLx 'x"), ElementsAre("'RE", "'\u017f", "'LL", "x", " '", "x"));
}

// The twin: the same rule through PCRE2, on every character in every neighbourhood that the rule distinguishes.
class KnownPretokenizer : public ::testing::TestWithParam<const char*> {};

TEST_P(KnownPretokenizer, EqualsTheRegexOnEveryCharacter) {
  const auto known = MakeKnownPretokenizer(GetParam()), regex = MakeRegexPretokenizer(GetParam(), "x");
  // Beyond U+323FF there are no letters or numbers: samples do.
  for (char32_t code = 0; code < 0x110000; code += code < 0x32400 ? 1 : 61) {
    if (code >= 0xd800 && code < 0xe000) continue;
    std::string c;
    AppendUtf8(code, &c);
    const std::string text =
        "a" + c + "b 12345" + c + "1 " + c + c + "\n" + c + "'" + c + "'l" + c + "!" + c + "  " + c;
    ASSERT_EQ(Split(*known, text), Split(*regex, text)) << "U+" << std::hex << static_cast<uint32_t>(code);
  }
}

TEST_P(KnownPretokenizer, EqualsTheRegexOnRandomText) {
  const auto known = MakeKnownPretokenizer(GetParam()), regex = MakeRegexPretokenizer(GetParam(), "x");
  const std::vector<std::string> parts = {
      " ",      " ",      "\n",     "\r",     "\t",     "a",      "Z",          "1",      "9",      "'",
      "s",      "S",      "\u017f", "re",     "VE",     "m",      "ll",         "d",      "!",      "?.",
      "\u00e9", "\u0301", "\u6f22", "\u00bd", "\u2028", "\u3000", "\U0001f389", "\u180e", "\u0085", "\u200b"};
  std::mt19937 random(7);
  for (int i = 0; i < 50'000; ++i) {
    std::string text;
    const size_t length = random() % 12;
    for (size_t j = 0; j < length; ++j) text += parts[random() % parts.size()];
    ASSERT_EQ(Split(*known, text), Split(*regex, text)) << text;
  }
}

INSTANTIATE_TEST_SUITE_P(QwenLlama3Gpt2, KnownPretokenizer,
                         ::testing::Values(kQwenPattern, kLlama3Pattern, kGpt2Pattern));

TEST(KnownPretokenizers, AreThree) {
  EXPECT_EQ(MakeKnownPretokenizer("\\p{L}+"), nullptr);
}

TEST(Llama3Pretokenizer, CutsThreeDigitsAtATime) {
  EXPECT_THAT(Split(*MakeKnownPretokenizer(kLlama3Pattern), "a1234567 it'S 12 "),
              ElementsAre("a", "123", "456", "7", " it", "'S", " ", "12", " "));
}

TEST(Gpt2Pretokenizer, CutsLikeTheRule) {
  EXPECT_THAT(Split(*MakeKnownPretokenizer(kGpt2Pattern), "it's IT'S  a1234\n\n x!\n "),
              ElementsAre("it", "'s", " IT", "'", "S", " ", " a", "1234", "\n\n", " x", "!", "\n "));
}

TEST(DigitsPretokenizer, CutsNumbersOut) {
  EXPECT_THAT(Split(*MakeDigitsPretokenizer(true), "12a\u00bd\u0663b"),
              ElementsAre("1", "2", "a", "\u00bd", "\u0663", "b"));
  EXPECT_THAT(Split(*MakeDigitsPretokenizer(false), "12a\u00bd\u0663b"), ElementsAre("12", "a", "\u00bd\u0663", "b"));
  EXPECT_TRUE(Split(*MakeDigitsPretokenizer(true), "").empty());
}

TEST(LiteralPretokenizer, CutsAroundOrBehindMatches) {
  EXPECT_THAT(Split(*MakeLiteralPretokenizer(" ", true), " a  b "), ElementsAre(" ", "a ", " ", "b "));
  EXPECT_THAT(Split(*MakeLiteralPretokenizer("ab", false), "abcabab"), ElementsAre("ab", "c", "ab", "ab"));
  EXPECT_THAT(Split(*MakeWordBeginPretokenizer("_"), "a_b__"), ElementsAre("a", "_b", "_", "_"));
}

TEST(RegexPretokenizer, IsolatesMatchesAndKeepsTheRest) {
  EXPECT_THAT(Regex("\\d+", "ab12c3"), ElementsAre("ab", "12", "c", "3"));
  EXPECT_THAT(Regex("x", "abc"), ElementsAre("abc"));
  EXPECT_THAT(Regex("(?=\\d)", "ab12"), ElementsAre("ab", "1", "2"));  // an empty match cuts
  EXPECT_THAT(Regex("x*", "axxb"), ElementsAre("a", "xx", "b"));
  EXPECT_THAT(Regex("\\p{N}{1,3}", "12345"), ElementsAre("123", "45"));
  EXPECT_THAT(Regex("\\s", "a\u180eb\u3000c"), ElementsAre("a\u180eb", "\u3000", "c"));
}

TEST(RegexPretokenizer, KnowsYoungCharacters) {
  EXPECT_THAT(Regex("\\p{L}+", "!\U00031350\U0001e4d0!"), ElementsAre("!", "\U00031350\U0001e4d0", "!"));  // Unicode 15
  EXPECT_THAT(Regex("[^\\p{N}]+", "a\U00010d40b"), ElementsAre("a", "\U00010d40", "b"));                   // Unicode 16
}

TEST(RegexPretokenizer, RefusesWhatEnginesReadDifferently) {
  for (const char* pattern :
       {"^a",    "a$",    "[a&&b]", "[[:alpha:]]", "[a[b]]",  "(?m:a)", "(?x)a",  "\\h",     "\\Aa",
        "\\Z",   "a{2}+", "a{,3}",  "(*UTF)a",     "\\p{^L}", "\\pL",   "\\k<a>", "(?<n>a)", "\\1",
        "\\x41", "[]a]",  "\\",     "[a",          "\\p{L",   "\\bx",   "\\w"}) {
    EXPECT_THAT(RegexError(pattern),
                AllOf(HasSubstr("dir/tokenizer.json: pre_tokenizer: regex"), HasSubstr("not supported")))
        << pattern;
  }
  EXPECT_THAT(RegexError("(a"), HasSubstr("does not compile"));
  EXPECT_THAT(RegexError("a)"), HasSubstr("does not compile"));
  EXPECT_THAT(RegexError("*"), HasSubstr("does not compile"));
  EXPECT_THAT(RegexError("a\xff"), HasSubstr("regex"));
  EXPECT_THAT(RegexError(std::string(100'000, '(')), HasSubstr("at most"));
}

TEST(RegexPretokenizer, GivesUpOnEndlessBacktracking) {
  const auto evil = MakeRegexPretokenizer("(?:a|aa|a?a)+b", "dir/tokenizer.json");
  std::vector<std::string_view> pieces;
  EXPECT_THAT(ErrorOf([&] { evil->Split(std::string(100, 'a') + "cb", &pieces); }),
              HasSubstr("dir/tokenizer.json: regex"));
}

TEST(UnicodeRanges, AreSortedAndDisjoint) {
  for (const auto ranges : {LetterRanges(), NumberRanges(), InertRanges()}) {
    ASSERT_FALSE(ranges.empty());
    for (size_t i = 0; i < ranges.size(); ++i) {
      EXPECT_LE(ranges[i].first, ranges[i].last);
      if (i > 0) {
        EXPECT_GT(ranges[i].first, ranges[i - 1].last + 1);
      }
      EXPECT_TRUE(Contains(ranges, ranges[i].first));
      EXPECT_TRUE(Contains(ranges, ranges[i].last));
      EXPECT_FALSE(Contains(ranges, ranges[i].last + 1));
    }
  }
}

}  // namespace
}  // namespace purekv
