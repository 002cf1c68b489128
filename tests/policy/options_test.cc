// What --kv-policy and its companions accept, and how they refuse.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "policy/budget.h"
#include "policy/codecs.h"
#include "policy/forms.h"
#include "policy/registry.h"
#include "policy/retrieval_view.h"
#include "purekv/error.h"
#include "support/expect_error.h"

namespace purekv {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

KvOptions Given(const std::string& policy, const std::map<std::string, std::string>& values = {}) {
  KvOptions options;
  options.policy = policy;
  options.options = values;
  if (policy != "full") options.budget = 0.2;
  return options;
}

std::string Refusal(const KvOptions& options) {
  try {
    CheckKvOptions(options);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), Error::Kind::kUsage);
    return error.what();
  }
  return "";
}

TEST(KvOptions, EveryPolicyAndItsDefaults) {
  std::vector<std::string> names;
  for (const PolicyInfo& policy : Policies()) {
    names.push_back(policy.name);
    EXPECT_EQ(Refusal(Given(policy.name)), "") << policy.name;
    std::map<std::string, std::string> defaults;
    for (const PolicyOption& option : policy.options) {
      // DropTest.RefusesWhatCannotWork; decode=fixed
      if (!option.of_drops && option.name != "distance") defaults[option.name] = option.fallback;
    }
    EXPECT_EQ(Refusal(Given(policy.name, defaults)), "") << policy.name;
    EXPECT_EQ(Refusal(Given(policy.name, {{"n-attn", "1"}})), "") << policy.name;
    EXPECT_FALSE(policy.summary.empty());
  }
  EXPECT_THAT(names, ElementsAre("full", "random", "uniform", "streaming-llm", "h2o", "tova", "snapkv", "knorm",
                                 "keydiff", "vnorm", "expected-attention", "csp", "purekv", "kvzip", "prefixkv",
                                 "elastic", "roco", "look-m", "infinipot-v", "kvmerger"));
}

TEST(KvOptions, UnknownNames) {
  EXPECT_THAT(Refusal(Given("snap")), AllOf(HasSubstr("kv.policy snap"), HasSubstr("snapkv"), HasSubstr("purekv")));
  EXPECT_THAT(Refusal(Given("snapkv", {{"windw", "3"}})),
              AllOf(HasSubstr("kv.option.windw"), HasSubstr("window, kernel, pool, n-attn, decode_every")));
  EXPECT_THAT(Refusal(Given("h2o", {{"sinks", "3"}})), AllOf(HasSubstr("no such option"), HasSubstr("n-attn")));
  KvOptions options = Given("snapkv");
  options.allocator = "fair";
  EXPECT_THAT(Refusal(options), HasSubstr("uniform, pyramid, ada"));
}

TEST(KvOptions, ValuesOutOfRange) {
  const auto expect = [](const std::string& policy, const std::string& key, const std::string& value,
                         const std::string& range) {
    EXPECT_THAT(Refusal(Given(policy, {{key, value}})),
                AllOf(HasSubstr("kv.option." + key + "=" + value), HasSubstr("out of range"), HasSubstr(range)));
  };
  expect("snapkv", "window", "0", "(1 .. 1000000000)");
  expect("snapkv", "window", "3.5", "1 .. ");
  expect("snapkv", "window", "", "1 .. ");
  expect("snapkv", "window", "99999999999999999999", "1 .. ");
  expect("snapkv", "kernel", "4", "odd, 1 .. ");
  expect("snapkv", "pool", "mean", "avg|max|none");
  expect("knorm", "sinks", "-1", "0 .. ");
  expect("h2o", "recent_ratio", "1.1", "0 .. 1");
  expect("h2o", "recent_ratio", "nan", "0 .. 1");
  expect("h2o", "recent_ratio", "inf", "0 .. 1");
  expect("csp", "n", "1000001", "0 .. 1000000");
  expect("csp", "combine", "or", "union|concat|intersect");
  expect("purekv", "window", "some", "auto, all or 1 .. ");
  expect("purekv", "own", "65", "1 .. 64");
  expect("purekv", "own_share", "2", "auto or 0 .. 1");
  expect("purekv", "sources", "1,", "auto or layers");
  expect("purekv", "sources", "1,1", "each once");
  expect("purekv", "sources", "-1", "auto or layers");
  expect("purekv", "normalise", "yes", "auto|0|1");
  expect("purekv", "below", "nothing", "auto|window|vnorm|wait");
  expect("expected-attention", "horizon", "0", "1 .. ");
  expect("vnorm", "n-attn", "-1", "0 .. 1000000");
  expect("vnorm", "decode_every", "-1", "0 .. ");
  EXPECT_EQ(Refusal(Given("purekv", {{"sources", "3,1"}, {"window", "64"}})), "");
  EXPECT_THAT(Refusal(Given("purekv", {{"sources", "3"}, {"own", "16"}})),
              HasSubstr("kv.option.own: cannot take effect"));
}

