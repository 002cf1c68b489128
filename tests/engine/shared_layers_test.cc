// Layers that read the keys and values of a lower one: policies see the lower one as attended to by all of them, and
// nothing of it goes before the last of them has read it.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>

#include "models/language_model.h"
#include "policy/codecs.h"
#include "policy/registry.h"
#include "purekv/session.h"
#include "support/expect_error.h"
#include "support/plain_decoder.h"
#include "support/small_model.h"

namespace purekv {
namespace {

constexpr int64_t kWindow = 12;

// 0 and 3 are full and have readers, 2 and 5; 1 has a window and a reader, 4.
Json Map() {
  return Json::array({Json::object(),
                      {{"window", kWindow}},
                      {{"kv", 0}},
                      Json::object(),
                      {{"kv", 1}, {"window", kWindow}},
                      {{"kv", 3}}});
}

class SharedLayers : public testing::TestWithParam<std::string> {
 protected:
  static void SetUpTestSuite() {
    files_ =
        std::make_unique<SmallModel>(Heads{4, 2}, nullptr, [](Json& config) { config["purekv_layer_map"] = Map(); });
  }
  static void TearDownTestSuite() { files_.reset(); }
  static const std::shared_ptr<const Model>& model() { return files_->model(); }
  static SessionOptions Options(const std::string& policy, int64_t tokens) {
    SessionOptions options;
    options.kv.policy = policy;
    if (policy != "full") options.kv.tokens = tokens;
    options.threads = 1;
    return options;
  }
  static Turn Video() { return files_->VideoTurn(); }

