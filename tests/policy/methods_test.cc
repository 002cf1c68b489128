// prefixkv, elastic, roco, look-m, infinipot-v, kvmerger, and merging: what every head holds against plain loops,
// tokens, keys, values and counts.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "policy/methods_reference.h"
#include "policy/policy_testing.h"
#include "support/expect_error.h"

namespace purekv::testing {
namespace {

using Values = std::map<std::string, std::string>;

struct Case {
  std::string policy;
  Values options;
  std::string merge = "auto";
  std::string allocator = "auto";
};

const std::vector<Case>& Cases() {
  static const std::vector<Case> cases = {
      {"prefixkv", {}},
      {"prefixkv", {{"sinks", "0"}, {"recent", "0"}}},
      {"prefixkv", {{"decode", "fixed"}}, "auto", "uniform"},
      {"prefixkv", {}, "averaged", "pyramid"},
      {"h2o", {}, "auto", "prefix"},
      {"elastic", {}},
      {"elastic", {{"sinks", "1"}, {"recent", "1"}}, "auto", "prefix"},
      {"elastic", {}, "none"},
      {"elastic", {{"merge_into", "kind"}, {"merge_window", "9"}}},
      {"elastic", {{"merge_rotation", "align"}}, "auto", "pyramid"},
      {"roco", {}},
      {"roco", {{"std_ratio", "1"}, {"recent", "3"}}},
      {"roco", {{"std_ratio", "0"}, {"sinks", "0"}}, "auto", "pyramid"},
      {"look-m", {}},
      {"look-m", {{"text_prior", "0"}, {"recent_ratio", "0.1"}}, "averaged"},
      {"look-m", {{"sinks", "0"}}, "weighted"},
      {"look-m", {{"merge_threshold", "off"}}, "weighted"},
      {"look-m", {}, "none", "prefix"},
      {"look-m", {{"merge_rotation", "align"}, {"merge_into", "kind"}}},
      {"infinipot-v", {}},
      {"infinipot-v", {{"text", "0"}, {"recent", "4"}}},
      {"infinipot-v", {{"tar_ratio", "1"}, {"query_ratio", "0.6"}, {"text", "0"}, {"sinks", "0"}}},
      {"infinipot-v", {{"tar_ratio", "0"}}, "pivotal", "pyramid"},
      {"kvmerger", {}},
      {"kvmerger", {{"heavy_ratio", "0"}, {"recent", "2"}, {"sinks", "0"}}},
      {"kvmerger", {{"epsilon", "0.2"}, {"sigma", "5"}}},
      {"kvmerger", {{"epsilon", "-1"}, {"recent", "1"}}},
      {"kvmerger", {{"merge_rotation", "align"}}, "auto", "pyramid"},
      {"h2o", {}, "pivotal"},
      {"h2o", {{"merge_threshold", "mean"}}, "averaged"},
      {"h2o", {{"merge_threshold", "0.3"}, {"merge_rotation", "keep"}}, "weighted"},
      {"h2o", {{"merge_window", "5"}, {"merge_into", "kind"}}, "similar"},
      {"h2o", {}, "values"},
      {"elastic", {}, "values"},
      {"h2o", {{"merge_bias", "1"}}, "nearest"},
  };
  return cases;
}

std::string NameOf(const Case& one, double budget, const Problem& problem) {
  std::string name = one.policy + " " + one.merge + " " + one.allocator;
  for (const auto& [key, value] : one.options) name += " " + key + "=" + value;
  return name + ", " + std::to_string(budget) + " of " + std::to_string(problem.s.tokens);
}

KvOptions OptionsOf(const Case& one, double budget) {
  KvOptions options = Options(one.policy, one.options, one.allocator);
  options.merge = one.merge == "similar" ? "similar" : one.merge;
  options.budget = budget;
  return options;
}

void Compare(const Problem& problem, const Case& one, double budget, Dtype dtype = Dtype::kF32) {
  SCOPED_TRACE(NameOf(one, budget, problem));
  const KvOptions options = OptionsOf(one, budget);
  KvOptions plain = options;
  if (plain.merge == "similar") plain.merge = "weighted";
  SmallEngine engine(problem, options, 5, dtype);
  EXPECT_EQ(engine.ReadPart(problem.s.tokens), Methods(problem, plain, problem.s.tokens).base());
  const auto expected = Methods(problem, plain, problem.s.tokens).Heads();
  int64_t merged = 0;
  for (int64_t l = 0; l < problem.s.layers; ++l) {
    for (int64_t g = 0; g < problem.s.kv_heads; ++g) {
      const PlainHead& head = expected[size_t(l)][size_t(g)];
      std::vector<int32_t> tokens;
      for (const PlainEntry& entry : head) tokens.push_back(entry.token);
      const auto held = engine.cache.EntryTokens(l, g);
      ASSERT_EQ(std::vector<int32_t>(held.begin(), held.end()), tokens) << "layer " << l << " head " << g;
      const auto counts = engine.cache.EntryCounts(l, g);
      const KvHeadView view = engine.cache.Head(l, g);
      for (size_t j = 0; j < head.size(); ++j) {
        ASSERT_EQ(counts.empty() ? 1 : counts[j], head[j].count) << "layer " << l << " head " << g << " entry " << j;
        merged += head[j].count - 1;
        const auto* const key = static_cast<const float*>(view.KeyRow(int64_t(j)));
        const auto* const value = static_cast<const float*>(view.ValueRow(int64_t(j)));
        for (size_t d = 0; d < head[j].key.size(); ++d) {
          ASSERT_NEAR(double(key[d]), head[j].key[d], 1e-5) << "layer " << l << " head " << g << " entry " << j;
          ASSERT_NEAR(double(value[d]), head[j].value[d], 1e-5) << "layer " << l << " head " << g << " entry " << j;
        }
        const bool bias = one.options.contains("merge_bias") && !counts.empty();
        ASSERT_EQ(view.bias != nullptr, bias);
        if (bias) {
          ASSERT_FLOAT_EQ(view.bias[j], std::log(float(head[j].count)));
        }
      }
    }
  }
  EXPECT_EQ(engine.cache.merged(), merged);
}

TEST(Methods, EqualTheirDefinitions) {
  const Problem problem({.layers = 3, .kv_heads = 2, .group = 2, .head_dim = 8, .tokens = 61}, 3);
  for (const Case& one : Cases()) {
    for (const double budget : {0.3, 0.62}) Compare(problem, one, budget);
  }
}

TEST(Methods, TinyParts) {
  for (const int64_t tokens : {1, 2, 3, 5, 8}) {
    const Problem problem({.layers = 2, .kv_heads = 1, .group = 3, .head_dim = 4, .tokens = tokens}, 5);
    for (const Case& one : Cases()) {
      for (const double budget : {1e-6, 0.4, 0.8, 1.0}) Compare(problem, one, budget);
    }
  }
}

TEST(Methods, TextOnly) {
  const Problem problem({.layers = 2, .kv_heads = 2, .group = 1, .head_dim = 6, .tokens = 40, .text_only = true}, 6);
  for (const Case& one : Cases()) Compare(problem, one, 0.35);
}

TEST(Methods, SomeHundredTokens) {
  const Problem problem({.layers = 2, .kv_heads = 1, .group = 2, .head_dim = 16, .tokens = 330}, 7);
  for (const Case& one : Cases()) Compare(problem, one, 0.15);
}

// What merging never loses: every token counts once, but for what a threshold, or no target, let go.
TEST(Methods, CountsSumUpOverCompressions) {
  const Problem problem({.layers = 2, .kv_heads = 2, .group = 2, .head_dim = 8, .tokens = 120}, 8);
  for (const char* const merge : {"nearest", "averaged", "weighted", "pivotal", "values"}) {
    KvOptions options = Options("vnorm", {{"decode_every", "7"}});
    options.merge = merge;
    options.tokens = 24;
    options.chunk = 16;
    SmallEngine engine(problem, options, 5);
    engine.compression.SetPrefix(64);
    for (int64_t read = 0; read < 64; read += 16) engine.ReadChunk(16);
    const auto sum = [&](int64_t layer, int64_t head) {
      const auto counts = engine.cache.EntryCounts(layer, head);
      return std::accumulate(counts.begin(), counts.end(), int64_t{0});
    };
    for (int64_t l = 0; l < 2; ++l) {
      for (int64_t g = 0; g < 2; ++g) EXPECT_EQ(sum(l, g), 64) << merge;
    }
    engine.ReadBehind(6);
    for (int64_t step = 0; step < 50; ++step) engine.Step();
    for (int64_t l = 0; l < 2; ++l) {
      for (int64_t g = 0; g < 2; ++g) EXPECT_EQ(sum(l, g), 120) << merge;
    }
    EXPECT_EQ(engine.cache.merged(), engine.cache.removed()) << merge;
  }
}

TEST(Methods, AFixedPointHoldsItsShare) {
  constexpr int64_t kPart = 60, kBehind = 4, kSteps = 56;
  const Problem problem({.layers = 2, .kv_heads = 2, .group = 2, .head_dim = 8, .tokens = 120}, 9);
  for (const int64_t distance : {1, 6, 25}) {
    KvOptions options = Options("elastic", {{"decode", "fixed"}, {"distance", std::to_string(distance)}}, "pyramid");
    options.budget = 0.4;
    SmallEngine engine(problem, options, 8);
    engine.ReadPart(kPart);
    EXPECT_TRUE(engine.compression.steps_alone());
    Kept plain = engine.KeptTokens();
    engine.ReadBehind(kBehind);
    std::vector<int64_t> kept;
    for (auto& layer : plain) {
      kept.push_back(int64_t(layer[0].size()));
      for (auto& head : layer) {
        for (int32_t j = kPart; j < kPart + kBehind; ++j) head.push_back(j);
      }
    }
    for (int64_t t = 1; t <= kSteps; ++t) {
      engine.Step();
      for (size_t l = 0; l < 2; ++l) {
        for (auto& head : plain[l]) {
          head.push_back(int32_t(kPart + kBehind + t - 1));
          if (int64_t(head.size()) <= kept[l] + kBehind + t * kept[l] / kPart) continue;
          head.erase(head.begin() + (kept[l] <= distance ? kept[l] / 2 : kept[l] - distance));
        }
      }
      ASSERT_EQ(engine.KeptTokens(), plain) << "step " << t << ", distance " << distance;
    }
  }
}

TEST(Methods, RocoHoldsWhileDecoding) {
  constexpr int64_t kPart = 40, kSteps = 40;
  const Problem problem({.layers = 2, .kv_heads = 2, .group = 2, .head_dim = 8, .tokens = kPart + kSteps}, 10);
  KvOptions options = Options("roco", {{"sinks", "2"}, {"recent", "3"}});
  options.tokens = 14;
  SmallEngine engine(problem, options, 8);
  engine.ReadPart(kPart);
  for (int64_t l = 0; l < 2; ++l) {
    for (int64_t g = 0; g < 2; ++g) EXPECT_EQ(engine.cache.Length(l, g), 14);
  }
  // The plain form: sums of attention over what was held, and of its square, as long as an entry is there.
  struct Sums {
    double sum = 0, square = 0;
    int64_t seen = 0;
  };
  std::vector<std::vector<std::map<int32_t, Sums>>> held(2, std::vector<std::map<int32_t, Sums>>(2));
  for (int64_t l = 0; l < 2; ++l) {
    for (int64_t g = 0; g < 2; ++g) {
      for (const int32_t j : engine.cache.EntryTokens(l, g)) {
        Sums& one = held[size_t(l)][size_t(g)][j];
        for (int64_t i = j; i < kPart; ++i, ++one.seen) {
          for (int64_t h = 2 * g; h < 2 * g + 2; ++h) {
            const double a = problem.Row(l, h, i)[size_t(j)];
            one.sum += a / 2, one.square += a * a / 2;
          }
        }
      }
    }
  }
  for (int64_t t = kPart; t < kPart + kSteps; ++t) {
    engine.Step();
    for (int64_t l = 0; l < 2; ++l) {
      for (int64_t g = 0; g < 2; ++g) {
        auto& head = held[size_t(l)][size_t(g)];
        head[int32_t(t)];
        for (int64_t h = 2 * g; h < 2 * g + 2; ++h) {
          const Row& row = problem.Row(l, h, t);
          double all = 0;
          for (const auto& [j, sums] : head) all += row[size_t(j)];
          for (auto& [j, sums] : head) {
            const double a = row[size_t(j)] / all;
            sums.sum += a / 2, sums.square += a * a / 2;
          }
        }
        std::vector<std::pair<double, int32_t>> deviations;
        size_t at = 0;
        for (auto& [j, sums] : head) {
          ++sums.seen;
          if (at >= 2 && at + 3 < head.size()) {
            const double m = sums.sum / double(sums.seen);
            deviations.emplace_back(-std::sqrt(std::max(0.0, sums.square / double(sums.seen) - m * m)), j);
          }
          ++at;
        }
        std::sort(deviations.begin(), deviations.end());
        int32_t out = -1;
        double lowest = 0;
        for (size_t i = 4; i < deviations.size(); ++i) {  // floor(0.3 * 14) stay
          const int32_t j = deviations[i].second;
          const double m = head[j].sum / double(head[j].seen);
          if (out < 0 || m < lowest || (m == lowest && j > out)) out = j, lowest = m;
        }
        head.erase(out);
        std::vector<int32_t> tokens;
        for (const auto& [j, sums] : head) tokens.push_back(j);
        const auto now = engine.cache.EntryTokens(l, g);
        ASSERT_EQ(std::vector<int32_t>(now.begin(), now.end()), tokens) << "token " << t << " layer " << l;
      }
    }
  }
}

TEST(Methods, WhatCannotBeIsRefused) {
  const auto refused = [](const Case& one, const std::string& field, const std::string& why, auto change) {
    KvOptions options = OptionsOf(one, 0.5);
    change(options);
    ExpectUsageError(field, why, [&] { CheckKvOptions(options); });
  };
  const auto as_it_is = [](KvOptions&) {};
  const auto chunks = [](KvOptions& options) {
    options.budget.reset();
    options.tokens = 8;
    options.chunk = 8;
  };
  const auto drops = [](KvOptions& options) { options.drop_layers = {{2, 0.5}}; };
  refused({"roco", {}, "auto", "ada"}, "kv.allocator", "roco", as_it_is);
  refused({"prefixkv", {}, "auto", "retrieval"}, "kv.allocator", "same tokens", as_it_is);
  refused({"roco", {}, "auto", "prefix"}, "kv.allocator", "roco", as_it_is);
  refused({"keydiff", {}, "auto", "prefix"}, "kv.allocator", "keydiff", as_it_is);
  refused({"kvmerger", {}, "auto", "ada"}, "kv.allocator", "kvmerger", as_it_is);
  refused({"kvmerger", {}, "nearest"}, "kv.merge", "kvmerger", as_it_is);
  refused({"kvmerger", {{"merge_into", "kind"}}}, "kv.option.merge_into", "rules of its own", as_it_is);
  refused({"h2o", {}, "often"}, "kv.merge", "known rules", as_it_is);
  refused({"h2o", {{"merge_bias", "1"}}}, "kv.option.merge_bias", "nothing is merged", as_it_is);
  refused({"h2o", {{"merge_threshold", "mean"}}, "nearest"}, "kv.option.merge_threshold", "nearest", as_it_is);
  refused({"h2o", {{"merge_threshold", "2"}}, "averaged"}, "kv.option.merge_threshold", "-1 .. 1", as_it_is);
  refused({"h2o", {{"merge_rotation", "keep"}}, "values"}, "kv.option.merge_rotation", "values", as_it_is);
  refused({"prefixkv", {{"distance", "3"}}}, "kv.option.distance", "decode=fixed", as_it_is);
  refused({"prefixkv", {{"decode", "fixed"}, {"decode_every", "3"}}}, "kv.option.decode_every", "contradicts",
          as_it_is);
  refused({"snapkv", {}, "auto", "prefix"}, "kv.chunk", "prefix", chunks);
  refused({"snapkv", {}, "auto", "prefix"}, "kv.drop_layers", "prefix", drops);
  refused({"snapkv", {{"merge_bias", "1"}}, "pivotal"}, "kv.drop_layers", "merge_bias", drops);
  KvOptions full;
  full.merge = "pivotal";
  ExpectUsageError("kv.merge", "keeps everything", [&] { CheckKvOptions(full); });
  KvOptions places = OptionsOf({"purekv", {}, "auto", "prefix"}, 0.5);
  ExpectUsageError("kv.allocator", "places",
                   [&] { MakePolicy(places, KvCacheSpec::Uniform(3, 1, 4, KvFormat::kF32)); });
}

TEST(Budget, PrefixAddsUpExactly) {
  // The first layer has all of its mass in one entry, the second in many, the third none: each third of o / N.
  const std::vector<std::vector<double>> masses = {
      {0, 9, 0, 0, 0, 0, 0, 0}, {1, 1, 1, 1, 1, 1, 1, 1}, {0, 0, 0, 0, 0, 0, 0, 0}};
  EXPECT_THAT(PrefixCounts(masses, 1, 0), ::testing::ElementsAre(1, 1, 1));
  EXPECT_THAT(PrefixCounts(masses, 3, 0), ::testing::ElementsAre(1, 4, 4));
  EXPECT_THAT(PrefixCounts(masses, 4, 2), ::testing::ElementsAre(3, 5, 4));
  EXPECT_THAT(PrefixCounts(masses, 8, 0), ::testing::ElementsAre(8, 8, 8));
  EXPECT_THAT(PrefixCounts(masses, 7, 3), ::testing::ElementsAre(5, 8, 8));
}

}  // namespace
}  // namespace purekv::testing
