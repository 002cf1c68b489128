// Encoded entries of the cache: what is kept, cut, shared, truncated and given back, against entries that are encoded
// by the slow twin.
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "base/bfloat16.h"
#include "cache/kv_cache.h"
#include "kernels/kv_codec.h"
#include "purekv/error.h"
#include "support/cache_numbers.h"

namespace purekv {
namespace {

using testing::Numbers;

constexpr int64_t kDim = 64;

KvCacheSpec Spec(const KvCodec& codec, KvFormat format = KvFormat::kBF16) {
  KvLayerSpec layer{2, kDim, format};
  layer.codec = codec;
  return KvCacheSpec({layer, layer});
}

KvCodec Codec(int bits, KvGroupAxis axis = KvGroupAxis::kChannel) {
  return {.keys = {bits, axis, 32}, .values = {bits, KvGroupAxis::kToken, 32}, .residual = 32};
}

// Numbers that hang on token, head, channel and side alone.
float Mark(int64_t token, int64_t head, int64_t d, bool key) {
  auto bits = static_cast<uint32_t>(token * 7919 + head * 131 + d * 2 + (key ? 1 : 0)) * 2654435761U;
  bits = (bits ^ bits >> 15) * 2246822519U;
  return static_cast<float>((bits ^ bits >> 13) % 4001) / 1000 - 2;
}

void AppendMarked(KvCache& cache, int64_t count) {
  const int64_t first = cache.AddTokens(count);
  Matrix<float> keys(count, 2 * kDim), values(count, 2 * kDim);
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t c = 0; c < 2 * kDim; ++c) {
      keys.Row(i)[c] = Mark(first + i, c / kDim, c % kDim, true);
      values.Row(i)[c] = Mark(first + i, c / kDim, c % kDim, false);
    }
  }
  for (int64_t layer = 0; layer < 2; ++layer) cache.Append(layer, keys.View(), values.View(), first);
}

// The bytes of the entries that are encoded, keys then values.
std::vector<uint8_t> Codes(const KvCache& cache, int64_t layer, int64_t head) {
  std::vector<uint8_t> bytes;
  const KvHeadView view = cache.Head(layer, head);
  for (const bool key : {true, false}) {
    for (const KvSegment& one : view.segments) {
      if (one.encoding == nullptr) continue;
      const auto* const from = static_cast<const uint8_t*>(key ? one.keys : one.values);
      bytes.insert(bytes.end(), from, from + (key ? one.encoding->keys : one.encoding->values).Bytes(one.length));
    }
  }
  return bytes;
}

// What the tokens' encoded entries are by the slow twin.
std::vector<uint8_t> Expected(const KvCache& cache, std::span<const int32_t> tokens, int64_t head) {
  const KvLayerSpec& spec = cache.spec()[0];
  std::vector<uint8_t> bytes;
  for (const bool key : {true, false}) {
    const KvSide side(key ? spec.codec.keys : spec.codec.values, spec.format, kDim);
    std::vector<uint8_t> rows(tokens.size() * kDim * DtypeSize(ElementDtype(spec.format)));
    for (size_t i = 0; i < tokens.size(); ++i) {
      for (int64_t d = 0; d < kDim; ++d) {
        const size_t at = i * kDim + static_cast<size_t>(d);
        const float x = Mark(tokens[i], head, d, key);
        if (spec.format == KvFormat::kF32) {
          reinterpret_cast<float*>(rows.data())[at] = x;
        } else {
          reinterpret_cast<BF16*>(rows.data())[at] = ToBF16(x);
        }
      }
    }
    std::vector<uint8_t> out(static_cast<size_t>(side.Bytes(static_cast<int64_t>(tokens.size()))));
    EXPECT_TRUE(reference::EncodeEntries(side, rows.data(), static_cast<int64_t>(tokens.size()), out.data()));
    bytes.insert(bytes.end(), out.begin(), out.end());
  }
  return bytes;
}

void ExpectEncoded(const KvCache& cache, int64_t encoded) {
  for (int64_t layer = 0; layer < 2; ++layer) {
    for (int64_t head = 0; head < 2; ++head) {
      EXPECT_EQ(cache.EncodedLength(layer, head), encoded);
      const auto tokens = cache.EntryTokens(layer, head).first(static_cast<size_t>(encoded));
      EXPECT_EQ(Codes(cache, layer, head), Expected(cache, tokens, head)) << layer << ", " << head;
    }
  }
}

