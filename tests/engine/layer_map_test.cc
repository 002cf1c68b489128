// Policies on a model of which some layers have a window: those keep their window, whatever the policy, and the budget
// is for the others.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>

#include "policy/registry.h"
#include "purekv/session.h"
#include "support/expect_error.h"
#include "support/reference_model.h"

namespace purekv {
namespace {

constexpr int64_t kWindow = 16;
constexpr int64_t kFullLayers[] = {2, 5};  // of six

class LayerMap : public testing::TestWithParam<std::string> {
 protected:
  static void SetUpTestSuite() {
    files_ = std::make_unique<ReferenceModel>("gemma3");
    model_ = Model::Load(files_->directory(), {.activations = Dtype::kF32});
  }
  static void TearDownTestSuite() {
    model_.reset();
    files_.reset();
  }
  static SessionOptions Options(const std::string& policy, int64_t tokens) {
    SessionOptions options;
    options.kv.policy = policy;
    options.kv.tokens = tokens;
    options.threads = 1;
    return options;
  }
  static Turn Long() { return files_->TurnNamed("long"); }
  static bool Full(int64_t layer) { return layer == kFullLayers[0] || layer == kFullLayers[1]; }
  static std::vector<int32_t> Last(int64_t count, int64_t tokens) {
    std::vector<int32_t> last(static_cast<size_t>(count));
    std::iota(last.begin(), last.end(), static_cast<int32_t>(tokens - count));
    return last;
  }

  static std::unique_ptr<ReferenceModel> files_;
  static std::shared_ptr<const Model> model_;
};
std::unique_ptr<ReferenceModel> LayerMap::files_;
std::shared_ptr<const Model> LayerMap::model_;

TEST_P(LayerMap, WindowsAreKeptAndTheOthersCut) {
  for (const int64_t budget : {1, 24, 60}) {
    Session session(model_, Options(GetParam(), budget));
    const auto tokens = static_cast<int64_t>(session.Read(Long()).ids.size());
    ASSERT_GT(tokens, budget);
    const auto kept = session.kept();
    for (int64_t layer = 0; layer < 6; ++layer) {
      const auto& head = kept[static_cast<size_t>(layer)][0];
      if (Full(layer)) {
        // Some policies share the budget out among layers and heads: the mean is below.
        const bool shared = FindPolicy(GetParam()).repeats || GetParam() == "purekv" || GetParam() == "prefixkv";
        if (!shared) {
          EXPECT_EQ(static_cast<int64_t>(head.size()), budget) << "layer " << layer;
        }
      } else {
        EXPECT_EQ(head, Last(kWindow, tokens)) << "layer " << layer;
      }
    }
    EXPECT_EQ(session.kv().tokens_kept_mean, static_cast<double>(budget));
    EXPECT_GT(session.Generate({.max_new_tokens = 24}, nullptr).ids.size(), 0u);
  }
}

TEST_P(LayerMap, AWholeBudgetChangesNothing) {
  if (FindPolicy(GetParam()).holds) return;  // evicts as it decodes
  Session full(model_, {});
  full.Read(Long());
  const Answer right = full.Generate({.max_new_tokens = 16}, nullptr);
  Session session(model_, Options(GetParam(), 1000));
  session.Read(Long());
  EXPECT_EQ(session.Generate({.max_new_tokens = 16}, nullptr).logprobs, right.logprobs);
}

std::vector<std::string> CompressingPolicies() {
  std::vector<std::string> names;
  for (const PolicyInfo& policy : Policies()) {
    if (policy.name != "full") names.push_back(policy.name);
  }
  return names;
}

INSTANTIATE_TEST_SUITE_P(Policies, LayerMap, testing::ValuesIn(CompressingPolicies()), [](const auto& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

class WindowedModel : public LayerMap {};

TEST_F(WindowedModel, PyramidRampsOverTheFullLayersOnly) {
  SessionOptions options = Options("knorm", 30);
  options.kv.allocator = "pyramid";
  Session session(model_, options);
  session.Read(Long());
  const size_t low = session.kept()[2][0].size(), high = session.kept()[5][0].size();
  EXPECT_GT(low, high);
  EXPECT_EQ(low + high, 60u);
}

TEST_F(WindowedModel, ABudgetInBytesPaysTheWindowsFirst) {
  const int64_t entry = 2 * 64 * 4;
  SessionOptions options = Options("knorm", 0);
  options.kv.tokens.reset();
  options.kv.bytes = (4 * kWindow + 2 * 33) * entry;
  Session session(model_, options);
  session.Read(Long());
  EXPECT_LE(session.kv().bytes_kept, *options.kv.bytes);
  EXPECT_GE(session.kept()[2][0].size(), 24u);  // pages round
  EXPECT_LE(session.kept()[2][0].size(), 33u);
}

TEST_F(WindowedModel, LowerFullLayersWaitForTheSourceOverWindows) {
  SessionOptions options = Options("purekv", 20);
  options.kv.options = {{"sources", "5"}, {"below", "wait"}, {"vnorm", "0"}, {"heads", "mean"}};
  Session session(model_, options);
  session.Read(Long());
  EXPECT_EQ(session.kept()[2], session.kept()[5]);  // by the same sums
}

TEST_F(WindowedModel, WhatWindowsForbidIsRefused) {
  SessionOptions options = Options("purekv", 20);
  options.kv.options = {{"sources", "3"}};
  ExpectUsageError("kv.option.sources", "layer 3 has a window", [&] { Session(model_, options); });
  options = Options("vnorm", 20);
  options.kv.drop_layers = {{4, 0.5}};
  ExpectUsageError("kv.drop_layers", "layers with a window", [&] { Session(model_, options); });
}

TEST_F(WindowedModel, CannotBeSavedYet) {
  SessionOptions options;
  options.kv.when = KvOptions::When::kContext;
  Turn turn;
  turn.context = files_->TurnNamed("long").prompt;
  Session session(model_, options);
  session.ReadMedia(turn);
  const TemporaryDirectory directory("windows");
  ExpectUsageError("", "layers of one kind", [&] { session.Save(directory.File("text.pkv")); });
}

TEST_F(WindowedModel, GivesBackWhatWindowsHaveLeft) {
  Session session(model_, {});
  session.Read(Long());
  const int64_t before = session.kv().bytes_full;
  EXPECT_EQ(session.kept()[0][0].size(), static_cast<size_t>(kWindow));
  EXPECT_LE(session.kv().bytes_kept, before);
}

}  // namespace
}  // namespace purekv
