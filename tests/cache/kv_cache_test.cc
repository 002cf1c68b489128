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
  const KvLayerSpec& shape = cache.spec()[0];
  const int64_t first = cache.AddTokens(count);
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
  for (int64_t layer = 0; layer < cache.spec().layers(); ++layer) {
    if (cache.spec()[layer].reads_layer < 0) cache.Append(layer, keys.View(), values.View(), first);
  }
}

float At(const void* row, KvFormat format, int64_t index) {
  return format == KvFormat::kF32 ? static_cast<const float*>(row)[index]
                                  : ToFloat(static_cast<const BF16*>(row)[index]);
}

void ExpectMarked(const KvCache& cache) {
  for (int64_t layer = 0; layer < cache.spec().layers(); ++layer) {
    const KvLayerSpec& shape = cache.spec()[layer];
    for (int64_t head = 0; head < shape.kv_heads; ++head) {
      const KvHeadView view = cache.Head(layer, head);
      const auto tokens = cache.EntryTokens(layer, head);
      ASSERT_EQ(view.length, static_cast<int64_t>(tokens.size()));
      for (int64_t i = 0; i < view.length; ++i) {
        for (int64_t d = 0; d < shape.head_dim; ++d) {
          const int64_t token = tokens[static_cast<size_t>(i)];
          ASSERT_EQ(At(view.KeyRow(i), view.format, d), Mark(token, head, d, false));
          ASSERT_EQ(At(view.ValueRow(i), view.format, d), Mark(token, head, d, true));
        }
      }
    }
  }
}

TEST(KvCache, HoldsWhatIsAppendedInAnyPieces) {
  for (const KvFormat format : {KvFormat::kF32, KvFormat::kBF16}) {
    KvCache cache(KvCacheSpec::Uniform(3, 2, 20, format));
    for (const int64_t count : {1, 1, 5, 64, 1, 300, 2}) AppendMarked(cache, count);
    EXPECT_EQ(cache.tokens(), 374);
    ExpectMarked(cache);
  }
}

TEST(KvCache, KeepsRaggedHeadsAndGivesMemoryBack) {
  KvCache cache(KvCacheSpec::Uniform(2, 3, 64, KvFormat::kBF16));
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
  KvCache cache(KvCacheSpec::Uniform(2, 2, 16, KvFormat::kF32));
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
  const auto spec = KvCacheSpec::Uniform(4, 2, 128, KvFormat::kBF16);
  KvCache cache(spec);
  for (int64_t layer = 0; layer < spec.layers(); ++layer) cache.Reserve(layer, 1000);
  AppendMarked(cache, 1000);
  EXPECT_EQ(cache.AllocatedBytes(), KvCache::FullBytes(spec, 1000));
  const int64_t exact = 1000 * spec.token_bytes();
  EXPECT_GE(cache.AllocatedBytes(), exact);
  EXPECT_LE(cache.AllocatedBytes(), exact + 4 * 2 * 2 * 4096);
  EXPECT_EQ(KvCache::FullBytes(spec, 0), 0);
}

// Heads of `from`, up to `tokens`, shown to a cache of its own from memory that `alive` counts the users of.
KvCache Viewing(const KvCache& from, const std::shared_ptr<const void>& alive) {
  KvCache cache(from.spec());
  cache.AddTokens(from.tokens());
  for (int64_t layer = 0; layer < from.spec().layers(); ++layer) {
    for (int64_t head = 0; head < from.spec()[layer].kv_heads; ++head) {
      const KvHeadView view = from.Head(layer, head);
      cache.View(layer, head, from.EntryTokens(layer, head), {.keys = view.keys, .values = view.values}, alive, {});
    }
  }
  return cache;
}

TEST(KvCache, ViewedHeadsAreCopiedWhenTheyChange) {
  for (const KvFormat format : {KvFormat::kF32, KvFormat::kBF16}) {
    const auto spec = KvCacheSpec::Uniform(2, 2, 16, format);
    KvCache source(spec);
    AppendMarked(source, 300);
    source.Keep(0, 1, std::vector<int32_t>{0, 10, 49, 299});
    source.Keep(1, 0, {});  // nothing to view
    const auto alive = std::make_shared<int>(0);
    const int64_t entry = spec[0].entry_bytes();
    const int64_t exact = (300 + 4 + 300) * entry;
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

    KvCache fork = cache.Fork(300);
    EXPECT_EQ(alive.use_count(), 4);  // the same three heads
    AppendMarked(cache, 3);
    EXPECT_EQ(alive.use_count(), 4);  // the fork's
    EXPECT_NE(cache.Head(0, 0).keys, source.Head(0, 0).keys);
    ExpectMarked(cache);
    EXPECT_GT(cache.PeakBytes(), cache.AllocatedBytes());
    EXPECT_LT(cache.AllocatedBytes(), exact + 8 * 4096 + 8 * 40 * entry);

    fork.Keep(0, 1, std::vector<int32_t>{1, 3});
    fork.Truncate(200);
    EXPECT_EQ(fork.Length(0, 0), 200);
    EXPECT_EQ(fork.Length(0, 1), 1);
    EXPECT_EQ(alive.use_count(), 3);  // two heads are shorter, where they lie
    ExpectMarked(fork);
    EXPECT_EQ(source.Length(0, 1), 4);
    ExpectMarked(source);
  }
}

