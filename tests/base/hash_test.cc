// XXH64 against its published test vectors, in any pieces.
#include "base/hash.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <span>
#include <string_view>
#include <vector>

namespace purekv {
namespace {

std::span<const std::byte> Bytes(std::string_view text) {
  return std::as_bytes(std::span(text));
}

TEST(Hash, EqualsXxh64) {
  EXPECT_EQ(HashOf({}), 0xEF46DB3751D8E999u);
  EXPECT_EQ(HashOf(Bytes("a")), 0xD24EC4F1A98C6E5Bu);
  EXPECT_EQ(HashOf(Bytes("abc")), 0x44BC2CF5AD770999u);
  EXPECT_EQ(HashOf(Bytes("Nobody inspects the spammish repetition")), 0xFBCEA83C8A378BF1u);
  EXPECT_NE(HashOf(Bytes("abc"), 1), HashOf(Bytes("abc")));
}

TEST(Hash, PiecesDoNotMatter) {
  std::vector<std::byte> data(1000);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(i * 7 % 251);
  const std::span<const std::byte> all(data);
  for (const size_t length : {31u, 32u, 33u, 64u, 95u, 1000u}) {
    for (const size_t piece : {1u, 7u, 31u, 32u, 33u, 500u}) {
      Hash64 hash(5);
      for (size_t at = 0; at < length; at += piece) hash.Add(all.subspan(at, std::min(piece, length - at)));
      EXPECT_EQ(hash.Value(), HashOf(all.first(length), 5)) << length << " in pieces of " << piece;
    }
  }
}

}  // namespace
}  // namespace purekv
