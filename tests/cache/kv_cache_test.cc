// The ragged cache: contents, growth, compaction that gives memory back, rollback, byte counts.
#include "cache/kv_cache.h"

#include <gtest/gtest.h>

#include <memory>
#include <numeric>
#include <random>
#include <vector>

namespace purekv {
namespace {

// Value that names its place: token, head, dimension and K or V, exact in bf16.
float Mark(int64_t token, int64_t head, int64_t d, bool value) {
  return static_cast<float>((token * 7 + head * 3 + d + (value ? 1 : 0)) % 256);
}

void AppendMarked(KvCache& cache, int64_t count) {
  const KvCacheShape& shape = cache.shape();
  std::vector<Position> positions(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    const auto p = static_cast<int32_t>(cache.tokens() + i);
    positions[static_cast<size_t>(i)] = {p, p + 1, p + 2};
  }
  const int64_t first = cache.AddTokens(positions);
  Matrix<float> keys(count, shape.kv_heads * shape.head_dim);
  Matrix<float> values(count, shape.kv_heads * shape.head_dim);
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t head = 0; head < shape.kv_heads; ++head) {
      for (int64_t d = 0; d < shape.head_dim; ++d) {
        keys.Row(i)[head * shape.head_dim + d] = Mark(first + i, head, d, false);
        values.Row(i)[head * shape.head_dim + d] = Mark(first + i, head, d, true);
      }
    }
  }
  for (int64_t layer = 0; layer < shape.layers; ++layer) cache.Append(layer, keys.View(), values.View(), first);
}

float At(const void* data, Dtype dtype, int64_t index) {
  return dtype == Dtype::kF32 ? static_cast<const float*>(data)[index] : ToFloat(static_cast<const BF16*>(data)[index]);
}

void ExpectMarked(const KvCache& cache) {
  const KvCacheShape& shape = cache.shape();
  for (int64_t layer = 0; layer < shape.layers; ++layer) {
    for (int64_t head = 0; head < shape.kv_heads; ++head) {
      const KvHeadView view = cache.Head(layer, head);
      const auto tokens = cache.EntryTokens(layer, head);
      ASSERT_EQ(view.length, static_cast<int64_t>(tokens.size()));
      for (int64_t i = 0; i < view.length; ++i) {
        for (int64_t d = 0; d < shape.head_dim; ++d) {
          const int64_t token = tokens[static_cast<size_t>(i)];
          ASSERT_EQ(At(view.keys, view.dtype, i * view.key_stride + d), Mark(token, head, d, false));
          ASSERT_EQ(At(view.values, view.dtype, i * view.value_stride + d), Mark(token, head, d, true));
        }
      }
    }
  }
}

TEST(KvCache, HoldsWhatIsAppendedInAnyPieces) {
  for (const Dtype dtype : {Dtype::kF32, Dtype::kBF16}) {
    KvCache cache({3, 2, 20, dtype});
    for (const int64_t count : {1, 1, 5, 64, 1, 300, 2}) AppendMarked(cache, count);
    EXPECT_EQ(cache.tokens(), 374);
    EXPECT_EQ(cache.positions()[373], (Position{373, 374, 375}));
    ExpectMarked(cache);
  }
}

TEST(KvCache, KeepsRaggedHeadsAndGivesMemoryBack) {
  KvCache cache({2, 3, 64, Dtype::kBF16});
  AppendMarked(cache, 4000);
  const int64_t full = cache.AllocatedBytes();
  std::mt19937 random(7);
  for (int64_t layer = 0; layer < 2; ++layer) {
    for (int64_t head = 0; head < 3; ++head) {
      std::vector<int32_t> all(4000);
      std::iota(all.begin(), all.end(), 0);
      std::vector<int32_t> kept;
      std::sample(all.begin(), all.end(), std::back_inserter(kept), 100 * (1 + layer * 3 + head), random);
      cache.Keep(layer, head, kept);
      EXPECT_EQ(cache.Length(layer, head), static_cast<int64_t>(kept.size()));
    }
  }
  ExpectMarked(cache);
  EXPECT_LT(cache.AllocatedBytes(), full / 8);
  EXPECT_GE(cache.PeakBytes(), full);
  AppendMarked(cache, 3);  // later tokens go behind the kept ones
  ExpectMarked(cache);
  cache.Keep(0, 0, {});
  EXPECT_EQ(cache.Length(0, 0), 0);
}

