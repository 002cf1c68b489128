#include "checkpoint/normalizer.h"

#include <gtest/gtest.h>

#include <chrono>

namespace purekv {
namespace {

TEST(NormalizeNfc, ComposesAndReorders) {
  EXPECT_EQ(NormalizeNfc(""), "");
  EXPECT_EQ(NormalizeNfc("plain text, caf\u00e9"), "plain text, caf\u00e9");
  EXPECT_EQ(NormalizeNfc("e\u0301"), "\u00e9");
  EXPECT_EQ(NormalizeNfc("s\u0307\u0323"), "\u1e69");
  EXPECT_EQ(NormalizeNfc("a\u0315\u0300\u05ae\u0062"), "\u00e0\u05ae\u0315b");
  EXPECT_EQ(NormalizeNfc("\u212b\u2126\u0344"), "\u00c5\u03a9\u0308\u0301");
  EXPECT_EQ(NormalizeNfc("\u1100\u1161\u11a8"), "\uac01");
  EXPECT_EQ(NormalizeNfc("\uac00\u11a8"), "\uac01");
  EXPECT_EQ(NormalizeNfc("\u0958"), "\u0915\u093c");  // excluded from composition
  EXPECT_EQ(NormalizeNfc("\u0301a"), "\u0301a");
}

// Hugging Face's tables are of Unicode 9: younger marks neither move nor compose. Seen with tokenizers 0.22.2.
TEST(NormalizeNfc, LeavesYoungMarksAlone) {
  for (const char* text : {"a\u0345\u07fd", "\u07fd\u0338", "a\u0898\u0316", "\U00011935\U00011930",
                           "a\u0345\U0001e2ae", "\u1abf\u0334"}) {
    EXPECT_EQ(NormalizeNfc(text), text);
  }
  EXPECT_EQ(NormalizeNfc("e\u0301\u0898e\u0301"), "\u00e9\u0898\u00e9");
}

TEST(NormalizeNfc, TakesLinearTimeOnMarks) {
  std::string text = "a";
  for (int i = 0; i < 200'000; ++i) text += i % 2 == 0 ? "\u0301" : "\u0316";
  const auto begin = std::chrono::steady_clock::now();
  const std::string normal = NormalizeNfc(text);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
  EXPECT_TRUE(normal.starts_with("\u00e1\u0316\u0316"));
  EXPECT_EQ(normal.size(), text.size() - 1);
}

}  // namespace
}  // namespace purekv
