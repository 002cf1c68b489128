// A cache whose entries lie in a file: they are what they were, whatever happens to them, and memory holds what it may.
#include "cache/kv_store.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <random>
#include <vector>

#include "attention/kv_rows.h"
#include "base/matrix.h"
#include "cache/kv_cache.h"
#include "policy/retrieval.h"
#include "purekv/error.h"
#include "support/cache_numbers.h"

namespace purekv {
namespace {

constexpr int64_t kHeads = 2, kDim = 16;

struct Form {
  KvFormat format = KvFormat::kF32;
  int bits = 0;
};

KvCacheSpec SpecOf(const Form& form) {
  KvLayerSpec layer{kHeads, kDim, form.format};
  if (form.bits > 0) {
    layer.codec = {
        .keys = {form.bits, KvGroupAxis::kChannel, 32}, .values = {form.bits, KvGroupAxis::kToken, 16}, .residual = 32};
  }
  return KvCacheSpec({layer, layer});
}

void AppendRandom(KvCache& cache, int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  const int64_t first = cache.AddTokens(count);
  for (int64_t layer = 0; layer < 2; ++layer) {
    Matrix<float> keys(count, kHeads * kDim), values(count, kHeads * kDim);
    for (int64_t i = 0; i < keys.size(); ++i) keys.data()[i] = normal(random), values.data()[i] = normal(random);
    cache.Append(layer, keys.View(), values.View(), first);
    cache.Encode(layer);
  }
}

std::shared_ptr<KvStore> Store(int64_t resident = int64_t{1} << 20) {
  return std::make_shared<KvStore>(std::filesystem::temp_directory_path().string(), resident);
}

void ExpectSame(const KvCache& a, const KvCache& b) {
  for (int64_t layer = 0; layer < 2; ++layer) {
    for (int64_t head = 0; head < kHeads; ++head) {
      EXPECT_EQ(testing::Numbers(a, layer, head), testing::Numbers(b, layer, head)) << layer << ", " << head;
    }
  }
}

std::vector<Form> Forms() {
  return {{KvFormat::kF32, 0}, {KvFormat::kBF16, 0}, {KvFormat::kF32, 8}, {KvFormat::kBF16, 4}};
}

TEST(KvStore, EntriesAreWhatTheyWereInMemory) {
  for (const Form& form : Forms()) {
    SCOPED_TRACE(form.bits);
    KvCache stored(SpecOf(form)), plain(SpecOf(form));
    stored.KeepIn(Store());
    for (uint32_t round = 0; round < 6; ++round) {
      for (KvCache* cache : {&stored, &plain}) AppendRandom(*cache, 61, round);
      stored.Store(0, 1);
      if (round % 2 == 0) stored.Store(1, 40);
      ExpectSame(stored, plain);
    }
    EXPECT_GT(stored.StoredBytes(), 0);
    EXPECT_LT(stored.AllocatedBytes() - stored.StoredBytes(), plain.AllocatedBytes());
    // A fork reads the same file; what each does later is its own.
    KvCache fork = stored.Fork(300), plain_fork = plain.Fork(300);
    ExpectSame(fork, plain_fork);
    for (KvCache* cache : {&fork, &plain_fork}) AppendRandom(*cache, 50, 77);
    fork.Store(0, 1);
    fork.Store(1, 1);
    ExpectSame(fork, plain_fork);
    ExpectSame(stored, plain);
    // Cut short, in the middle of a stretch too, and grown again.
    for (const int64_t tokens : {333, 250, 61, 7}) {
      for (KvCache* cache : {&stored, &plain}) {
        cache->Truncate(tokens);
        AppendRandom(*cache, 20, static_cast<uint32_t>(tokens));
      }
      stored.Store(0, 1);
      ExpectSame(stored, plain);
    }
    // Who keeps some takes them back into memory.
    std::vector<int32_t> all;
    for (int32_t i = 0; i < 27; ++i) all.push_back(i);
    for (KvCache* cache : {&stored, &plain}) {
      cache->Decode(0);
      cache->Keep(0, 1, std::vector<int32_t>{1, 4, 5, 20});
    }
    ExpectSame(stored, plain);
  }
}

// Some entries of each head, copied to memory block by block.
TEST(KvStore, FetchesWhatIsAskedForAndHoldsNoMore) {
  constexpr int64_t kTokens = 2500;
  for (const Form& form : Forms()) {
    SCOPED_TRACE(form.bits);
    const int64_t kResident = (form.bits > 0 ? 64 : 160) << 10;
    KvCache stored(SpecOf(form)), plain(SpecOf(form));
    stored.KeepIn(Store(kResident));
    for (KvCache* cache : {&stored, &plain}) AppendRandom(*cache, kTokens, 5);
    stored.Store(0, 1);
    std::mt19937 random(9);
    int64_t read = 0;
    for (int round = 0; round < 60; ++round) {
      std::vector<KvHeadView> some = stored.Heads(0), want = plain.Heads(0);
      std::vector<std::vector<KvSegment>> segments(kHeads), want_segments(kHeads);
      for (size_t head = 0; head < kHeads; ++head) {
        EntryRanges ranges;
        for (int64_t at = static_cast<int64_t>(random() % 700); at < kTokens;) {
          const int64_t end = std::min<int64_t>(kTokens, at + 1 + static_cast<int64_t>(random() % 20));
          ranges.push_back({at, end});
          at = end + 1 + static_cast<int64_t>(random() % 900);
        }
        some[head] = ViewOf(some[head], ranges, &segments[head]);
        want[head] = ViewOf(want[head], ranges, &want_segments[head]);
      }
      stored.Fetch(0, &some, &segments);
      EXPECT_LE(stored.FetchedBytes(), kResident);
      for (size_t head = 0; head < kHeads; ++head) {
        const auto bytes = static_cast<size_t>(want[head].length) * kDim * DtypeSize(want[head].dtype());
        ASSERT_EQ(some[head].length, want[head].length);
        std::vector<char> keys(bytes);
        std::memcpy(keys.data(), KeyRowsOf(want[head], 0, want[head].length), bytes);
        EXPECT_EQ(0, std::memcmp(keys.data(), KeyRowsOf(some[head], 0, some[head].length), bytes));
        std::memcpy(keys.data(), ValueRowsOf(want[head], 0, want[head].length), bytes);
        EXPECT_EQ(0, std::memcmp(keys.data(), ValueRowsOf(some[head], 0, some[head].length), bytes));
      }
      EXPECT_GT(stored.ReadBytes(), read);
      read = stored.ReadBytes();
      // The same again comes from memory.
      std::vector<KvHeadView> again = stored.Heads(0);
      for (size_t head = 0; head < kHeads; ++head) again[head] = ViewOf(again[head], {{40, 60}}, &segments[head]);
      stored.Fetch(0, &again, &segments);
      const int64_t once = stored.ReadBytes();
      stored.Fetch(0, &again, &segments);
      EXPECT_EQ(stored.ReadBytes(), once);
      read = once;
    }
    // More than may be held at once.
    std::vector<KvHeadView> all = stored.Heads(0);
    std::vector<std::vector<KvSegment>> segments(kHeads);
    for (size_t head = 0; head < kHeads; ++head) all[head] = ViewOf(all[head], {{0, kTokens - 1}}, &segments[head]);
    EXPECT_THROW(stored.Fetch(0, &all, &segments), Error);
  }
}

// What was cut off and written anew may be mapped where the old stretch was: no copy of that is given out.
TEST(KvStore, ACopyIsOfItsOwnStretch) {
  KvCache stored(SpecOf({})), plain(SpecOf({}));
  stored.KeepIn(Store());
  for (KvCache* cache : {&stored, &plain}) AppendRandom(*cache, 64, 1);
  stored.Store(0, 1);
  for (uint32_t round = 0; round < 6; ++round) {
    for (KvCache* cache : {&stored, &plain}) {
      cache->Truncate(64);
      AppendRandom(*cache, 48, 100 + round);
    }
    stored.Store(0, 1);
    std::vector<KvHeadView> some = stored.Heads(0);
    std::vector<std::vector<KvSegment>> segments(kHeads);
    for (size_t head = 0; head < kHeads; ++head) some[head] = ViewOf(some[head], {{10, 111}}, &segments[head]);
    stored.Fetch(0, &some, &segments);
    for (size_t head = 0; head < kHeads; ++head) {
      const auto* const got = static_cast<const float*>(KeyRowsOf(some[head], 0, 101));
      const auto* const want = static_cast<const float*>(plain.Head(0, static_cast<int64_t>(head)).KeyRow(10));
      EXPECT_EQ(0, std::memcmp(got, want, 101 * kDim * sizeof(float))) << round;
    }
  }
}

TEST(KvStore, BytesInMemoryAreWhatIsNotInTheFile) {
  KvCache cache(SpecOf({KvFormat::kBF16, 0}));
  cache.KeepIn(Store());
  AppendRandom(cache, 20'000, 3);
  const int64_t before = cache.AllocatedBytes();
  cache.Store(0, 1);
  cache.Store(1, 1);
  EXPECT_EQ(cache.StoredBytes(), 2 * kHeads * 20'000 * cache.spec()[0].entry_bytes());
  EXPECT_LE(cache.AllocatedBytes(), before);
  EXPECT_EQ(cache.AllocatedBytes() - cache.StoredBytes(), 0);  // 20,000 is a multiple of a block
  AppendRandom(cache, 17, 4);
  cache.Store(0, 1000);  // too few
  EXPECT_LT(cache.AllocatedBytes() - cache.StoredBytes(), 2 * kHeads * 4 * 4096);
}

TEST(KvStore, ADirectoryThatIsNone) {
  EXPECT_THROW(KvStore("/nonexistent/directory", 1), Error);
  KvStore gone("/proc", 1 << 20);  // where nobody makes files
  const std::vector<std::byte> bytes(100);
  const std::span<const std::byte> pieces[] = {bytes};
  try {
    gone.Append(pieces);
    ADD_FAILURE() << "a file in /proc";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("/proc: cannot make a file"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace purekv