TEST(KvCache, TruncationLeadsBackWhileNothingIsRemoved) {
  KvCache cache(KvCacheSpec::Uniform(2, 2, 16, KvFormat::kF32));
  AppendMarked(cache, 500);
  cache.Keep(0, 1, std::vector<int32_t>{0, 10, 49});
  const int64_t removed = cache.removed();
  EXPECT_EQ(removed, 497);
  cache.Truncate(500);
  const int64_t bytes = cache.AllocatedBytes();
  AppendMarked(cache, 700);
  EXPECT_EQ(cache.removed(), removed);
  cache.Truncate(500);
  EXPECT_LE(cache.AllocatedBytes(), bytes);
  ExpectMarked(cache);
}

// Whether the entries of a head are read from the same memory in both.
bool Shares(const KvCache& a, const KvCache& b, int64_t layer, int64_t head, int64_t entry) {
  return a.Head(layer, head).KeyRow(entry) == b.Head(layer, head).KeyRow(entry);
}

TEST(KvCache, AForkCopiesOnlyWhatItChanges) {
  for (const KvFormat format : {KvFormat::kF32, KvFormat::kBF16}) {
    KvCache cache(KvCacheSpec::Uniform(2, 2, 80, format));
    AppendMarked(cache, 700);
    KvCache fork = cache.Fork(500);
    EXPECT_EQ(fork.tokens(), 500);
    EXPECT_EQ(fork.Length(1, 1), 500);
    EXPECT_TRUE(Shares(fork, cache, 0, 0, 0));
    EXPECT_TRUE(fork.Head(0, 0).contiguous());
    ExpectMarked(fork);
    // Few stay: only they are copied, into as much memory as a head of so few takes.
    fork.Keep(0, 0, std::vector<int32_t>{0, 7, 499});
    fork.Keep(0, 1, std::vector<int32_t>{3});
    std::vector<int32_t> nearly(499);
    std::iota(nearly.begin(), nearly.end(), 1);
    fork.Keep(1, 0, nearly);
    EXPECT_EQ(fork.removed(), 497 + 499 + 1);
    ExpectMarked(fork);
    AppendMarked(fork, 40);  // behind what is shared, in a segment of its own
    EXPECT_TRUE(Shares(fork, cache, 1, 1, 499));
    EXPECT_FALSE(fork.Head(1, 1).contiguous());
    EXPECT_TRUE(fork.Head(0, 0).contiguous());
    EXPECT_EQ(fork.Length(1, 1), 540);
    ExpectMarked(fork);
    // The first cache goes on in its own way.
    AppendMarked(cache, 30);
    EXPECT_EQ(cache.Length(0, 0), 730);
    ExpectMarked(cache);
    ExpectMarked(fork);
    // A fork of the fork, over both segments; evicting over both puts what stays together.
    KvCache twice = fork.Fork(520);
    AppendMarked(twice, 7);
    ExpectMarked(twice);
    ExpectMarked(fork);
    std::vector<int32_t> every_third;
    for (int32_t i = 0; i < twice.Length(1, 1); i += 3) every_third.push_back(i);
    twice.Keep(1, 1, every_third);
    EXPECT_TRUE(twice.Head(1, 1).contiguous());
    ExpectMarked(twice);
    fork.Truncate(510);
    ExpectMarked(fork);
    fork.Truncate(400);  // inside what is shared
    EXPECT_EQ(fork.Length(1, 1), 400);
    EXPECT_TRUE(Shares(fork, cache, 1, 1, 399));
    AppendMarked(fork, 3);
    ExpectMarked(fork);
    ExpectMarked(cache);
  }
}

TEST(KvCache, ASmallHeadIsCopiedWhenItGrows) {
  KvCache cache(KvCacheSpec::Uniform(1, 2, 16, KvFormat::kF32));
  AppendMarked(cache, 300);
  KvCache fork = cache.Fork(300);
  EXPECT_TRUE(Shares(fork, cache, 0, 0, 0));
  fork.Reserve(0, 20);
  AppendMarked(fork, 20);
  EXPECT_TRUE(fork.Head(0, 0).contiguous());
  EXPECT_FALSE(Shares(fork, cache, 0, 0, 0));
  EXPECT_EQ(fork.AllocatedBytes(), KvCache::FullBytes(cache.spec(), 320));
  EXPECT_EQ(fork.PeakBytes(), fork.AllocatedBytes());
  ExpectMarked(fork);
  ExpectMarked(cache);
}

