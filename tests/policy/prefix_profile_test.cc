// The allocator prefix by a profile: shares between budgets, counts within bounds, and what a compression makes of
// them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "policy/policy_testing.h"
#include "support/expect_error.h"

namespace purekv::testing {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Counts as real numbers: the scale by halving, in place of bounds that are set one after the other.
std::vector<double> PlainReal(const std::vector<double>& shares, double base, double tokens, double guarded) {
  const auto count = [&](double share, double scale) { return std::min(std::max(share * scale, guarded + 1), tokens); };
  double low = 0, high = 1e15;
  for (int round = 0; round < 400; ++round) {
    const double scale = (low + high) / 2;
    double sum = 0;
    for (const double share : shares) sum += count(share, scale);
    (sum < base * double(shares.size()) ? low : high) = scale;
  }
  std::vector<double> counts;
  for (const double share : shares) counts.push_back(count(share, high));
  return counts;
}

// The page's words where one bound is met only: set those beyond it, scale the rest again.
std::vector<double> InTurns(const std::vector<double>& shares, double base, double tokens, double guarded) {
  std::vector<double> counts(shares.size(), -1);
  for (bool changed = true; changed;) {
    changed = false;
    double left = base * double(shares.size()), sum = 0;
    for (size_t l = 0; l < shares.size(); ++l) counts[l] < 0 ? void(sum += shares[l]) : void(left -= counts[l]);
    std::vector<double> next = counts;
    for (size_t l = 0; l < shares.size(); ++l) {
      if (counts[l] >= 0) continue;
      const double one = shares[l] * left / sum;
      if (one > tokens) next[l] = tokens, changed = true;
      if (one < guarded + 1) next[l] = guarded + 1, changed = true;
    }
    if (!changed) {
      for (size_t l = 0; l < shares.size(); ++l) {
        if (counts[l] < 0) next[l] = shares[l] * left / sum;
      }
    }
    counts = next;
  }
  return counts;
}

std::vector<int64_t> Rounded(const std::vector<double>& counts) {
  std::vector<int64_t> rounded;
  double sum = 0;
  int64_t before = 0;
  for (const double count : counts) {
    sum += count;
    const auto up_to = int64_t(std::floor(sum + 0.5 + 1e-6));
    rounded.push_back(up_to - before);
    before = up_to;
  }
  return rounded;
}

TEST(ShareCounts, ByHand) {
  EXPECT_THAT(ShareCounts(std::vector<double>{0.1, 0.2, 0.3}, 20, 100, 5), ElementsAre(10, 20, 30));
  EXPECT_THAT(ShareCounts(std::vector<double>{0.2, 0.4, 0.6}, 20, 100, 5), ElementsAre(10, 20, 30));  // scaled
  EXPECT_THAT(ShareCounts(std::vector<double>{0.9, 0.1, 0.1}, 60, 100, 5), ElementsAre(100, 40, 40));
  EXPECT_THAT(ShareCounts(std::vector<double>{0.01, 0.5, 0.5}, 20, 100, 9), ElementsAre(10, 25, 25));
  EXPECT_THAT(ShareCounts(std::vector<double>{0.5, 0.5}, 3, 7, 2), ElementsAre(3, 3));
  EXPECT_THAT(ShareCounts(std::vector<double>{1, 1, 1, 1, 1, 1}, 1, 9, 0), Each(1));
  EXPECT_THAT(ShareCounts(std::vector<double>{0.5}, 4, 4, 3), ElementsAre(4));
  EXPECT_THAT(ShareCounts(std::vector<double>{0.25, 0.25, 0.5}, 2, 8, 0), ElementsAre(2, 1, 3));  // 1.5: halves up
  // Both bounds at once: setting both would leave 7 of the 18 to nobody.
  EXPECT_THAT(ShareCounts(std::vector<double>{0.99, 0.01}, 9, 10, 0), ElementsAre(10, 8));
}

TEST(ShareCounts, SumsAndBoundsHold) {
  std::mt19937 random(41);
  std::uniform_real_distribution<double> uniform(0, 1);
  int64_t by_turns = 0;
  for (int round = 0; round < 4000; ++round) {
    const auto pick = [&](int64_t low, int64_t high) { return low + int64_t(random() % uint64_t(high - low + 1)); };
    const int64_t layers = pick(1, 40), tokens = pick(1, round % 3 == 0 ? 12 : 3000), base = pick(1, tokens);
    const int64_t guarded = pick(0, base - 1);
    std::vector<double> shares;
    const double steep = std::pow(10, 3 * uniform(random));
    for (int64_t l = 0; l < layers; ++l) shares.push_back(std::max(1e-9, std::pow(uniform(random), steep)));
    const std::vector<int64_t> counts = ShareCounts(shares, base, tokens, guarded);
    SCOPED_TRACE(::testing::Message() << "round " << round << ": " << layers << " layers, B " << base << " of "
                                      << tokens << ", " << guarded << " protected");
    ASSERT_EQ(int64_t(counts.size()), layers);
    ASSERT_EQ(std::accumulate(counts.begin(), counts.end(), int64_t{0}), layers * base);
    const std::vector<double> real = PlainReal(shares, double(base), double(tokens), double(guarded));
    double sum = 0;
    int64_t up_to = 0;
    for (size_t l = 0; l < counts.size(); ++l) {
      ASSERT_TRUE(counts[l] >= guarded + 1 && counts[l] <= tokens) << "layer " << l << ": " << counts[l];
      sum += real[l];
      up_to += counts[l];
      // The rounded sum of the layers up to here.
      ASSERT_LE(std::abs(double(up_to) - sum), 0.5 + 1e-3) << "layer " << l;
    }
    const std::vector<double> turns = InTurns(shares, double(base), double(tokens), double(guarded));
    double all = 0;
    bool low = false, high = false;
    for (const double one : turns)
      all += one, low = low || one == double(guarded + 1), high = high || one == double(tokens);
    if (std::abs(all - double(layers * base)) > 1e-6 || (low && high)) continue;
    ++by_turns;
    ASSERT_EQ(counts, Rounded(turns));
  }
  EXPECT_GT(by_turns, 1000);
}

TEST(SharesAt, LinesBetweenTheBudgets) {
  const std::vector<LayerShares> shares = {{0.2, {0.1, 0.3}}, {0.6, {0.5, 0.7}}};
  const auto near = [](double x) { return ::testing::DoubleNear(x, 1e-12); };
  EXPECT_THAT(SharesAt(shares, 0.2), ElementsAre(near(0.1), near(0.3)));
  EXPECT_THAT(SharesAt(shares, 0.1), ElementsAre(near(0.05), near(0.15)));
  EXPECT_THAT(SharesAt(shares, 0.4), ElementsAre(near(0.3), near(0.5)));
  EXPECT_THAT(SharesAt(shares, 0.6), ElementsAre(near(0.5), near(0.7)));
  EXPECT_THAT(SharesAt(shares, 0.8), ElementsAre(near(0.75), near(0.85)));
  EXPECT_THAT(SharesAt(shares, 1), ElementsAre(near(1), near(1)));
}

std::vector<LayerShares> Shares() {
  return {{0.2, {0.4, 0.1, 0.1, 0.25}}, {0.7, {0.9, 0.8, 0.3, 0.85}}};
}

KvOptions ByProfile(const std::string& policy, double budget) {
  KvOptions options = Options(policy, {}, policy == "prefixkv" ? "auto" : "prefix");
  options.budget = budget;
  options.prefix_shares = Shares();
  return options;
}

// Every head holds what the layer's share comes to, chosen as under any other allocator, and no layer waits.
TEST(PrefixByProfile, CountsAndPeak) {
  const Problem problem({.layers = 4, .kv_heads = 2, .group = 2, .head_dim = 8, .tokens = 83}, 42);
  for (const char* const policy : {"prefixkv", "elastic", "h2o", "snapkv", "vnorm", "look-m"}) {
    for (const double budget : {0.012, 0.1, 0.2, 0.45, 0.7, 0.9, 1.0}) {
      SCOPED_TRACE(std::string(policy) + " " + std::to_string(budget));
      const KvOptions options = ByProfile(policy, budget);
      SmallEngine engine(problem, options, 8);
      const int64_t base = engine.ReadPart(83);
      const auto setup = MakePolicy(options, SmallEngine::Spec(problem, Dtype::kF32));
      EXPECT_FALSE(setup.by_mass());
      std::vector<double> shares;
      for (size_t l = 0; l < 4; ++l) {
        const double b = budget, a = Shares()[0].layers[l], c = Shares()[1].layers[l];
        shares.push_back(b <= 0.2   ? a * b / 0.2
                         : b <= 0.7 ? a + (c - a) * (b - 0.2) / 0.5
                                    : c + (1 - c) * (b - 0.7) / 0.3);
      }
      const std::vector<int64_t> expected =
          base == 83 ? std::vector<int64_t>(4, 83)
                     : Rounded(PlainReal(shares, double(base), 83, double(setup.policy->Protects(base).count())));
      const Kept kept = engine.KeptTokens();
      int64_t all = 0;
      for (size_t l = 0; l < 4; ++l) {
        for (const auto& head : kept[l]) {
          EXPECT_NEAR(double(head.size()), double(expected[l]), 1) << "layer " << l;  // sums that end in a half
          EXPECT_EQ(head.size(), kept[l][0].size());
          all += int64_t(head.size());
        }
      }
      EXPECT_EQ(all, 8 * base);
      if (budget > 0.5) continue;
      // The peak of pyramid: compressed layers and one that is full; online all four are.
      KvOptions online = options;
      online.prefix_shares.clear();
      SmallEngine waits(problem, online, 8);
      waits.ReadPart(83);
      EXPECT_LT(engine.cache.PeakBytes(), waits.cache.PeakBytes()) << policy;
    }
  }
}

// What is kept is what the counts alone make of the scores: the same as that of uniform where all shares are equal.
TEST(PrefixByProfile, EqualSharesAreUniform) {
  const Problem problem({.layers = 4, .kv_heads = 2, .group = 2, .head_dim = 8, .tokens = 61}, 43);
  for (const char* const policy : {"prefixkv", "snapkv", "h2o"}) {
    KvOptions options = ByProfile(policy, 0.3);
    options.prefix_shares = {{0.5, {0.5, 0.5, 0.5, 0.5}}};
    SmallEngine engine(problem, options, 8);
    engine.ReadPart(61);
    KvOptions uniform = Options(policy);
    uniform.budget = 0.3;
    SmallEngine other(problem, uniform, 8);
    other.ReadPart(61);
    EXPECT_EQ(engine.KeptTokens(), other.KeptTokens()) << policy;
  }
}

// With prefix=online a profile is not looked at.
TEST(PrefixByProfile, OnlineIsAsWithoutAProfile) {
  const Problem problem({.layers = 4, .kv_heads = 2, .group = 2, .head_dim = 8, .tokens = 61}, 44);
  KvOptions options = ByProfile("prefixkv", 0.3);
  options.options["prefix"] = "online";
  SmallEngine engine(problem, options, 8);
  engine.ReadPart(61);
  KvOptions without = options;
  without.prefix_shares.clear();
  without.options.clear();
  SmallEngine other(problem, without, 8);
  other.ReadPart(61);
  EXPECT_EQ(engine.KeptTokens(), other.KeptTokens());
  options.options["prefix"] = "profile";
  SmallEngine by_profile(problem, options, 8);
  by_profile.ReadPart(61);
  EXPECT_NE(by_profile.KeptTokens(), other.KeptTokens());
}

// What only waiting forbids: chunks and drop layers, where the policy bears them. Tokens and bytes are budgets, too.
TEST(PrefixByProfile, GoesWithChunksDropsTokensAndBytes) {
  const Problem problem({.layers = 4, .kv_heads = 2, .group = 2, .head_dim = 8, .tokens = 90}, 45);
  KvOptions options = ByProfile("snapkv", 0.3);
  options.budget.reset();
  options.tokens = 27;
  SmallEngine whole(problem, options, 8);
  whole.ReadPart(90);
  options.chunk = 20;
  SmallEngine chunked(problem, options, 8);
  chunked.compression.SetPrefix(90);
  for (int chunk = 0; chunk < 4; ++chunk) chunked.ReadChunk(20);
  chunked.ReadChunk(10);
  const Kept a = whole.KeptTokens(), b = chunked.KeptTokens();
  for (size_t l = 0; l < 4; ++l) EXPECT_EQ(a[l][0].size(), b[l][0].size());
  options.chunk = 0;
  options.tokens.reset();
  options.bytes = 40'000;
  SmallEngine capped(problem, options, 8);
  const int64_t base = capped.ReadPart(90);
  EXPECT_LE(capped.cache.AllocatedBytes(), 40'000);
  EXPECT_GT(base, 10);
  options = ByProfile("snapkv", 0.3);
  options.drop_layers = {{2, 0.5}};
  CheckKvOptions(options);
  options.prefix_shares.clear();
  ExpectUsageError("kv.drop_layers", "prefix compares", [&] { CheckKvOptions(options); });
}

TEST(PrefixByProfile, LayersWithAWindowTakeNoPart) {
  std::vector<KvLayerSpec> layers(6, KvCacheSpec::Uniform(1, 2, 8, FormatOf(Dtype::kF32))[0]);
  layers[1].window = layers[4].window = 16;
  const KvCacheSpec spec(layers);
  const PolicySetup setup = MakePolicy(ByProfile("prefixkv", 0.2), spec);
  const BudgetPlan plan = PlanBudget(setup, ByProfile("prefixkv", 0.2), spec, {}, 1000);
  int64_t full = 0;
  for (size_t l = 0; l < 6; ++l) {
    EXPECT_EQ(plan.counts[l][0], plan.counts[l][1]);
    if (l == 1 || l == 4) {
      EXPECT_EQ(plan.counts[l][0], 16);
    } else {
      full += plan.counts[l][0];
    }
  }
  EXPECT_EQ(full, 4 * 200);
  EXPECT_THAT((std::vector<int64_t>{plan.counts[0][0], plan.counts[2][0], plan.counts[3][0], plan.counts[5][0]}),
              ElementsAre(376, 95, 94, 235));  // 0.4, 0.1, 0.1, 0.25 of 0.85 times 800, halves up by the running sum
}

TEST(PrefixByProfile, WhatCannotBeIsRefused) {
  const auto refused = [](const KvOptions& options, const std::string& field, const std::string& says) {
    ExpectUsageError(field, says, [&] { CheckKvOptions(options); });
  };
  KvOptions options = ByProfile("prefixkv", 0.3);
  CheckKvOptions(options);
  options.options["prefix"] = "profile";
  CheckKvOptions(options);
  options.prefix_shares.clear();
  refused(options, "kv.option.prefix", "no profile");
  options.options["prefix"] = "maybe";
  refused(options, "kv.option.prefix", "auto|online|profile");
  options = ByProfile("prefixkv", 0.3);
  options.allocator = "uniform";
  refused(options, "kv.prefix_shares", "not uniform");
  options.prefix_shares.clear();
  options.options["prefix"] = "online";
  refused(options, "kv.option.prefix", "prefix has it");
  options = ByProfile("snapkv", 0.3);
  options.allocator = "auto";
  refused(options, "kv.prefix_shares", "not uniform");
  options = Options("full");
  options.prefix_shares = Shares();
  refused(options, "kv.prefix_shares", "cannot take effect");
  const auto edited = [&](const std::function<void(std::vector<LayerShares>&)>& edit, const std::string& says) {
    options = ByProfile("prefixkv", 0.3);
    edit(options.prefix_shares);
    refused(options, "kv.prefix_shares", says);
  };
  edited([](auto& shares) { shares[1].budget = 0.2; }, "ascend");
  edited([](auto& shares) { shares[0].budget = 0; }, "(0, 1]");
  edited([](auto& shares) { shares[1].budget = std::nan(""); }, "(0, 1]");
  edited([](auto& shares) { shares[1].layers.pop_back(); }, "3 layers; 4");
  edited([](auto& shares) { shares[0].layers.clear(); }, "0 layers");
  edited([](auto& shares) { shares[0].layers[2] = 0; }, "share 0");
  edited([](auto& shares) { shares[1].layers[0] = 1.01; }, "share 1.01");
  // Of another number of layers.
  const Problem problem({.layers = 3, .tokens = 40}, 46);
  ExpectUsageError("kv.prefix_shares", "4 layers; 3", [&] { SmallEngine(problem, ByProfile("prefixkv", 0.3)); });
}

}  // namespace
}  // namespace purekv::testing