  static std::unique_ptr<SmallModel> files_;
};
std::unique_ptr<SmallModel> SharedLayers::files_;

TEST_P(SharedLayers, ReadersHaveWhatTheirOwnersKept) {
  for (const int64_t budget : {1, 9, 40}) {
    Session session(model(), Options(GetParam(), budget));
    const auto tokens = static_cast<int64_t>(session.Read(Video()).ids.size());
    ASSERT_GT(tokens, budget);
    const auto kept = session.kept();
    EXPECT_EQ(kept[2], kept[0]);
    EXPECT_EQ(kept[5], kept[3]);
    EXPECT_EQ(kept[4], kept[1]);
    for (const auto& head : kept[1]) {
      std::vector<int32_t> last(static_cast<size_t>(kWindow));
      std::iota(last.begin(), last.end(), static_cast<int32_t>(tokens - kWindow));
      EXPECT_EQ(head, last);
    }
    size_t entries = 0;
    for (const size_t owner : {0u, 3u}) {
      for (const auto& head : kept[owner]) entries += head.size();
    }
    EXPECT_EQ(entries, static_cast<size_t>(2 * 2 * budget));
    EXPECT_EQ(session.kv().tokens_kept_mean, static_cast<double>(budget));
    EXPECT_GT(session.Generate({.max_new_tokens = 20}, nullptr).ids.size(), 0u);
  }
}

TEST_P(SharedLayers, AWholeBudgetChangesNothing) {
  if (FindPolicy(GetParam()).holds) return;  // evicts as it decodes
  Session full(model(), Options("full", 0));
  full.Read(Video());
  const Answer right = full.Generate({.max_new_tokens = 16}, nullptr);
  Session session(model(), Options(GetParam(), 1000));
  session.Read(Video());
  EXPECT_EQ(session.Generate({.max_new_tokens = 16}, nullptr).logprobs, right.logprobs);
}

// A reader's rows come when its owner has those of the whole prompt.
TEST_P(SharedLayers, BlocksOfRowsDoNotMatter) {
  std::vector<std::vector<std::vector<int32_t>>> first;
  for (const int64_t block : {0, 1, 7, 64}) {
    SessionOptions options = Options(GetParam(), 13);
    options.block_rows = block;
    Session session(model(), options);
    session.Read(Video());
    if (first.empty()) first = session.kept();
    EXPECT_EQ(session.kept(), first) << "blocks of " << block;
  }
}

TEST_P(SharedLayers, ABudgetInBytesIsWhatIsAllocated) {
  Session full(model(), Options("full", 0));
  full.Read(Video());
  SessionOptions options = Options(GetParam(), 0);
  options.kv.tokens.reset();
  options.kv.bytes = full.kv().bytes_full / 2;
  Session session(model(), options);
  session.Read(Video());
  EXPECT_LE(session.kv().bytes_kept, *options.kv.bytes);
  EXPECT_GT(session.kv().tokens_kept_mean, 1);
}

INSTANTIATE_TEST_SUITE_P(Policies, SharedLayers, testing::ValuesIn([] {
                           std::vector<std::string> names;
                           for (const PolicyInfo& policy : Policies()) {
                             if (policy.name != "full") names.push_back(policy.name);
                           }
                           return names;
                         }()),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

class SharedLayersModel : public SharedLayers {};

// h2o's sums are those of all heads that attend, in the owner's layer and its reader's.
TEST_F(SharedLayersModel, SumsAreOfAllLayersThatAttend) {
  const Decoder& decoder = files_->internals().decoder();
  std::vector<int32_t> ids;
  std::vector<Position> positions;
  for (int32_t i = 0; i < 60; ++i) {
    ids.push_back(3 + 7 * i % 200);
    positions.push_back({i, i, i});
  }
  Matrix<float> embedded(60, decoder.config().hidden);
  decoder.Embed(ids, embedded.View());
  Rows hidden;
  for (int64_t i = 0; i < 60; ++i) hidden.emplace_back(embedded.Row(i), embedded.Row(i) + embedded.cols());
  std::vector<PlainDecoder::LayerRecord> records;
  PlainDecoder(decoder.config(), SmallModel::kSeed)
      .Run(hidden, positions, 0, decoder.config().layers,
           {.sees = [](int64_t, int64_t, size_t, size_t) { return true; },
            .counts = [](int64_t, size_t) { return true; }},
           &records);
  constexpr int64_t kBudget = 16, kRecent = kBudget / 2;
  Session session(model(), Options("h2o", kBudget));
  session.ReadIds(ids);
  for (const auto& [owner, reader] : {std::pair<size_t, size_t>{0, 2}, {3, 5}}) {
    for (size_t head = 0; head < 2; ++head) {
      std::vector<double> sums = records[owner].received[head];
      for (size_t j = 0; j < sums.size(); ++j) sums[j] += records[reader].received[head][j];
      std::vector<int32_t> order(ids.size() - kRecent);
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
        return sums[static_cast<size_t>(a)] > sums[static_cast<size_t>(b)];
      });
      order.resize(kBudget - kRecent);
      for (int32_t j = 60 - kRecent; j < 60; ++j) order.push_back(j);
      std::sort(order.begin(), order.end());
      EXPECT_EQ(session.kept()[owner][head], order) << "layer " << owner << ", head " << head;
    }
  }
}

TEST_F(SharedLayersModel, CodecsViewsAndStoresWork) {
  Session full(model(), Options("full", 0));
  full.Read(Video());
  const Answer right = full.Generate({.max_new_tokens = 12}, nullptr);
  // A file holds what memory would.
  SessionOptions options = Options("full", 0);
  options.kv.store.kind = StoreOptions::Kind::kFile;
  Session stored(model(), options);
  stored.Read(Video());
  EXPECT_EQ(stored.Generate({.max_new_tokens = 12}, nullptr).logprobs, right.logprobs);
  EXPECT_LT(stored.kv().bytes_resident, stored.kv().bytes_kept);
  // A whole budget looks everything up.
  options = Options("full", 0);
  options.kv.attend.view = "quest";
  options.kv.attend.budget = 1;
  options.kv.attend.options = {{"attend_dense_layers", "0"}};
  Session looked(model(), options);
  looked.Read(Video());
  EXPECT_EQ(looked.Generate({.max_new_tokens = 12}, nullptr).logprobs, right.logprobs);
  // Eight bits change little, and take half of four bytes' quarter: 9 bits an element.
  options = Options("full", 0);
  options.kv.keys = options.kv.values = "int8";
  options.kv.key_channels = 0.75;
  options.kv.options = {{"residual", "32"}};
  Session encoded(model(), options);
  encoded.Read(Video());
  EXPECT_LT(encoded.kv().bytes_kept, full.kv().bytes_kept * 2 / 3);
  EXPECT_GT(encoded.Generate({.max_new_tokens = 12}, nullptr).ids.size(), 0u);
}

TEST_F(SharedLayersModel, MergesChunksAndSharesOfMassWork) {
  const auto answers = [&](const SessionOptions& options) {
    Session session(model(), options);
    session.Read(Video());
    const auto kept = session.kept();
    EXPECT_EQ(kept[2], kept[0]);
    EXPECT_EQ(kept[5], kept[3]);
    EXPECT_GT(session.Generate({.max_new_tokens = 12}, nullptr).ids.size(), 0u);
    return session.kv();
  };
  for (const char* const bias : {"0", "1"}) {
    SessionOptions options = Options("snapkv", 40);
    options.kv.merge = "averaged";
    options.kv.options = {{"merge_bias", bias}};
    EXPECT_GT(answers(options).merged, 1);
  }
  SessionOptions options = Options("knorm", 24);
  options.kv.chunk = 16;
  const KvStats chunked = answers(options);
  EXPECT_EQ(chunked.tokens_kept_mean, 24);
  EXPECT_LT(chunked.bytes_peak, chunked.bytes_full);
  options = Options("expected-attention", 40);
  options.kv.allocator = "prefix";
  EXPECT_EQ(answers(options).tokens_kept_mean, 40);
  options = Options("snapkv", 24);
  options.kv.options = {{"decode_every", "4"}};
  answers(options);
}

TEST_F(SharedLayersModel, WhatCannotBeIsRefused) {
  SessionOptions options = Options("purekv", 20);
  options.kv.options = {{"sources", "2"}};
  ExpectUsageError("kv.option.sources", "layer 2 reads another's cache", [&] { Session(model(), options); });
  options = Options("vnorm", 20);
  options.kv.drop_layers = {{4, 0.5}};
  ExpectUsageError("kv.drop_layers", "layers with a window", [&] { Session(model(), options); });
  options = Options("full", 0);
  options.kv.basis = "bases.safetensors";
  ExpectUsageError("kv.basis", "keep a window",
                   [&] { WithCodecs(options.kv, files_->internals().decoder().cache_spec()); });
  options = Options("full", 0);
  options.prefill.kind = "st";
  ExpectUsageError("prefill.kind", "layers that read another's cache", [&] { Session(model(), options); });
}

}  // namespace
}  // namespace purekv