TEST(KvOptions, SourcesMustBeLayersOfTheModel) {
  const KvOptions options = Given("purekv", {{"sources", "1,28"}});
  const auto spec = KvCacheSpec::Uniform(28, 4, 128, KvFormat::kBF16);
  EXPECT_EQ(Refusal(options), "");
  ExpectUsageError("kv.option.sources", "0 .. 27", [&] { MakePolicy(options, spec); });
  EXPECT_NO_THROW(MakePolicy(Given("purekv", {{"sources", "1,27"}}), spec));
}

TEST(KvOptions, FlagsThatCannotTakeEffect) {
  KvOptions options = Given("full");
  options.tokens = 5;
  EXPECT_THAT(Refusal(options), AllOf(HasSubstr("kv.tokens"), HasSubstr("cannot take effect")));
  options = Given("full");
  options.allocator = "ada";
  EXPECT_THAT(Refusal(options), HasSubstr("cannot take effect"));
  EXPECT_THAT(Refusal(Given("full", {{"decode_every", "5"}})), HasSubstr("cannot take effect"));
  EXPECT_THAT(Refusal(Given("full", {{"sinks", "4"}})), HasSubstr("no such option"));
  EXPECT_THAT(Refusal(Given("h2o", {{"decode_every", "5"}})), HasSubstr("every step"));
  EXPECT_THAT(Refusal(Given("vnorm", {{"alpha", "0.5"}})), HasSubstr("kv.allocator ada"));
  EXPECT_THAT(Refusal(Given("vnorm", {{"beta", "5"}})), HasSubstr("kv.allocator pyramid"));
  EXPECT_THAT(Refusal(Given("snapkv", {{"pool", "none"}, {"kernel", "5"}})), HasSubstr("kernel: cannot take effect"));
  options = Given("vnorm", {{"alpha", "0.5"}});
  options.allocator = "ada";
  EXPECT_EQ(Refusal(options), "");
}

TEST(KvOptions, OneBudget) {
  KvOptions options = Given("snapkv");
  options.tokens = 5;
  EXPECT_THAT(Refusal(options), AllOf(HasSubstr("kv.tokens: contradicts kv.budget")));
  options.budget.reset();
  EXPECT_EQ(Refusal(options), "");
  options.bytes = 5;
  EXPECT_THAT(Refusal(options), HasSubstr("kv.bytes: contradicts kv.tokens"));
  options.tokens.reset();
  EXPECT_EQ(Refusal(options), "");
  options.bytes.reset();
  EXPECT_THAT(Refusal(options), HasSubstr("needs a budget"));
  for (const double bad : {0.0, -1.0, 1.01}) {
    options.budget = bad;
    EXPECT_THAT(Refusal(options), HasSubstr("out of range (0, 1]"));
  }
}

TEST(KvOptions, AdaNeedsScoresToCompare) {
  for (const PolicyInfo& policy : Policies()) {
    KvOptions options = Given(policy.name);
    options.allocator = "ada";
    const bool able = policy.name == "h2o" || policy.name == "snapkv" || policy.name == "knorm" ||
                      policy.name == "keydiff" || policy.name == "vnorm" || policy.name == "expected-attention" ||
                      policy.name == "purekv" || policy.name == "look-m";
    EXPECT_EQ(Refusal(options).empty(), able) << policy.name;
    options.allocator = "pyramid";
    EXPECT_EQ(Refusal(options).empty(), policy.name != "full" && !policy.repeats) << policy.name;
  }
}