TEST(KvCache, TruncateRollsATurnBack) {
  KvCache cache({2, 2, 16, Dtype::kF32});
  AppendMarked(cache, 50);
  cache.Keep(0, 1, std::vector<int32_t>{0, 10, 49});
  AppendMarked(cache, 20);
  cache.Truncate(45);
  EXPECT_EQ(cache.tokens(), 45);
  EXPECT_EQ(cache.Length(0, 0), 45);
  EXPECT_EQ(cache.Length(0, 1), 2);
  AppendMarked(cache, 4);
  ExpectMarked(cache);
}

TEST(KvCache, CountsRealBytes) {
  const KvCacheShape shape{4, 2, 128, Dtype::kBF16};
  KvCache cache(shape);
  for (int64_t layer = 0; layer < shape.layers; ++layer) cache.Reserve(layer, 1000);
  AppendMarked(cache, 1000);
  EXPECT_EQ(cache.AllocatedBytes(), KvCache::FullBytes(shape, 1000));
  const int64_t exact = 1000 * 4 * 2 * shape.entry_bytes();
  EXPECT_GE(cache.AllocatedBytes(), exact);
  EXPECT_LE(cache.AllocatedBytes(), exact + 4 * 2 * 2 * 4096);
  EXPECT_EQ(KvCache::FullBytes(shape, 0), 0);
}

// Heads of `from`, up to `tokens`, shown to a cache of its own from memory that `alive` counts the users of.
KvCache Viewing(const KvCache& from, const std::shared_ptr<const void>& alive) {
  KvCache cache(from.shape());
  cache.AddTokens(from.positions());
  for (int64_t layer = 0; layer < from.shape().layers; ++layer) {
    for (int64_t head = 0; head < from.shape().kv_heads; ++head) {
      const KvHeadView view = from.Head(layer, head);
      cache.View(layer, head, from.EntryTokens(layer, head), view.keys, view.values, alive);
    }
  }
  return cache;
}

TEST(KvCache, ViewedHeadsAreCopiedWhenTheyChange) {
  for (const Dtype dtype : {Dtype::kF32, Dtype::kBF16}) {
    const KvCacheShape shape{2, 2, 16, dtype};
    KvCache source(shape);
    AppendMarked(source, 300);
    source.Keep(0, 1, std::vector<int32_t>{0, 10, 49, 299});
    source.Keep(1, 0, {});  // nothing to view
    const auto alive = std::make_shared<int>(0);
    const int64_t exact = (300 + 4 + 300) * shape.entry_bytes();
    KvCache cache = Viewing(source, alive);
    EXPECT_EQ(alive.use_count(), 4);
    EXPECT_EQ(cache.AllocatedBytes(), exact);
    EXPECT_EQ(cache.Head(0, 0).keys, source.Head(0, 0).keys);
    cache.Keep(0, 0, [] {
      std::vector<int32_t> all(300);
      std::iota(all.begin(), all.end(), 0);
      return all;
    }());
    EXPECT_EQ(cache.Head(0, 0).keys, source.Head(0, 0).keys);  // nothing changed
    ExpectMarked(cache);

    KvCache clone = cache.Clone();
    EXPECT_EQ(alive.use_count(), 7);
    AppendMarked(cache, 3);
    EXPECT_EQ(alive.use_count(), 4);  // the clone's
    EXPECT_NE(cache.Head(0, 0).keys, source.Head(0, 0).keys);
    ExpectMarked(cache);
    EXPECT_GT(cache.PeakBytes(), cache.AllocatedBytes());
    EXPECT_LT(cache.AllocatedBytes(), exact + 8 * 4096 + 8 * 40 * shape.entry_bytes());

    clone.Keep(0, 1, std::vector<int32_t>{1, 3});
    clone.Truncate(200);
    EXPECT_EQ(clone.Length(0, 0), 200);
    EXPECT_EQ(clone.Length(0, 1), 1);
    EXPECT_EQ(alive.use_count(), 1);
    ExpectMarked(clone);
    EXPECT_EQ(source.Length(0, 1), 4);
    ExpectMarked(source);
  }
}

TEST(KvCache, ClonesAndTruncationLeadBack) {
  KvCache cache({2, 2, 16, Dtype::kF32});
  AppendMarked(cache, 500);
  cache.Keep(0, 1, std::vector<int32_t>{0, 10, 49});
  const int64_t removed = cache.removed();
  EXPECT_EQ(removed, 497);
  const KvCache clone = cache.Clone();
  EXPECT_LE(clone.AllocatedBytes(), cache.AllocatedBytes());
  const int64_t bytes = clone.AllocatedBytes();
  AppendMarked(cache, 700);
  EXPECT_EQ(cache.removed(), removed);
  cache.Truncate(500);
  EXPECT_EQ(cache.AllocatedBytes(), bytes);
  ExpectMarked(cache);
  ExpectMarked(clone);
  EXPECT_EQ(clone.tokens(), 500);
}

