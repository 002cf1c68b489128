// How well heads copy, against plain loops in double precision.
#include "engine/copying_heads.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <thread>
#include <utility>
#include <vector>

#include "support/plain_decoder.h"
#include "support/small_model.h"

namespace purekv {
namespace {

std::vector<int32_t> PassageTwice(const LanguageModel& model) {
  std::vector<int32_t> ids = model.tokenizer()->EncodePlain(kCopyingPassage);
  EXPECT_GE(ids.size(), 64U);
  EXPECT_TRUE(model.tokenizer()->before_text().empty());
  ids.resize(128);
  std::copy_n(ids.begin(), 64, ids.begin() + 64);
  return ids;
}

// What the tokens 4 .. 62 of the second reading give to the same token of the first and the two behind it.
// [kv_heads], summed over a group's query heads; of one layer.
std::vector<double> Expected(const LanguageModel& model, int64_t layer) {
  const DecoderConfig& config = model.decoder().config();
  const std::vector<int32_t> ids = PassageTwice(model);
  Matrix<float> embedded(128, config.hidden);
  model.decoder().Embed(ids, embedded.View());
  const PlainDecoder plain(config, SmallModel::kSeed);
  std::vector<Position> positions;
  Rows hidden;
  for (int32_t i = 0; i < 128; ++i) {
    positions.push_back({i, i, i});
    hidden.emplace_back(embedded.Row(i), embedded.Row(i) + config.hidden);
  }
  const auto all = [](int64_t, int64_t, size_t, size_t) { return true; };
  plain.Run(hidden, positions, 0, layer, {.sees = all, .counts = [](int64_t, size_t) { return false; }}, nullptr);
  std::vector<double> heads(static_cast<size_t>(config.kv_heads), 0.0);
  for (size_t i = 4; i < 63; ++i) {
    Rows rows(hidden.begin(), hidden.begin() + static_cast<std::ptrdiff_t>(64 + i + 1));
    std::vector<PlainDecoder::LayerRecord> records;
    plain.Run(rows, positions, layer, layer + 1,
              {.sees = all, .counts = [&](int64_t, size_t query) { return query == 64 + i; }}, &records);
    for (size_t g = 0; g < heads.size(); ++g) {
      for (size_t to = i; to <= i + 2; ++to) heads[g] += records.back().received[g][to] / 59;
    }
  }
  return heads;
}

TEST(CopyingHeads, AreThoseOfPlainLoops) {
  for (const auto& [heads, kv_heads] : {std::pair{4, 4}, {4, 2}}) {
    const SmallModel small({heads, kv_heads});
    const CopyingHeads& measured = CopyingHeadsOf(small.internals());
    ASSERT_EQ(measured.size(), static_cast<size_t>(SmallModel::kLayers));
    const int64_t layer = heads == kv_heads ? 1 : 0;  // each takes seconds
    const std::vector<double> expected = Expected(small.internals(), layer);
    const std::vector<double>& found = measured[static_cast<size_t>(layer)];
    ASSERT_EQ(found.size(), expected.size());
    for (size_t g = 0; g < expected.size(); ++g) {
      SCOPED_TRACE(testing::Message() << heads << " over " << kv_heads << ", head " << g);
      // The largest of a group lies between the mean and the sum.
      EXPECT_GE(found[g], expected[g] * kv_heads / heads - 1e-5);
      EXPECT_LE(found[g], expected[g] + 1e-5);
    }
  }
}

TEST(CopyingHeads, AreMeasuredOnceWhoeverAsks) {
  const SmallModel small({4, 2});
  const CopyingHeads* seen[4] = {};
  std::vector<std::thread> threads;
  for (auto& one : seen) threads.emplace_back([&] { one = &CopyingHeadsOf(small.internals()); });
  for (std::thread& thread : threads) thread.join();
  for (const auto* one : seen) EXPECT_EQ(one, seen[0]);
}

}  // namespace
}  // namespace purekv
