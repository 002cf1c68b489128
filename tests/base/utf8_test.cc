#include "base/utf8.h"

#include <gtest/gtest.h>

namespace purekv {
namespace {

std::string Lossy(std::string_view bytes) {
  std::string text;
  EXPECT_EQ(AppendLossyUtf8(bytes, true, &text), bytes.size());
  return text;
}

TEST(Utf8, EveryCharacterRoundTrips) {
  for (char32_t code = 0; code < 0x110000; ++code) {
    std::string text;
    AppendUtf8(code, &text);
    const Utf8Char c = DecodeUtf8(text, 0);
    if (code >= 0xd800 && code < 0xe000) {
      ASSERT_EQ(c.length, 0u) << static_cast<uint32_t>(code);
    } else {
      ASSERT_EQ(c.length, text.size());
      ASSERT_EQ(c.code, code);
    }
  }
}

TEST(Utf8, FindsTheFirstBadByte) {
  EXPECT_EQ(FirstInvalidUtf8("gr\xc3\xbc\xc3\x9f"), std::string_view::npos);
  EXPECT_EQ(FirstInvalidUtf8("ab\xff"), 2u);
  EXPECT_EQ(FirstInvalidUtf8("ab\xc3"), 2u);
  EXPECT_EQ(FirstInvalidUtf8("\xc0\xaf"), 0u);          // overlong
  EXPECT_EQ(FirstInvalidUtf8("a\xed\xa0\x80"), 1u);     // surrogate
  EXPECT_EQ(FirstInvalidUtf8("\xf4\x90\x80\x80"), 0u);  // beyond U+10FFFF
}

// The cases of Rust's String::from_utf8_lossy documentation and tests.
TEST(Utf8, RepairsAsRustDoes) {
  EXPECT_EQ(Lossy("Hello\xC2 There\xFF Goodbye"), "Hello\uFFFD There\uFFFD Goodbye");
  EXPECT_EQ(Lossy("Hello\xC0\x80 There\xE6\x83 Goodbye"), "Hello\uFFFD\uFFFD There\uFFFD Goodbye");
  EXPECT_EQ(Lossy("\xF5"
                  "foo\xF5\x80"
                  "bar"),
            "\uFFFDfoo\uFFFD\uFFFDbar");
  EXPECT_EQ(Lossy("\xF1"
                  "foo\xF1\x80"
                  "bar\xF1\x80\x80"
                  "baz"),
            "\uFFFDfoo\uFFFDbar\uFFFDbaz");
  EXPECT_EQ(Lossy("\xF4"
                  "foo\xF4\x80"
                  "bar\xF4\xBF"
                  "baz"),
            "\uFFFDfoo\uFFFDbar\uFFFD\uFFFDbaz");
  EXPECT_EQ(Lossy("\xF0\x80\x80\x80"
                  "foo\xF0\x90\x80\x80"
                  "bar"),
            "\uFFFD\uFFFD\uFFFD\uFFFDfoo\U00010000bar");
  EXPECT_EQ(Lossy("\xED\xA0\x80"
                  "foo\xED\xBF\xBF"
                  "bar"),
            "\uFFFD\uFFFD\uFFFDfoo\uFFFD\uFFFD\uFFFDbar");
  EXPECT_EQ(Lossy("\xE2\x82"), "\uFFFD");
}

// Fed byte by byte with the rest held back, the outcome is the same.
TEST(Utf8, RepairsPiecewise) {
  const std::string bytes = "a\xF0\x9F\x98\x80z\xE0\x80\xC3\xA9\xF0\x9F\x98q\xFF\xED\xA0\x80\xE2\x82";
  std::string whole = Lossy(bytes), text, pending;
  for (char byte : bytes) {
    pending += byte;
    pending.erase(0, AppendLossyUtf8(pending, false, &text));
    EXPECT_EQ(FirstInvalidUtf8(text), std::string::npos);
    EXPECT_LE(pending.size(), 3u);
  }
  AppendLossyUtf8(pending, true, &text);
  EXPECT_EQ(text, whole);
}

}  // namespace
}  // namespace purekv