void EncodeAll(KvCache& cache) {
  for (int64_t layer = 0; layer < 2; ++layer) cache.Encode(layer);
}

TEST(KvEncoding, WholeBlocksAreEncodedWhereverTheyCameFrom) {
  for (const KvFormat format : {KvFormat::kF32, KvFormat::kBF16}) {
    for (const int bits : {8, 4, 2}) {
      KvCache cache(Spec(Codec(bits), format));
      AppendMarked(cache, 131);
      EncodeAll(cache);
      ExpectEncoded(cache, 128);
      const std::vector<float> before = Numbers(cache, 1, 1);
      for (int step = 0; step < 70; ++step) {
        AppendMarked(cache, 1);
        EncodeAll(cache);
      }
      ExpectEncoded(cache, 192);
      // What was encoded stays, to the bit.
      const std::vector<float> after = Numbers(cache, 1, 1);
      EXPECT_TRUE(std::equal(before.begin(), before.begin() + 128 * 2 * kDim, after.begin()));
      EXPECT_EQ(cache.removed(), 4 * 192);
    }
  }
}

TEST(KvEncoding, TakesWhatTheFormulaSays) {
  for (const int bits : {8, 4, 2}) {
    KvCache cache(Spec(Codec(bits)));
    AppendMarked(cache, 16 * 1024 + 20);
    const int64_t full = cache.AllocatedBytes();
    EncodeAll(cache);
    const int64_t each = 16 * 1024 * (kDim * bits / 8 + 4 * kDim / 32) * 2 + 20 * 2 * kDim * 2;
    EXPECT_GE(cache.AllocatedBytes(), 4 * each);
    EXPECT_LE(cache.AllocatedBytes(), 4 * each + 4 * 4 * 4096);
    EXPECT_LE(static_cast<double>(cache.AllocatedBytes()), (bits == 8   ? 0.58
                                                            : bits == 4 ? 0.33
                                                                        : 0.21) *
                                                               static_cast<double>(full));
    const auto [keys, values] = cache.ElementBits();
    EXPECT_NEAR(keys, bits + 1, 0.02);
    EXPECT_NEAR(values, bits + 1, 0.02);
  }
}

TEST(KvEncoding, AChoiceSeesNumbersAndWhatStaysIsEncodedAnew) {
  KvCache cache(Spec(Codec(4)));
  AppendMarked(cache, 200);
  EncodeAll(cache);
  const std::vector<float> whole = Numbers(cache, 0, 1);
  cache.Decode(0);
  EXPECT_EQ(cache.EncodedLength(0, 1), 0);
  std::vector<int32_t> kept(70);
  for (size_t i = 0; i < kept.size(); ++i) kept[i] = static_cast<int32_t>(2 * i + i / 9);
  cache.Keep(0, 1, kept);
  const std::vector<float> numbers = Numbers(cache, 0, 1);
  for (size_t i = 0; i < kept.size(); ++i) {
    const auto from = whole.begin() + kept[i] * 2 * kDim;
    EXPECT_TRUE(std::equal(from, from + 2 * kDim, numbers.begin() + static_cast<std::ptrdiff_t>(i) * 2 * kDim));
  }
  cache.Encode(0);
  EXPECT_EQ(cache.EncodedLength(0, 1), 64);
  EXPECT_EQ(cache.EncodedLength(0, 0), 192);
  AppendMarked(cache, 3);
  EXPECT_EQ(cache.Length(0, 1), 73);
}

TEST(KvEncoding, SingleEntriesGoWhereGroupsLieWithinThem) {
  KvCache cache(Spec(Codec(4, KvGroupAxis::kToken)));
  AppendMarked(cache, 100);
  EncodeAll(cache);
  std::mt19937 random(3);
  for (int step = 0; step < 150; ++step) {
    for (int64_t layer = 0; layer < 2; ++layer) {
      for (int64_t head = 0; head < 2; ++head) {
        const auto length = static_cast<int32_t>(cache.Length(layer, head));
        std::vector<int32_t> kept(static_cast<size_t>(length));
        std::iota(kept.begin(), kept.end(), 0);
        kept.erase(kept.begin() + static_cast<int32_t>(random() % static_cast<uint32_t>(length)));
        cache.Keep(layer, head, kept, 1);
      }
    }
    AppendMarked(cache, 1);
    EncodeAll(cache);
    for (int64_t head = 0; head < 2; ++head) {
      EXPECT_EQ(cache.Length(1, head), 100);
      EXPECT_LT(100 - cache.EncodedLength(1, head), 32);
      const auto tokens = cache.EntryTokens(1, head).first(static_cast<size_t>(cache.EncodedLength(1, head)));
      ASSERT_EQ(Codes(cache, 1, head), Expected(cache, tokens, head));
    }
  }
}