TEST(KvOptions, APolicyThatHasThePartRepeatedCutsAllAtOnce) {
  KvOptions options = Given("kvzip");
  EXPECT_EQ(Refusal(options), "");
  options.allocator = "pyramid";
  EXPECT_THAT(Refusal(options), AllOf(HasSubstr("kv.allocator pyramid"), HasSubstr("kvzip shares the budget out")));
  options.allocator = "ada";
  EXPECT_THAT(Refusal(options), AllOf(HasSubstr("kv.allocator ada"), HasSubstr("kvzip shares the budget out")));
  options = Given("kvzip");
  options.budget.reset();
  options.tokens = 5;
  options.chunk = 64;
  EXPECT_THAT(Refusal(options), AllOf(HasSubstr("kv.chunk"), HasSubstr("kvzip has the whole part read a second time")));
  options.chunk = 0;
  options.drop_layers = {{2, 0.5}};
  EXPECT_THAT(Refusal(options), AllOf(HasSubstr("kv.drop_layers"), HasSubstr("scores when all layers have run")));
  EXPECT_THAT(Refusal(Given("kvzip", {{"decode_every", "4"}})),
              AllOf(HasSubstr("kv.option.decode_every"), HasSubstr("a second reading of the part")));
  EXPECT_THAT(Refusal(Given("kvzip", {{"chunk", "0"}})), HasSubstr("out of range"));
  EXPECT_THAT(Refusal(Given("kvzip", {{"sinks", "some"}})), HasSubstr("auto or 0 .. "));
}

// One short line each, for every form of the cache that there is.
TEST(Forms, SayWhatTheyCost) {
  const auto expect_said = [](const std::string& name, const Cost& cost) {
    for (const std::string& text : {cost.prompt, cost.step}) {
      EXPECT_FALSE(text.empty()) << name;
      EXPECT_LE(text.size(), 200u) << name;
    }
    for (const std::string& text : {cost.prompt, cost.step, cost.bytes})
      EXPECT_THAT(text, Not(HasSubstr("\n"))) << name;
  };
  for (const PolicyInfo& policy : Policies()) {
    expect_said(policy.name, policy.cost);
    // Whoever holds has work to do at every step, the others none.
    EXPECT_EQ(policy.cost.step.starts_with("nothing"), !policy.holds) << policy.name;
    EXPECT_EQ(!policy.cost.bytes.empty(), policy.merges) << policy.name;
  }
  for (const RetrievalInfo& view : RetrievalViews()) {
    expect_said(view.name, view.cost);
    EXPECT_FALSE(view.cost.bytes.empty()) << view.name;
  }
  std::vector<std::string> rules = {"auto"};
  for (const FormInfo& form : MergeForms()) {
    rules.push_back(form.name);
    expect_said(form.name, form.cost);
    EXPECT_EQ(form.cost.bytes.empty(), form.name == "none");
  }
  rules.push_back("similar");
  EXPECT_EQ(rules, MergeRules());
  for (const FormInfo& form : StoreForms()) expect_said(form.name, form.cost);
  int integers = 0;
  for (const FormInfo& form : CodecForms()) {
    expect_said(form.name, form.cost);
    if (form.bits == 0) continue;
    ++integers;
    // As much as a head of 64 entries takes that has no tail.
    KvOptions options;
    options.keys = options.values = form.name;
    const KvCacheSpec spec = WithCodecs(options, KvCacheSpec::Uniform(1, 1, 128, KvFormat::kBF16));
    EXPECT_EQ(8.0 * static_cast<double>(EntriesBytes(spec[0], 64)) / (2 * 64 * 128), form.bits) << form.name;
    EXPECT_THAT(form.cost.bytes, HasSubstr(std::to_string(static_cast<int>(form.bits)) + " bits")) << form.name;
  }
  EXPECT_EQ(integers, 3);
}