TEST(KvCache, ForksOfViewedHeadsGrowBehindThem) {
  KvCache source(KvCacheSpec::Uniform(1, 1, 64, KvFormat::kBF16));
  AppendMarked(source, 4000);
  const auto alive = std::make_shared<int>(0);
  const KvCache cache = Viewing(source, alive);
  for (int fork = 0; fork < 2; ++fork) {
    KvCache one = cache.Fork(4000);
    const int64_t shared = one.AllocatedBytes();
    AppendMarked(one, 1);
    EXPECT_TRUE(Shares(one, source, 0, 0, 0));
    EXPECT_EQ(one.AllocatedBytes() - shared, KvCache::FullBytes(cache.spec(), 16));
    EXPECT_EQ(alive.use_count(), 2);
    ExpectMarked(one);
    one.Keep(0, 0, std::vector<int32_t>{3, 3999, 4000});
    ExpectMarked(one);
    one.Truncate(4000);
    EXPECT_EQ(one.Length(0, 0), 2);
    ExpectMarked(one);
  }
}

TEST(KvCache, AForkOutlivesWhatItCameFromAndGrowsInPlaceThen) {
  KvCache fork(KvCacheSpec::Uniform(1, 1, 64, KvFormat::kBF16));
  const void* keys = nullptr;
  {
    KvCache cache(fork.spec());
    AppendMarked(cache, 1000);
    fork = cache.Fork(1000);
    keys = cache.Head(0, 0).keys;
  }
  EXPECT_EQ(fork.Head(0, 0).keys, keys);
  ExpectMarked(fork);
  AppendMarked(fork, 5);
  EXPECT_TRUE(fork.Head(0, 0).contiguous());
  ExpectMarked(fork);
}

TEST(KvCache, WhatAForkHoldsCountsAsIfItWereAlone) {
  const auto spec = KvCacheSpec::Uniform(1, 2, 64, KvFormat::kF32);
  KvCache cache(spec);
  cache.Reserve(0, 1000);
  AppendMarked(cache, 1000);
  KvCache fork = cache.Fork(1000);
  EXPECT_EQ(fork.AllocatedBytes(), KvCache::FullBytes(spec, 1000));
  fork.Keep(0, 0, std::vector<int32_t>{5});
  fork.Keep(0, 1, std::vector<int32_t>{6});
  EXPECT_EQ(fork.AllocatedBytes(), KvCache::FullBytes(spec, 1));
  EXPECT_EQ(fork.PeakBytes(), KvCache::FullBytes(spec, 1000));
  EXPECT_EQ(cache.AllocatedBytes(), KvCache::FullBytes(spec, 1000));
  // Layer by layer it is what reading would have taken.
  const auto two = KvCacheSpec::Uniform(2, 1, 64, KvFormat::kF32);
  KvCache full(two);
  AppendMarked(full, 1000);
  KvCache cut(two);
  cut.AddTokens(1000);
  for (int64_t layer = 0; layer < 2; ++layer) {
    cut.ShareLayer(full, layer);
    cut.Keep(layer, 0, std::vector<int32_t>{1, 2, 3});
  }
  EXPECT_LT(cut.PeakBytes(), KvCache::FullBytes(two, 1000));
  ExpectMarked(cut);
}

TEST(KvCache, WhatGrowsBehindAForkTakesRoomForItselfAlone) {
  // Long enough not to be copied; a sixteenth of it would be 250 entries.
  KvCache cache(KvCacheSpec::Uniform(1, 1, 64, KvFormat::kBF16));
  AppendMarked(cache, 4000);
  KvCache fork = cache.Fork(4000);
  const int64_t shared = fork.AllocatedBytes();
  AppendMarked(fork, 1);
  EXPECT_EQ(fork.AllocatedBytes() - shared, KvCache::FullBytes(cache.spec(), 16));
  ExpectMarked(fork);
}

TEST(KvCache, LayersMayDifferAndReadOneAnother) {
  const KvCacheSpec spec({{2, 16, KvFormat::kF32}, {2, 16, KvFormat::kBF16}, {2, 16, KvFormat::kF32, 0, 0}});
  EXPECT_FALSE(spec.uniform());
  EXPECT_EQ(spec.token_bytes(), 2 * 2 * 16 * 4 + 2 * 2 * 16 * 2);
  KvCache cache(spec);
  AppendMarked(cache, 100);
  ExpectMarked(cache);
  EXPECT_EQ(cache.Head(2, 1).keys, cache.Head(0, 1).keys);
  EXPECT_EQ(cache.Head(1, 0).format, KvFormat::kBF16);
  EXPECT_EQ(cache.AllocatedBytes(), KvCache::FullBytes(spec, 100));
  EXPECT_EQ(cache.MeanLength(), 100);
  const KvCache fork = cache.Fork(60);
  EXPECT_EQ(fork.Length(2, 0), 60);
  ExpectMarked(fork);
}

TEST(KvCacheDeath, BrokenUseStopsWithNumbers) {
  KvCache cache(KvCacheSpec::Uniform(1, 1, 8, KvFormat::kF32));
  AppendMarked(cache, 3);
  EXPECT_DEATH(cache.Keep(0, 0, std::vector<int32_t>{2, 1}), "entry 1 after 2");
  EXPECT_DEATH(cache.Head(1, 0), "layer 1 head 0");
}

// Rows of chosen tokens, as a layer gets them when others were dropped before it.
TEST(KvCache, AppendsChosenTokens) {
  KvCache cache(KvCacheSpec::Uniform(1, 2, 4, KvFormat::kF32));
  cache.AddTokens(10);
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
