// --kv-bytes is a cap on what is allocated: through the real cache and compression, over random shapes, sizes,
// allocators, policies and chunks; and one token more would not have fitted.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <regex>

#include "policy/policy_testing.h"
#include "purekv/error.h"

namespace purekv::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr int64_t kPart = 101;  // a prime: the last chunk is short
constexpr int64_t kSteps = 40;

// What a run allocates: the most at any moment with chunks, else behind the cut; the most while decoding where the
// policy holds.
struct Ran {
  int64_t base = 0, bytes = 0;
};

Ran Measure(const Problem& problem, const KvOptions& options, Dtype dtype) {
  SmallEngine engine(problem, options, 16, dtype);
  Ran ran;
  ran.base = engine.compression.SetPrefix(kPart);
  const int64_t chunk = options.chunk > 0 ? options.chunk : kPart;
  for (int64_t row = 0; row < kPart; row += chunk) engine.ReadChunk(std::min(chunk, kPart - row));
  ran.bytes = options.chunk > 0 ? engine.cache.PeakBytes() : engine.cache.AllocatedBytes();
  if (!engine.compression.holds()) return ran;
  engine.cache.RestartPeak();
  for (int64_t i = 0; i < kSteps; ++i) engine.Step();
  ran.bytes = std::max(ran.bytes, engine.cache.PeakBytes());
  return ran;
}

bool TakesChunks(const KvOptions& options, const Problem& problem) {
  try {
    SmallEngine engine(problem, options);
  } catch (const Error&) {
    return false;
  }
  return true;
}

std::string Refusal(const Problem& problem, const KvOptions& options, Dtype dtype) {
  try {
    SmallEngine(problem, options, 16, dtype).compression.SetPrefix(kPart);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), Error::Kind::kUsage);
    return error.what();
  }
  return "";
}

// The number behind `flag` at its last place in `text`; -1: none.
int64_t NumberBehind(const std::string& text, const std::string& flag) {
  const size_t at = text.rfind(flag + " ");
  return at == text.npos ? -1 : std::stoll(text.substr(at + flag.size() + 1));
}

// A budget that is refused, together with one that the message says would do.
void ExpectTheLeastIsNamed(const Problem& problem, KvOptions options, Dtype dtype) {
  const std::string says = Refusal(problem, options, dtype);
  ASSERT_NE(says, "");
  const int64_t chunk = options.chunk > 0 ? NumberBehind(says, "kv.chunk") : -1;
  if (chunk > 0) {
    KvOptions smaller = options;
    smaller.chunk = chunk;
    EXPECT_EQ(Refusal(problem, smaller, dtype), "");
    EXPECT_LE(Measure(problem, smaller, dtype).bytes, *options.bytes);
    smaller.chunk = chunk + 1;
    EXPECT_NE(Refusal(problem, smaller, dtype), "") << says;
  }
  std::smatch least;
  ASSERT_TRUE(std::regex_search(says, least,
                                std::regex(options.chunk > 0 ? R"(kv\.bytes (\d+).*kv\.bytes (\d+))"
                                                             : R"(kv\.bytes (\d+).*; (\d+) is the least)")))
      << says;
  EXPECT_EQ(std::stoll(least[1]), *options.bytes);
  options.bytes = std::stoll(least[2]);
  EXPECT_EQ(Refusal(problem, options, dtype), "");
  EXPECT_LE(Measure(problem, options, dtype).bytes, *options.bytes);
  --*options.bytes;
  EXPECT_NE(Refusal(problem, options, dtype), "") << says;
}