TEST(KvEncodingDeath, AGroupOverEntriesIsNotTornApart) {
  KvCache cache(Spec(Codec(4)));
  AppendMarked(cache, 64);
  EncodeAll(cache);
  std::vector<int32_t> kept(63);
  std::iota(kept.begin(), kept.end(), 0);
  EXPECT_DEATH(cache.Keep(0, 0, kept), "63 of 64 encoded entries");
}

TEST(KvEncoding, AForkSharesCodesAndGoesItsOwnWay) {
  KvCache cache(Spec(Codec(4)));
  AppendMarked(cache, 300);
  EncodeAll(cache);
  KvCache fork = cache.Fork(300);
  EXPECT_EQ(fork.Head(0, 0).segments[0].keys, cache.Head(0, 0).segments[0].keys);
  EXPECT_EQ(Numbers(fork, 0, 0), Numbers(cache, 0, 0));
  for (int step = 0; step < 50; ++step) {
    AppendMarked(fork, 1);
    EncodeAll(fork);
  }
  EXPECT_EQ(fork.EncodedLength(0, 0), 320);
  EXPECT_EQ(fork.Head(0, 0).segments[0].keys, cache.Head(0, 0).segments[0].keys);  // still shared
  ExpectEncoded(fork, 320);
  ExpectEncoded(cache, 288);
  // Inside a block: the rest of it becomes plain, whole blocks stay shared.
  KvCache shorter = cache.Fork(150);
  EXPECT_EQ(shorter.EncodedLength(1, 1), 128);
  const std::vector<float> all = Numbers(cache, 1, 1), some = Numbers(shorter, 1, 1);
  ASSERT_EQ(some.size(), 150U * 2 * kDim);
  EXPECT_TRUE(std::equal(some.begin(), some.end(), all.begin()));
  KvCache outlives = cache.Fork(300);
  cache = KvCache(Spec(Codec(4)));
  AppendMarked(outlives, 40);
  EncodeAll(outlives);
  ExpectEncoded(outlives, 320);
}

TEST(KvEncoding, TruncatesInsideABlock) {
  for (const KvGroupAxis axis : {KvGroupAxis::kChannel, KvGroupAxis::kToken}) {
    KvCache cache(Spec(Codec(8, axis)));
    AppendMarked(cache, 300);
    EncodeAll(cache);
    const std::vector<float> whole = Numbers(cache, 0, 0);
    const int64_t bytes = cache.AllocatedBytes();
    for (const int64_t left : {299, 290, 288, 145, 20, 0}) {
      cache.Truncate(left);
      EXPECT_EQ(cache.Length(0, 0), left);
      const std::vector<float> numbers = Numbers(cache, 0, 0);
      ASSERT_EQ(numbers.size(), static_cast<size_t>(left * 2 * kDim));
      EXPECT_TRUE(std::equal(numbers.begin(), numbers.end(), whole.begin()));
      EXPECT_LE(cache.AllocatedBytes(), bytes);
    }
    EXPECT_EQ(cache.AllocatedBytes(), 0);
    AppendMarked(cache, 64);
    EncodeAll(cache);
    ExpectEncoded(cache, 64);
  }
}

TEST(KvEncoding, WhatF16DoesNotHoldIsNamedAndNothingIsLost) {
  KvCache cache(Spec(Codec(4), KvFormat::kF32));
  cache.AddTokens(32);
  Matrix<float> keys(32, 2 * kDim), values(32, 2 * kDim);
  std::fill_n(keys.data(), keys.rows() * keys.cols(), 1.0F);
  std::fill_n(values.data(), values.rows() * values.cols(), 1.0F);
  values.Row(7)[kDim + 3] = 70000;
  cache.Append(1, keys.View(), values.View(), 0);
  const int64_t bytes = cache.AllocatedBytes();
  try {
    cache.Encode(1);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("layer 1, KV head 1: "), std::string::npos) << error.what();
  }
  EXPECT_EQ(cache.EncodedLength(1, 1), 0);
  EXPECT_EQ(cache.Length(1, 1), 32);
  EXPECT_LT(cache.AllocatedBytes(), bytes);  // the first head's
}

}  // namespace
}  // namespace purekv
