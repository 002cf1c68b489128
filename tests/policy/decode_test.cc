// Eviction while decoding: policies that hold their size, prompt tokens read on top, compression every so many steps,
// chunks under a cap.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "policy/policy_testing.h"

namespace purekv::testing {
namespace {

constexpr int64_t kPart = 40, kOnTop = 6, kSteps = 30;

const Problem& TheProblem() {
  static const Problem problem({.layers = 2, .kv_heads = 2, .group = 3, .tokens = kPart + kOnTop + kSteps}, 21);
  return problem;
}

// Attention of query i of head h over the kept tokens, renormalised. [token] 0 elsewhere.
std::vector<double> Attend(int64_t layer, int64_t h, int64_t i, const std::set<int32_t>& held) {
  const auto& full = TheProblem().Row(layer, h, i);
  std::vector<double> row(full.size(), 0.0);
  double sum = 0;
  for (const int32_t j : held) sum += full[size_t(j)];
  for (const int32_t j : held) row[size_t(j)] = full[size_t(j)] / sum;
  return row;
}

// The page's "holds" as plain loops: what each head of a layer holds after every step, from what it kept of the part.
class PlainHolder {
 public:
  // sinks, recent: tova's options.
  PlainHolder(std::string policy, int64_t layer, std::vector<std::vector<int32_t>> kept, int64_t base, int64_t sinks,
              int64_t recent)
      : policy_(std::move(policy)), layer_(layer), base_(base), sinks_(sinks), recent_(recent) {
    for (size_t g = 0; g < kept.size(); ++g) {
      held_.emplace_back(kept[g].begin(), kept[g].end());
      capacity_.push_back(int64_t(kept[g].size()));
      sums_.emplace_back(size_t(TheProblem().s.tokens), 0.0);
      for (int64_t i = 0; i < kPart; ++i) {
        for (int64_t h = int64_t(g) * 3; h < int64_t(g) * 3 + 3; ++h) {
          const auto& row = TheProblem().Row(layer, h, i);
          for (size_t j = 0; j < row.size(); ++j) sums_[g][j] += row[j];
        }
      }
    }
  }

  void Read(int64_t i, bool step) {
    std::vector<double> mean(size_t(TheProblem().s.tokens), 0.0);
    for (size_t g = 0; g < held_.size(); ++g) {
      held_[g].insert(int32_t(i));
      for (int64_t h = int64_t(g) * 3; h < int64_t(g) * 3 + 3; ++h) {
        const auto row = Attend(layer_, h, i, held_[g]);
        for (size_t j = 0; j < row.size(); ++j) sums_[g][j] += row[j], mean[j] += row[j];
      }
      if (!step) ++capacity_[g];
    }
    for (size_t g = 0; g < held_.size(); ++g) {
      if (int64_t(held_[g].size()) <= capacity_[g]) continue;
      std::vector<int32_t> entries(held_[g].begin(), held_[g].end());
      int32_t out = -1;
      if (policy_ == "streaming-llm") out = entries[size_t(std::min<int64_t>(4, base_ / 4))];
      const auto& score = policy_ == "h2o" ? sums_[g] : mean;
      if (policy_ == "h2o") entries.resize(entries.size() - size_t(base_ / 2));
      if (policy_ == "tova") {
        entries.resize(entries.size() - size_t(std::min(recent_, base_ / 2)));
        entries.erase(entries.begin(), entries.begin() + std::min(sinks_, base_ / 4));
      }
      for (const int32_t j : entries) {
        if (policy_ != "streaming-llm" && (out < 0 || score[size_t(j)] <= score[size_t(out)])) out = j;
      }
      held_[g].erase(out);
    }
  }

  const std::vector<std::set<int32_t>>& held() const { return held_; }

