#include "checkpoint/bpe.h"

#include <gmock/gmock.h>

#include <chrono>
#include <map>
#include <random>

namespace purekv {
namespace {

using ::testing::ElementsAre;

std::array<int32_t, 256> PlainBytes() {
  std::array<int32_t, 256> ids{};
  for (int i = 0; i < 256; ++i) ids[static_cast<size_t>(i)] = i;
  return ids;
}

BytePairEncoder Encoder(std::vector<MergeRule> merges, TokenIds whole_pieces = {}) {
  BytePairRules rules;
  rules.byte_ids = PlainBytes();
  rules.merges = std::move(merges);
  rules.whole_pieces = std::move(whole_pieces);
  return BytePairEncoder(std::move(rules));
}

std::vector<int32_t> Encode(const BytePairEncoder& encoder, std::string_view piece) {
  std::vector<int32_t> ids;
  encoder.Encode(piece, &ids);
  return ids;
}

TEST(Bpe, AlphabetIsGpt2s) {
  EXPECT_EQ(ByteCharacter(' '), U'\u0120');
  EXPECT_EQ(ByteCharacter('\n'), U'\u010a');
  EXPECT_EQ(ByteCharacter('!'), U'!');
  EXPECT_EQ(ByteCharacter(0xad), U'\u0143');
  EXPECT_EQ(ByteCharacter(0xff), U'\u00ff');
  EXPECT_EQ(TokenBytes("\u0120the\u010a"), " the\n");
  EXPECT_EQ(TokenBytes("\u00e9"), "\xe9");
  EXPECT_EQ(TokenBytes("<|x y|>"), "<|x y|>");  // a space is no character of the alphabet: the token is literal
  EXPECT_EQ(TokenBytes("\u0144\u0120"), "\u0144\u0120");
}

TEST(Bpe, MergesByRankThenFromTheLeft) {
  const BytePairEncoder encoder = Encoder({{'b', 'c', 256}, {'a', 'b', 257}, {'a', 'a', 258}, {258, 'a', 259}});
  EXPECT_TRUE(Encode(encoder, "").empty());
  EXPECT_THAT(Encode(encoder, "x"), ElementsAre('x'));
  EXPECT_THAT(Encode(encoder, "abc"), ElementsAre('a', 256));
  EXPECT_THAT(Encode(encoder, "abab"), ElementsAre(257, 257));
  EXPECT_THAT(Encode(encoder, "aaa"), ElementsAre(259));
  EXPECT_THAT(Encode(encoder, "aaaa"), ElementsAre(258, 258));
}

TEST(Bpe, LooksWholePiecesUpFirst) {
  const BytePairEncoder encoder = Encoder({{'a', 'b', 256}}, {{"abx", 300}});
  EXPECT_THAT(Encode(encoder, "abx"), ElementsAre(300));
  EXPECT_THAT(Encode(encoder, "abxx"), ElementsAre(256, 'x', 'x'));
}

// The definition, word for word: quadratic and obvious.
std::vector<int32_t> EncodeSlowly(const std::vector<MergeRule>& merges, std::string_view piece) {
  std::map<std::pair<int32_t, int32_t>, size_t> ranks;
  for (size_t i = 0; i < merges.size(); ++i) ranks[{merges[i].left, merges[i].right}] = i;
  std::vector<int32_t> ids;
  for (char c : piece) ids.push_back(static_cast<unsigned char>(c));
  while (true) {
    size_t best = merges.size(), place = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      const auto found = ranks.find({ids[i], ids[i + 1]});
      if (found != ranks.end() && found->second < best) {
        best = found->second;
        place = i;
      }
    }
    if (best == merges.size()) return ids;
    ids[place] = merges[best].merged;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(place) + 1);
  }
}

TEST(Bpe, EqualsTheDefinition) {
  std::mt19937 random(11);
  for (int round = 0; round < 300; ++round) {
    std::vector<MergeRule> merges;
    std::vector<int32_t> known = {'a', 'b', 'c'};
    const size_t count = 1 + random() % 30;
    for (size_t i = 0; i < count; ++i) {
      const auto merged = static_cast<int32_t>(256 + i);
      merges.push_back({known[random() % known.size()], known[random() % known.size()], merged});
      known.push_back(merged);
    }
    const BytePairEncoder encoder = Encoder(merges);
    for (int i = 0; i < 30; ++i) {
      std::string piece;
      const size_t length = random() % 40;
      for (size_t j = 0; j < length; ++j) piece += static_cast<char>('a' + random() % 3);
      ASSERT_EQ(Encode(encoder, piece), EncodeSlowly(merges, piece)) << piece;
    }
  }
}

TEST(Bpe, IsNotQuadratic) {
  std::vector<MergeRule> merges{{'a', 'a', 256}};
  for (int32_t i = 256; i < 276; ++i) merges.push_back({i, i, i + 1});
  const BytePairEncoder encoder = Encoder(merges);
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(Encode(encoder, std::string(1 << 20, 'a')).size(), 1u);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));
}

}  // namespace
}  // namespace purekv