TEST(Forms, NothingElseIsAskedOfThem) {
  KvOptions options;
  options.keys = "int4";
  options.options = {{"residual", "64"}};
  EXPECT_NO_THROW(CheckKvForms(options));
  options.options = {{"n-attn", "1"}};
  ExpectUsageError("kv.option.n-attn", "cannot take effect", [&] { CheckKvForms(options); });
  options.options = {{"key_group", "5"}};
  ExpectUsageError("kv.option.key_group", "32|8|16", [&] { CheckKvForms(options); });
}

TEST(Budget, FloorsAreExact) {
  EXPECT_EQ(FloorShare(0.3, 10), 3);
  EXPECT_EQ(FloorShare(0.29, 100), 29);  // 28.999999999999996 in f64
  KvOptions options;
  options.budget = 0.001;
  EXPECT_EQ(BaseBudget(options, 100), 1);
  options.budget = 1;
  EXPECT_EQ(BaseBudget(options, 100), 100);
  options = {};
  options.tokens = 200;
  EXPECT_EQ(BaseBudget(options, 100), 100);
}

TEST(Budget, RetrievalGoesByCopying) {
  const std::vector<double> equal(6, 0.3), none(6, 0.0), two = {0, 0.995, 0.495, 0};
  EXPECT_THAT(RetrievalCounts(equal, 100, 1000, 36, 1), Each(100));
  EXPECT_THAT(RetrievalCounts(none, 100, 1000, 36, 1), Each(100));
  EXPECT_THAT(RetrievalCounts(two, 100, 1000, 0, 0), Each(100));  // gamma 0: all alike
  // 400 entries by 0.005 : 1 : 0.5 : 0.005; then the second one is full at 200, and the others share the rest.
  EXPECT_THAT(RetrievalCounts(two, 100, 1000, 0, 1), ElementsAre(1, 265, 133, 1));
  EXPECT_THAT(RetrievalCounts(two, 100, 200, 0, 1), ElementsAre(2, 200, 196, 2));
  std::mt19937 random(3);
  for (int round = 0; round < 3000; ++round) {
    std::vector<double> copying(1 + random() % 40);
    for (double& one : copying) one = random() % 3 == 0 ? 0 : double(random() % 1000) / 999;
    const auto tokens = int64_t(2 + random() % 300);
    const auto base = int64_t(1 + random() % uint64_t(tokens - 1));
    const auto guarded = int64_t(random() % uint64_t(base + 1));
    const double gamma = double(random() % 9) / 2;
    const std::vector<int64_t> counts = RetrievalCounts(copying, base, tokens, guarded, gamma);
    SCOPED_TRACE(testing::Message() << base << " of " << tokens << ", " << guarded << " protected, gamma " << gamma);
    EXPECT_EQ(std::accumulate(counts.begin(), counts.end(), int64_t{0}), base * int64_t(copying.size()));
    for (size_t i = 0; i < counts.size(); ++i) {
      EXPECT_GE(counts[i], guarded);
      EXPECT_LE(counts[i], tokens);
      for (size_t j = 0; j < i; ++j) {
        EXPECT_TRUE(copying[i] < copying[j] || counts[i] + 1 >= counts[j]);  // but for rounding
      }
    }
  }
}

TEST(Budget, PyramidAddsUpExactly) {
  EXPECT_THAT(PyramidCounts(4, 100, 1000, 0, 20), ElementsAre(195, 132, 68, 5));
  EXPECT_THAT(PyramidCounts(1, 100, 1000, 0, 20), ElementsAre(100));
  EXPECT_THAT(PyramidCounts(3, 90, 100, 0, 20), ElementsAre(100, 90, 80));   // no layer above the length
  EXPECT_THAT(PyramidCounts(3, 40, 1000, 30, 20), ElementsAre(50, 40, 30));  // none below the protected
  for (int64_t layers = 1; layers < 40; ++layers) {
    for (int64_t base = 1; base < 70; ++base) {
      int64_t total = 0;
      for (const int64_t count : PyramidCounts(layers, base, 70, base * 3 / 4, 20)) {
        EXPECT_GE(count, base * 3 / 4);
        EXPECT_LE(count, 70);
        total += count;
      }
      EXPECT_EQ(total, layers * base);
    }
  }
}

}  // namespace
}  // namespace purekv