TEST(KvCache, AnAliasCopiesOnlyWhatItChanges) {
  for (const Dtype dtype : {Dtype::kF32, Dtype::kBF16}) {
    KvCache cache({2, 2, 16, dtype});
    AppendMarked(cache, 700);
    const KvCache before = cache.Clone();
    KvCache alias = cache.Alias(500);
    EXPECT_EQ(alias.tokens(), 500);
    EXPECT_EQ(alias.Length(1, 1), 500);
    EXPECT_EQ(alias.Head(0, 0).keys, cache.Head(0, 0).keys);
    ExpectMarked(alias);
    // Few stay: only they are copied, into as much memory as a head of so few takes.
    alias.Keep(0, 0, std::vector<int32_t>{0, 7, 499});
    alias.Keep(0, 1, std::vector<int32_t>{3});
    std::vector<int32_t> nearly(499);
    std::iota(nearly.begin(), nearly.end(), 1);
    alias.Keep(1, 0, nearly);
    EXPECT_EQ(alias.removed(), 497 + 499 + 1);
    ExpectMarked(alias);
    AppendMarked(alias, 40);  // copies what was still viewed
    EXPECT_NE(alias.Head(1, 1).keys, cache.Head(1, 1).keys);
    EXPECT_EQ(alias.Length(1, 1), 540);
    ExpectMarked(alias);
    alias.Truncate(500);
    ExpectMarked(alias);
    EXPECT_EQ(alias.Length(0, 0), 3);
    // An alias of an alias, and the first cache as it was.
    const KvCache twice = alias.Alias(8);
    EXPECT_EQ(twice.Length(0, 0), 2);
    ExpectMarked(twice);
    ExpectMarked(cache);
    EXPECT_EQ(cache.AllocatedBytes(), before.AllocatedBytes());
    EXPECT_EQ(cache.Length(0, 0), 700);
  }
}

TEST(KvCache, WhatAnAliasTakesIsCountedOnce) {
  const KvCacheShape shape{1, 2, 64, Dtype::kF32};
  KvCache cache(shape);
  AppendMarked(cache, 1000);
  KvCache alias = cache.Alias(1000);
  alias.SetPeak(0);
  alias.Keep(0, 0, std::vector<int32_t>{5});
  alias.Keep(0, 1, std::vector<int32_t>{6});
  EXPECT_EQ(alias.AllocatedBytes(), 2 * KvCache::FullBytes({1, 1, 64, Dtype::kF32}, 1));
  KvCache grown = cache.Alias(1000);
  grown.Reserve(0, 24);
  EXPECT_LT(grown.PeakBytes(), 2 * KvCache::FullBytes(shape, 1000));  // not the view and the copy
}

TEST(KvCacheDeath, BrokenUseStopsWithNumbers) {
  KvCache cache({1, 1, 8, Dtype::kF32});
  AppendMarked(cache, 3);
  EXPECT_DEATH(cache.Keep(0, 0, std::vector<int32_t>{2, 1}), "entry 1 after 2");
  EXPECT_DEATH(cache.Head(1, 0), "layer 1 head 0");
}

// Rows of chosen tokens, as a layer gets them when others were dropped before it.
TEST(KvCache, AppendsChosenTokens) {
  KvCache cache({.layers = 1, .kv_heads = 2, .head_dim = 4, .dtype = Dtype::kF32});
  cache.AddTokens(std::vector<Position>(10));
  const std::vector<std::vector<int32_t>> blocks = {{1, 4}, {5, 7, 9}};
  for (const auto& tokens : blocks) {
    Matrix<float> keys(static_cast<int64_t>(tokens.size()), 8), values(static_cast<int64_t>(tokens.size()), 8);
    for (int64_t i = 0; i < keys.rows(); ++i) {
      for (int64_t head = 0; head < 2; ++head) {
        for (int64_t d = 0; d < 4; ++d) {
          keys.Row(i)[head * 4 + d] = Mark(tokens[static_cast<size_t>(i)], head, d, false);
          values.Row(i)[head * 4 + d] = Mark(tokens[static_cast<size_t>(i)], head, d, true);
        }
      }
    }
    cache.Append(0, keys.View(), values.View(), tokens);
  }
  const auto tokens = cache.EntryTokens(0, 1);
  EXPECT_EQ(std::vector<int32_t>(tokens.begin(), tokens.end()), (std::vector<int32_t>{1, 4, 5, 7, 9}));
  ExpectMarked(cache);
  cache.Truncate(6);
  EXPECT_EQ(cache.Length(0, 0), 3);
  ExpectMarked(cache);
}

}  // namespace
}  // namespace purekv