TEST(Cap, NoRunAllocatesMoreAndOneTokenMoreWould) {
  std::mt19937 random(1);
  const auto pick = [&](const std::vector<int64_t>& from) { return from[random() % from.size()]; };
  int fitted = 0, refused = 0;
  for (uint32_t round = 0; round < 10; ++round) {
    const Problem problem({.layers = pick({1, 2, 3, 5}),
                           .kv_heads = pick({1, 2, 3}),
                           .group = 2,
                           .head_dim = pick({4, 10, 32, 64, 128}),
                           .tokens = kPart + kSteps},
                          round);
    const Dtype dtype = round % 2 == 0 ? Dtype::kF32 : Dtype::kBF16;
    const KvCacheSpec spec = SmallEngine::Spec(problem, dtype);
    for (const PolicyInfo& policy : Policies()) {
      if (!policy.make) continue;
      for (const char* const allocator : {"uniform", "pyramid", "ada", "prefix"}) {
        if (std::string(allocator) == "ada" && !policy.ada) continue;
        if (std::string(allocator) == "prefix" && (!policy.mass || policy.name == "purekv")) continue;
        if (std::string(allocator) != "uniform" && policy.repeats) continue;
        KvOptions options = Options(policy.name, {}, allocator);
        if (policy.name == "purekv" && round % 3 > 0) options.options = {{"window", "9"}, {"below", "wait"}};
        const int64_t full = KvCache::FullBytes(spec, kPart);
        options.bytes = full / 50 + static_cast<int64_t>(random() % static_cast<uint64_t>(full * 11 / 10));
        options.chunk = pick({0, 0, 1, 5, 10, 33, 50, 100, 101, 400});
        if (!TakesChunks(options, problem)) options.chunk = 0;
        SCOPED_TRACE(StrCat(policy.name, " ", allocator, ", ", spec.layers(), " x ", spec[0].kv_heads, " x ",
                            spec[0].head_dim, " ", DtypeName(dtype), ", ", *options.bytes, " of ", full, ", chunk ",
                            options.chunk));
        if (!Refusal(problem, options, dtype).empty()) {
          ++refused;
          ExpectTheLeastIsNamed(problem, options, dtype);
          continue;
        }
        ++fitted;
        const Ran ran = Measure(problem, options, dtype);
        EXPECT_LE(ran.bytes, *options.bytes);
        const bool bound = policy.repeats || policy.merges || !policy.merge.empty();  // as docs/policies.md says
        if (ran.base == kPart || std::string(allocator) == "ada" || std::string(allocator) == "prefix" || bound)
          continue;
        KvOptions more = options;
        more.bytes.reset();
        more.tokens = ran.base + 1;
        EXPECT_GT(Measure(problem, more, dtype).bytes, *options.bytes) << "B " << ran.base;
      }
    }
  }
  EXPECT_GT(fitted, 100);
  EXPECT_GT(refused, 10);
}

// Ada's heads may share out in any way: the bound holds for all of them, and is two pages of keys and of values from
// the worst.
TEST(Cap, SharedLayersAreBounded) {
  std::mt19937 random(2);
  for (int round = 0; round < 3000; ++round) {
    const int64_t heads = 1 + static_cast<int64_t>(random() % 6), dim = 1 + static_cast<int64_t>(random() % 160);
    const auto spec = KvCacheSpec::Uniform(1, heads, dim, KvFormat::kBF16);
    const int64_t tokens = 1 + static_cast<int64_t>(random() % 500);
    const int64_t base = 1 + static_cast<int64_t>(random() % static_cast<uint64_t>(tokens));
    const CappedPart part{spec, tokens, 0, true, false, {0}};
    const int64_t bound =
        CappedBytes(part, HeadCounts{std::vector<int64_t>(static_cast<size_t>(spec[0].kv_heads), base)});
    const auto head_bytes = [&](int64_t n) {
      return KvCache::FullBytes(KvCacheSpec::Uniform(1, 1, dim, KvFormat::kBF16), n);
    };
    // The worst split, head by head: most[s] for s entries so far.
    const auto sum = static_cast<size_t>(heads * base);
    if (sum > 300) continue;
    std::vector<int64_t> most(sum + 1, -1);
    most[0] = 0;
    for (int64_t head = 0; head < heads; ++head) {
      std::vector<int64_t> next(sum + 1, -1);
      for (size_t s = 0; s <= sum; ++s) {
        for (size_t n = 0; most[s] >= 0 && n <= static_cast<size_t>(tokens) && s + n <= sum; ++n) {
          next[s + n] = std::max(next[s + n], most[s] + head_bytes(static_cast<int64_t>(n)));
        }
      }
      most = next;
    }
    ASSERT_GE(bound, most[sum]) << heads << " x " << dim << ", " << base << " of " << tokens;
    ASSERT_LE(bound, most[sum] + 2 * heads * 64 + 4 * 4096)
        << heads << " x " << dim << ", " << base << " of " << tokens;
  }
}

TEST(Cap, RefusalsSayWhatWouldDo) {
  const Problem problem({.layers = 3, .kv_heads = 2, .head_dim = 64, .tokens = kPart}, 1);
  KvOptions options = Options("vnorm");
  options.bytes = 100;
  EXPECT_THAT(Refusal(problem, options, Dtype::kBF16),
              AllOf(HasSubstr("kv.bytes 100: "), HasSubstr("1536 is the least")));
  options.bytes = 20000;  // a chunk of 101 takes 4 pages of 3.2 each
  options.chunk = 500;
  EXPECT_THAT(Refusal(problem, options, Dtype::kBF16),
              AllOf(HasSubstr("kv.bytes 20000: "), HasSubstr("chunk of 101 tokens"), HasSubstr("kv.bytes 66560"),
                    HasSubstr("kv.chunk 31 ")));
  options.bytes = 1000;
  EXPECT_THAT(Refusal(problem, options, Dtype::kBF16), ::testing::Not(HasSubstr("kv.chunk")));
}

}  // namespace
}  // namespace purekv::testing