 private:
  std::string policy_;
  int64_t layer_, base_, sinks_, recent_;
  std::vector<std::set<int32_t>> held_;
  std::vector<int64_t> capacity_;
  std::vector<std::vector<double>> sums_;
};

void ExpectHolding(const std::string& policy, const std::map<std::string, std::string>& values,
                   const std::string& allocator, int64_t base) {
  const auto value = [&](const char* name, int64_t fallback) {
    return values.contains(name) ? std::stoll(values.at(name)) : fallback;
  };
  const int64_t sinks = value("sinks", 4), recent = value("recent", 32);
  SCOPED_TRACE(policy + " " + allocator + " " + std::to_string(base) + ", sinks " + std::to_string(sinks) +
               ", recent " + std::to_string(recent));
  KvOptions options = Options(policy, values, allocator);
  options.tokens = base;
  SmallEngine engine(TheProblem(), options, 4);
  engine.ReadPart(kPart);
  EXPECT_TRUE(engine.compression.steps_alone());
  const Kept kept = engine.KeptTokens();
  std::vector<PlainHolder> plain;
  for (int64_t layer = 0; layer < 2; ++layer) {
    plain.emplace_back(policy, layer, kept[size_t(layer)], std::min(base, kPart), sinks, recent);
  }
  engine.ReadBehind(kOnTop);
  for (int64_t i = kPart; i < kPart + kOnTop + kSteps; ++i) {
    const bool step = i >= kPart + kOnTop;
    if (step) engine.Step();
    for (PlainHolder& layer : plain) layer.Read(i, step);
    if (!step) continue;
    const Kept now = engine.KeptTokens();
    for (size_t l = 0; l < 2; ++l) {
      for (size_t g = 0; g < 2; ++g) {
        ASSERT_EQ(std::set<int32_t>(now[l][g].begin(), now[l][g].end()), plain[l].held()[g])
            << "layer " << l << " head " << g << " after token " << i;
      }
    }
  }
}

TEST(Decode, HoldingPoliciesFollowTheirRules) {
  for (const int64_t base : {1, 2, 9, 16, 40, 100}) {
    for (const char* const allocator : {"uniform", "pyramid"}) {
      for (const char* const policy : {"streaming-llm", "h2o", "tova"}) ExpectHolding(policy, {}, allocator, base);
      ExpectHolding("tova", {{"sinks", "0"}, {"recent", "0"}}, allocator, base);
      ExpectHolding("tova", {{"sinks", "2"}, {"recent", "1"}}, allocator, base);
    }
    ExpectHolding("h2o", {}, "ada", base);
  }
}

TEST(Decode, OthersGrow) {
  for (const PolicyInfo& policy : Policies()) {
    if (!policy.make || policy.holds) continue;
    KvOptions options = Options(policy.name);
    options.tokens = 12;
    SmallEngine engine(TheProblem(), options);
    engine.ReadPart(kPart);
    EXPECT_FALSE(engine.compression.steps_alone());
    const int64_t observed = engine.observed_rows;
    const Kept before = engine.KeptTokens();
    engine.ReadBehind(kOnTop);
    for (int64_t i = 0; i < kSteps; ++i) engine.Step();
    EXPECT_EQ(engine.KeptTokens()[1][1].size(), before[1][1].size() + size_t(kOnTop + kSteps)) << policy.name;
    EXPECT_EQ(engine.observed_rows, observed) << policy.name << ": nothing is evicted, so nothing need be observed";
  }
}

TEST(Decode, EverySoManySteps) {
  for (const PolicyInfo& policy : Policies()) {
    if (!policy.make || policy.holds || policy.repeats) continue;
    for (const char* const allocator : {"uniform", "ada", "pyramid"}) {
      if (std::string(allocator) == "ada" && !policy.ada) continue;
      SCOPED_TRACE(policy.name + " " + allocator);
      KvOptions options = Options(policy.name, {{"decode_every", "8"}}, allocator);
      options.tokens = 12;
      SmallEngine engine(TheProblem(), options);
      engine.ReadPart(kPart);
      const auto size = [&] {
        size_t sum = 0;
        const Kept now = engine.KeptTokens();
        for (const auto& head : now[1]) sum += head.size();
        return sum;
      };
      const size_t kept = size();
      for (size_t i = 1; i <= 9; ++i) {
        engine.Step();
        EXPECT_EQ(size(), kept + 2 * (i % 8));
      }
      engine.ReadBehind(3);  // a turn in the middle
      for (size_t i = 10; i <= 17; ++i) {
        engine.Step();
        EXPECT_EQ(size(), kept + 2 * (3 + i % 8));
      }
    }
  }
}

// With decode_every the window of snapkv is the steps since the last time, up to its length.
TEST(Decode, WindowOfTheStepsIsObserved) {
  KvOptions options = Options("snapkv", {{"decode_every", "8"}, {"window", "3"}});
  options.tokens = 12;
  SmallEngine engine(TheProblem(), options);
  engine.ReadPart(kPart);
  const int64_t before = engine.observed_rows;
  for (int64_t i = 0; i < 16; ++i) engine.Step();
  EXPECT_EQ(engine.observed_rows - before, 2 * 2 * 3);
}

// Chunks that are cut to the budget one after the other: never more than budget and chunk; what comes last is as in a
// prompt read at once for policies that look at keys and values only.
TEST(Decode, ChunksUnderACap) {
  const Problem problem({.layers = 3, .tokens = 96}, 22);
  for (const PolicyInfo& policy : Policies()) {
    if (!policy.make || policy.repeats) continue;
    for (const char* const allocator : {"uniform", "ada"}) {
      if (std::string(allocator) == "ada" && !policy.ada) continue;
      SCOPED_TRACE(policy.name + " " + allocator);
      KvOptions options =
          Options(policy.name,
                  policy.name == "vnorm" || policy.name == "knorm" ? std::map<std::string, std::string>{{"recent", "0"}}
                                                                   : std::map<std::string, std::string>{},
                  allocator);
      options.tokens = 20;
      SmallEngine engine(problem, options, 8);
      engine.compression.SetPrefix(96);
      for (int64_t chunk = 0; chunk < 6; ++chunk) {
        engine.ReadChunk(16);
        for (int64_t layer = 0; layer < 3; ++layer) {
          EXPECT_EQ(engine.cache.Length(layer, 0) + engine.cache.Length(layer, 1),
                    2 * std::min<int64_t>(20, 16 * (chunk + 1)));
        }
      }
      if (policy.name != "vnorm" && policy.name != "knorm" && policy.name != "streaming-llm" && policy.name != "random")
        continue;
      if (policy.name == "random" || std::string(allocator) == "ada") continue;
      SmallEngine whole(problem, options, 8);
      whole.ReadPart(96);
      EXPECT_EQ(engine.KeptTokens(), whole.KeptTokens());
    }
  }
}

TEST(Decode, ACopyContinuesAlone) {
  KvOptions options = Options("h2o");
  options.tokens = 10;
  SmallEngine engine(TheProblem(), options);
  engine.ReadPart(kPart);
  const Compression saved = engine.compression;
  Compression copy = saved;
  for (int64_t i = 0; i < 5; ++i) engine.Step();
  const Kept first = engine.KeptTokens();
  SmallEngine again(TheProblem(), options);
  again.ReadPart(kPart);
  again.compression = copy;
  for (int64_t i = 0; i < 5; ++i) again.Step();
  EXPECT_EQ(again.KeptTokens(), first);
}

}  // namespace
}  // namespace purekv::testing
