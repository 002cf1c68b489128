// What every policy keeps, against the plain reference: all options, allocators, group sizes, lengths and budgets.
#include <gtest/gtest.h>

#include <limits>

#include "policy/policy_reference.h"
#include "policy/policy_testing.h"
#include "support/expect_error.h"

namespace purekv::testing {
namespace {

struct Case {
  std::string policy;
  std::map<std::string, std::string> options;
};

const std::vector<Case>& Cases() {
  static const std::vector<Case> cases = {
      {"uniform", {}},
      {"uniform", {{"sinks", "0"}, {"recent", "0"}}},
      {"streaming-llm", {}},
      {"streaming-llm", {{"sinks", "11"}}},
      {"h2o", {}},
      {"h2o", {{"recent_ratio", "0"}}},
      {"h2o", {{"recent_ratio", "0.3"}}},
      {"h2o", {{"recent_ratio", "1"}}},
      {"tova", {}},
      {"tova", {{"sinks", "0"}, {"recent", "0"}}},
      {"tova", {{"sinks", "1"}, {"recent", "1"}}},
      {"snapkv", {}},
      {"snapkv", {{"window", "1"}, {"kernel", "1"}}},
      {"snapkv", {{"window", "8"}, {"kernel", "9"}, {"pool", "max"}}},
      {"snapkv", {{"window", "5"}, {"pool", "none"}}},
      {"knorm", {}},
      {"knorm", {{"sinks", "0"}, {"recent", "0"}}},
      {"keydiff", {}},
      {"keydiff", {{"sinks", "2"}, {"recent", "3"}}},
      {"vnorm", {}},
      {"vnorm", {{"sinks", "100"}, {"recent", "100"}}},
      {"expected-attention", {}},
      {"expected-attention", {{"sinks", "0"}, {"horizon", "3"}, {"epsilon", "0.2"}}},
      {"expected-attention", {{"epsilon", "0"}, {"recent", "0"}}},
      {"expected-attention", {{"covariance", "0"}, {"recent", "5"}}},
      {"csp", {}},
      {"csp", {{"combine", "concat"}, {"window", "1000"}}},
      {"csp", {{"combine", "intersect"}, {"window", "1000"}}},
      {"csp", {{"combine", "intersect"}, {"window", "3"}, {"n", "0"}}},
      {"csp", {{"cross_ratio", "0"}, {"recent_ratio", "0.1"}, {"window", "30"}}},
      {"csp", {{"window", "half"}, {"cross_ratio", "0.9"}, {"recent_ratio", "0.25"}}},
      {"csp", {{"cross_ratio", "1"}, {"recent_ratio", "0.7"}, {"n", "25"}}},
      {"csp", {{"cross_ratio", "0.3"}, {"combine", "concat"}, {"recent_ratio", "0"}}},
      {"purekv", {}},
      {"purekv", {{"below", "window"}}},
      {"purekv", {{"own_share", "1"}, {"key_share", "0"}, {"vnorm", "0"}, {"kernel", "1"}, {"own", "9"}}},
      {"purekv", {{"own_share", "0.2"}, {"source_share", "0.4"}, {"key_share", "0.1"}, {"value_share", "0.3"}}},
      {"purekv", {{"own_share", "0"}, {"source_share", "1"}, {"key_share", "0"}}},
      {"purekv", {{"own_share", "0"}, {"key_share", "0"}, {"value_share", "1"}}},
      {"purekv", {{"sources", "0"}, {"normalise", "1"}}},
      {"purekv", {{"sources", "0,2"}, {"window", "9"}, {"heads", "mean"}}},
      {"purekv", {{"sources", "2"}, {"below", "wait"}}},
      {"purekv", {{"sources", "1,2"}, {"below", "wait"}, {"window", "9"}, {"heads", "mean"}}},
      {"purekv", {{"sources", "2"}, {"below", "vnorm"}, {"vnorm", "0"}}},
      {"purekv", {{"sources", "1"}, {"vnorm", "0"}, {"window", "2000"}}},
      {"purekv", {{"sources", "2,1"}, {"heads", "mean"}, {"normalise", "1"}, {"window", "20"}}},
      {"kvzip", {}},
      {"kvzip", {{"sinks", "3"}, {"recent", "0"}}},
      {"kvzip", {{"sinks", "0"}, {"recent", "5"}, {"chunk", "7"}}},
  };
  return cases;
}

// Equal, or different only in tokens whose scores are the same but for rounding: expected-attention computes in f32,
// and two keys of equal norm are equally far from their mean.
void ExpectSame(const Kept& kept, const Kept& expected, const Reference& reference, double tolerance) {
  if (tolerance == 0 || kept == expected) {
    EXPECT_EQ(kept, expected);
    return;
  }
  for (size_t l = 0; l < kept.size(); ++l) {
    double best_missed = -1e30, worst_taken = 1e30;
    for (size_t g = 0; g < kept[l].size(); ++g) {
      std::vector<int32_t> missed, taken;
      const auto &a = expected[l][g], &b = kept[l][g];
      std::set_difference(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(missed));
      std::set_difference(b.begin(), b.end(), a.begin(), a.end(), std::back_inserter(taken));
      for (const int32_t j : missed) best_missed = std::max(best_missed, reference.scores[l][g][size_t(j)]);
      for (const int32_t j : taken) worst_taken = std::min(worst_taken, reference.scores[l][g][size_t(j)]);
    }
    EXPECT_LE(best_missed, worst_taken + tolerance * std::abs(worst_taken)) << "layer " << l;
  }
}

void Compare(const Problem& problem, const Case& one, const std::string& allocator, double budget, int64_t block) {
  KvOptions options = Options(one.policy, one.options, allocator);
  options.budget = budget;
  std::string given;
  for (const auto& [key, value] : options.options) given += " " + key + "=" + value;
  SCOPED_TRACE(one.policy + given + ", " + allocator + ", budget " + std::to_string(budget) + " of " +
               std::to_string(problem.s.tokens) + ", " + std::to_string(problem.s.kv_heads) + " x " +
               std::to_string(problem.s.group) + " heads, blocks of " + std::to_string(block));
  SmallEngine engine(problem, options, block);
  Reference reference(problem, options, problem.s.tokens);
  EXPECT_EQ(engine.ReadPart(problem.s.tokens), std::min(reference.base(), problem.s.tokens));
  ExpectSame(engine.KeptTokens(), reference.KeptTokens(), reference,
             one.policy == "expected-attention" ? 1e-5
             : one.policy == "keydiff"          ? 1e-12
             : one.policy == "purekv"           ? 1e-12
                                                : 0);
}

void CompareAll(const Problem& problem, const std::vector<double>& budgets, int64_t block) {
  for (const Case& one : Cases()) {
    const auto sources = one.options.find("sources");
    if (sources != one.options.end() && sources->second != "0" && problem.s.layers < 3) continue;
    for (const double budget : budgets) {
      Compare(problem, one, "uniform", budget, block);
      if (::testing::Test::HasFailure()) return;
    }
    if (FindPolicy(one.policy).repeats) continue;  // takes no allocator
    Case pyramid = one, ada = one;
    pyramid.options["beta"] = "3";
    ada.options["alpha"] = "0.6";
    Compare(problem, one, "pyramid", budgets[0], block);
    Compare(problem, pyramid, "pyramid", budgets[budgets.size() / 2], block);
    if (!FindPolicy(one.policy).ada) continue;
    Compare(problem, one, "ada", budgets[0], block);
    Compare(problem, ada, "ada", budgets[budgets.size() / 2], block);
  }
}

TEST(KeptSets, TinyParts) {
  for (const int64_t tokens : {1, 2, 3, 4, 5, 6, 7, 8}) {
    const Problem problem({.layers = 4, .kv_heads = 2, .group = 2, .head_dim = 4, .tokens = tokens}, 1);
    CompareAll(problem, {1e-6, 0.3, 0.5, 0.8, 1.0}, 3);
  }
}

TEST(KeptSets, GroupSizes) {
  for (const int64_t group : {1, 2, 4, 7}) {
    const Problem problem({.kv_heads = group == 1 ? 4 : 2, .group = group, .tokens = 61}, uint32_t(group));
    CompareAll(problem, {0.2, 0.05, 0.5, 0.95}, 16);
  }
}

TEST(KeptSets, OneKvHeadOneLayer) {
  CompareAll(Problem({.layers = 1, .kv_heads = 1, .group = 7, .head_dim = 6, .tokens = 40}, 5), {0.3, 0.6}, 40);
}

TEST(KeptSets, TextOnly) {
  CompareAll(Problem({.tokens = 47, .text_only = true}, 6), {0.1, 0.4}, 8);
}

TEST(KeptSets, SomeHundredTokens) {
  CompareAll(Problem({.layers = 4, .kv_heads = 2, .group = 2, .tokens = 301}, 7), {0.1, 0.51}, 64);
}

TEST(SlowKeptSets, ThreeThousandTokens) {
  const Problem problem({.layers = 2, .kv_heads = 1, .group = 2, .head_dim = 4, .tokens = 3000}, 8);
  for (const Case& one : {Case{"h2o", {}}, Case{"snapkv", {}}, Case{"csp", {}}, Case{"purekv", {{"window", "512"}}},
                          Case{"purekv", {}}, Case{"keydiff", {}}, Case{"uniform", {}}, Case{"tova", {}}}) {
    Compare(problem, one, "uniform", 0.1, 512);
    Compare(problem, one, "pyramid", 0.02, 512);
  }
  Compare(problem, {"expected-attention", {}}, "uniform", 0.1, 512);
}

TEST(KeptSets, BlocksAndChunksDoNotMatter) {
  const Problem problem({.tokens = 90}, 9);
  for (const Case& one : Cases()) {
    KvOptions options = Options(one.policy, one.options);
    options.budget = 0.3;
    SmallEngine whole(problem, options, 90);
    whole.ReadPart(90);
    SmallEngine chunked(problem, options, 7);
    chunked.compression.SetPrefix(90);
    chunked.compression.BeginPrefix(0, 90);
    for (const int64_t rows : {20, 1, 50, 19}) chunked.Pass(rows);
    EXPECT_EQ(chunked.KeptTokens(), whole.KeptTokens()) << one.policy;
  }
}

TEST(KeptSets, TokensAndBytes) {
  const Problem problem({.tokens = 80}, 10);
  for (const char* const policy : {"snapkv", "h2o", "vnorm", "purekv"}) {
    KvOptions options = Options(policy);
    options.tokens = 17;
    SmallEngine by_tokens(problem, options);
    Reference reference(problem, options, 80);
    EXPECT_EQ(by_tokens.ReadPart(80), 17);
    EXPECT_EQ(by_tokens.KeptTokens(), reference.KeptTokens());
    options.tokens.reset();
    // Lists of 32 bytes an entry, rounded up to 64: 17 take as much as 18, and h2o takes one in before one goes.
    const int64_t lists = 2 * 3 * 2, b = std::string(policy) == "h2o" ? 17 : 18;
    options.bytes = 18 * 32 * lists + 64 * lists - 1;
    SmallEngine by_bytes(problem, options);
    EXPECT_EQ(by_bytes.ReadPart(80), b);
    options.bytes = 64 * lists - 1;
    SmallEngine none(problem, options);
    ExpectUsageError("kv.bytes", "too little", [&] { none.compression.SetPrefix(80); });
  }
}

TEST(KeptSets, BytesWithEveryAllocator) {
  for (const int64_t dim : {6, 20, 64}) {  // rows of 24, 80 and 256 bytes
    const Problem problem({.kv_heads = 3, .group = 1, .head_dim = dim, .tokens = 120}, uint32_t(dim));
    for (const char* const policy : {"vnorm", "h2o", "uniform", "kvzip"}) {
      for (const char* const allocator : {"uniform", "pyramid", "ada"}) {
        if (std::string(allocator) == "ada" && !FindPolicy(policy).ada) continue;
        if (std::string(allocator) != "uniform" && FindPolicy(policy).repeats) continue;
        const int64_t all = 3 * 3 * 2 * dim * 4 * 120;
        for (const int64_t bytes : {all / 40, all / 12, all / 3, all - 1, all + 3 * 3 * 2 * 4096}) {
          SCOPED_TRACE(std::string(policy) + " " + allocator + " " + std::to_string(dim) + " " + std::to_string(bytes));
          KvOptions options = Options(policy, {}, allocator);
          options.bytes = bytes;
          Reference reference(problem, options, 120);
          SmallEngine engine(problem, options);
          if (reference.base() == 0) {
            ExpectUsageError("kv.bytes", "too little", [&] { engine.compression.SetPrefix(120); });
            continue;
          }
          EXPECT_EQ(engine.ReadPart(120), reference.base());
          EXPECT_EQ(engine.KeptTokens(), reference.KeptTokens());
        }
      }
    }
  }
}

TEST(KeptSets, Bf16Cache) {
  // Norms of rounded keys and values: the same tokens but for near ties, so the overlap is nearly all.
  const Problem problem({.tokens = 200}, 11);
  for (const char* const policy : {"knorm", "vnorm", "keydiff", "expected-attention", "purekv"}) {
    KvOptions options = Options(policy);
    options.budget = 0.25;
    SmallEngine f32(problem, options), bf16(problem, options, 64, Dtype::kBF16);
    f32.ReadPart(200);
    bf16.ReadPart(200);
    const Kept a = f32.KeptTokens(), b = bf16.KeptTokens();
    for (size_t l = 0; l < a.size(); ++l) {
      for (size_t g = 0; g < a[l].size(); ++g) {
        std::vector<int32_t> both;
        std::set_intersection(a[l][g].begin(), a[l][g].end(), b[l][g].begin(), b[l][g].end(), std::back_inserter(both));
        EXPECT_GE(both.size(), 47U) << policy;
      }
    }
  }
}

}  // namespace
}  // namespace purekv::testing
