// The spatial-temporal plan against its definition, pair by pair, over random layouts; and what it computes against
// dense attention under a mask.
#include "engine/spatial_temporal.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "attention/sparse.h"
#include "attention/testing.h"

namespace purekv {
namespace {

using Kind = TokenRecord::Kind;
using testing::ExpectNear;
using testing::ExpectRowsNear;
using testing::ForEachImplementation;
using testing::Guarded;
using testing::kBf16Error;

constexpr int64_t kNone = SpatialTemporalPattern::kNoAnchors;

void AddText(std::vector<TokenRecord>* layout, int64_t count) {
  layout->insert(layout->end(), static_cast<size_t>(count), TokenRecord{});
}

void AddMedium(std::vector<TokenRecord>* layout, Kind kind, int32_t item, int32_t slices, int32_t rows, int32_t columns,
               int64_t text_between) {
  for (int32_t t = 0; t < slices; ++t) {
    for (int32_t y = 0; y < rows; ++y) {
      for (int32_t x = 0; x < columns; ++x) layout->push_back({kind, item, t, y, x});
    }
    if (t + 1 < slices) AddText(layout, text_between);
  }
}

// The definition of docs/purekv.md, written down a second time.
bool SeesByTheBook(const SpatialTemporalPattern& p, const std::vector<TokenRecord>& layout, size_t i, size_t j) {
  const TokenRecord& q = layout[i];
  const TokenRecord& k = layout[j];
  if (j > i) return false;
  const bool text_query = q.kind == Kind::kText;
  const bool text_key = k.kind == Kind::kText || j < static_cast<size_t>(p.sinks);
  if (i == j || text_query || text_key) return true;
  if (q.item != k.item) return false;
  if (q.kind == Kind::kImage) return true;
  if (q.slice == k.slice) return p.spatial;
  if (p.anchor_every >= 0 && k.slice == 0) return true;
  if (p.anchor_every > 0 && k.slice % p.anchor_every == 0) return true;
  if (!p.temporal) return false;
  if (p.temporal_window > 0 && q.slice - k.slice > p.temporal_window) return false;
  const bool cells = q.row >= 0 && q.column >= 0 && k.row >= 0 && k.column >= 0;
  if (!cells) return q.row == k.row && q.column == k.column;
  return std::max(std::abs(q.row - k.row), std::abs(q.column - k.column)) <= p.temporal_radius;
}

// How often each row meets each key.
std::vector<std::vector<int>> Coverage(const SparsePlan& plan, std::span<const int32_t> rows,
                                       std::span<const int32_t> keys, size_t tokens) {
  std::vector<std::vector<int>> seen(rows.size(), std::vector<int>(tokens, 0));
  for (const DenseRows& dense : plan.dense) {
    for (int32_t r = dense.first; r < dense.first + dense.count; ++r) {
      for (const int32_t key : keys) {
        if (key <= rows[static_cast<size_t>(r)]) ++seen[static_cast<size_t>(r)][static_cast<size_t>(key)];
      }
    }
  }
  for (size_t pass = 0; pass < plan.passes.size(); ++pass) {
    std::vector<int> times(rows.size(), 0);
    for (const SparsePart& part : plan.passes[pass]) {
      EXPECT_EQ(part.kv_head, -1);
      const std::vector<int32_t> list = part.keys.Expanded();
      EXPECT_TRUE(std::is_sorted(part.begins.begin(), part.begins.end()));
      EXPECT_TRUE(std::is_sorted(part.ends.begin(), part.ends.end()));
      EXPECT_EQ(static_cast<int64_t>(part.ends.size()), part.rows.size());
      size_t r = 0;
      part.rows.ForEach([&](int32_t row) {
        ++times[static_cast<size_t>(row)];
        for (int32_t k = part.begins.empty() ? 0 : part.begins[r]; k < part.ends[r]; ++k) {
          ++seen[static_cast<size_t>(row)][static_cast<size_t>(list[static_cast<size_t>(k)])];
        }
        ++r;
      });
    }
    for (const DenseRows& dense : plan.dense) {
      for (int32_t r = dense.first; r < dense.first + dense.count; ++r) ++times[static_cast<size_t>(r)];
    }
    for (const int count : times) EXPECT_TRUE(pass + 1 == plan.passes.size() ? count == 1 : count <= 1) << pass;
  }
  return seen;
}

class RandomLayouts {
 public:
  explicit RandomLayouts(uint32_t seed) : random_(seed) {}
  int32_t Draw(int32_t low, int32_t high) {
    return low + static_cast<int32_t>(random_() % static_cast<uint32_t>(high - low + 1));
  }
  std::vector<TokenRecord> Layout() {
    std::vector<TokenRecord> layout;
    AddText(&layout, Draw(0, 6));
    const int32_t items = Draw(1, 3);
    for (int32_t item = 0; item < items; ++item) {
      const bool video = Draw(0, 3) > 0;
      AddMedium(&layout, video ? Kind::kVideo : Kind::kImage, item, video ? Draw(1, 7) : Draw(1, 2), Draw(1, 5),
                Draw(1, 4), Draw(0, 2) == 0 ? Draw(1, 3) : 0);
      AddText(&layout, Draw(0, 4));
    }
    // A grid that is not one: newline tokens without a cell, and holes.
    for (TokenRecord& one : layout) {
      if (one.kind == Kind::kVideo && Draw(0, 30) == 0) one.row = one.column = -1;
    }
    return layout;
  }
  SpatialTemporalPattern Pattern() {
    SpatialTemporalPattern pattern;
    pattern.sinks = Draw(0, 2) == 0 ? Draw(0, 20) : 4;
    pattern.temporal_radius = Draw(0, 2);
    pattern.temporal_window = Draw(0, 1) == 0 ? 0 : Draw(1, 4);
    pattern.anchor_every = Draw(-1, 3);
    pattern.spatial = Draw(0, 3) > 0;
    pattern.temporal = Draw(0, 3) > 0;
    return pattern;
  }

 private:
  std::mt19937 random_;
};

void ExpectCovers(const SpatialTemporalPattern& pattern, const std::vector<TokenRecord>& layout,
                  std::span<const int32_t> rows, std::span<const int32_t> keys) {
  PatternPairs pairs;
  const SparsePlan plan = PlanSpatialTemporal(pattern, layout, rows, keys, &pairs);
  ASSERT_EQ(plan.rows, static_cast<int64_t>(rows.size()));
  const auto seen = Coverage(plan, rows, keys, layout.size());
  double count = 0, dense = 0;
  for (size_t r = 0; r < rows.size(); ++r) {
    std::vector<int> want(layout.size(), 0);
    for (const int32_t key : keys) {
      want[static_cast<size_t>(key)] =
          SeesByTheBook(pattern, layout, static_cast<size_t>(rows[r]), static_cast<size_t>(key)) ? 1 : 0;
      count += want[static_cast<size_t>(key)];
      dense += key <= rows[r] ? 1 : 0;
      EXPECT_EQ(Sees(pattern, layout, rows[r], key), want[static_cast<size_t>(key)] == 1);
    }
    ASSERT_EQ(seen[r], want) << "row of token " << rows[r];
  }
  EXPECT_EQ(pairs.sum(), count);
  EXPECT_EQ(pairs.dense, dense);
}

std::vector<int32_t> Range(int32_t first, int32_t end) {
  std::vector<int32_t> range(static_cast<size_t>(end - first));
  std::iota(range.begin(), range.end(), first);
  return range;
}

TEST(SpatialTemporalPlan, CoversEachPairOfItsDefinitionOnce) {
  RandomLayouts draw(1);
  for (int round = 0; round < 300; ++round) {
    const std::vector<TokenRecord> layout = draw.Layout();
    const SpatialTemporalPattern pattern = draw.Pattern();
    SCOPED_TRACE(::testing::Message() << "round " << round);
    const auto tokens = static_cast<int32_t>(layout.size());
    if (tokens == 0) continue;
    ExpectCovers(pattern, layout, Range(0, tokens), Range(0, tokens));
    const int32_t first = draw.Draw(0, tokens - 1);  // a block in the middle
    const int32_t end = draw.Draw(first, tokens);
    ExpectCovers(pattern, layout, Range(first, end), Range(0, end));
  }
}

TEST(SpatialTemporalPlan, TakesAnySubsetOfTheTokens) {
  RandomLayouts draw(2);
  for (int round = 0; round < 200; ++round) {
    const std::vector<TokenRecord> layout = draw.Layout();
    const SpatialTemporalPattern pattern = draw.Pattern();
    SCOPED_TRACE(::testing::Message() << "round " << round);
    std::vector<int32_t> keys, rows;
    for (int32_t token = 0; token < static_cast<int32_t>(layout.size()); ++token) {
      if (draw.Draw(0, 2) > 0) keys.push_back(token);
    }
    const size_t from = keys.empty() ? 0 : static_cast<size_t>(draw.Draw(0, static_cast<int32_t>(keys.size()) - 1));
    for (size_t i = from; i < keys.size(); ++i) {
      if (draw.Draw(0, 5) > 0) rows.push_back(keys[i]);
    }
    if (!rows.empty()) ExpectCovers(pattern, layout, rows, keys);
  }
}

TEST(SpatialTemporalPlan, PartsOfARegularVideoAreStrided) {
  std::vector<TokenRecord> layout;
  AddText(&layout, 15);
  AddMedium(&layout, Kind::kVideo, 0, 16, 8, 8, 0);
  const auto tokens = static_cast<int32_t>(layout.size());
  const SparsePlan plan = PlanSpatialTemporal({}, layout, Range(0, tokens), Range(0, tokens), nullptr);
  EXPECT_EQ(plan.dense.size(), 1u);
  ASSERT_EQ(plan.passes.size(), 2u);
  EXPECT_EQ(plan.passes[0].size(), 64u);  // columns
  EXPECT_EQ(plan.passes[1].size(), 16u);  // frames
  for (const SparsePart& part : plan.passes[0]) {
    ASSERT_EQ(part.keys.runs().size(), 1u);
    EXPECT_EQ(part.keys.runs()[0].stride, 64);
    EXPECT_EQ(part.rows.runs().size(), 1u);
  }
  for (const SparsePart& part : plan.passes[1]) EXPECT_LE(part.keys.runs().size(), 3u);
}

// One layer: queries, keys and values of a whole layout.
struct Layer {
  Layer(const std::vector<TokenRecord>& records, Dtype kv_dtype, uint32_t seed)
      : layout(records),
        dtype(kv_dtype),
        tokens(static_cast<int64_t>(records.size())),
        q(Dtype::kF32, tokens, kHeads * kDim, 0),
        k(kv_dtype, tokens, kKvHeads * kDim, 0),
        v(kv_dtype, tokens, kKvHeads * kDim, 0) {
    std::mt19937 random(seed);
    q.Fill(random);
    k.Fill(random);
    v.Fill(random);
    if (dtype == Dtype::kBF16) q.RoundToBF16();
  }
  static constexpr int64_t kHeads = 6, kKvHeads = 2, kDim = 32;

  // Softmax over the pairs that the mask allows, in double. kept[g]: tokens that KV head g still holds.
  void Masked(const SpatialTemporalPattern& pattern, const std::vector<std::vector<int32_t>>& kept, int64_t first,
              Guarded* out) {
    for (int64_t i = first; i < tokens; ++i) {
      for (int64_t h = 0; h < kHeads; ++h) {
        const int64_t g = h / (kHeads / kKvHeads);
        std::vector<double> weights, sum(kDim, 0.0);
        std::vector<int32_t> seen;
        for (const int32_t j : kept[static_cast<size_t>(g)]) {
          if (!SeesByTheBook(pattern, layout, static_cast<size_t>(i), static_cast<size_t>(j))) continue;
          double logit = 0;
          for (int64_t d = 0; d < kDim; ++d) {
            logit += static_cast<double>(q.At(i, h * kDim + d)) * static_cast<double>(k.At(j, g * kDim + d));
          }
          weights.push_back(logit / std::sqrt(static_cast<double>(kDim)));
          seen.push_back(j);
        }
        const double top = *std::max_element(weights.begin(), weights.end());
        double total = 0;
        for (double& w : weights) total += w = std::exp(w - top);
        for (size_t n = 0; n < seen.size(); ++n) {
          for (int64_t d = 0; d < kDim; ++d) {
            sum[static_cast<size_t>(d)] += weights[n] / total * static_cast<double>(v.At(seen[n], g * kDim + d));
          }
        }
        for (int64_t d = 0; d < kDim; ++d) {
          out->Set(i - first, h * kDim + d, static_cast<float>(sum[static_cast<size_t>(d)]));
        }
      }
    }
  }

  // The same by plans over blocks of `block` rows, each head holding the tokens kept[g] of those before `first`.
  void Planned(const SpatialTemporalPattern& pattern, const std::vector<std::vector<int32_t>>& kept, int64_t first,
               int64_t block, Guarded* out) {
    for (int64_t row = first; row < tokens; row += block) {
      const int64_t end = std::min(tokens, row + block);
      std::vector<Guarded> keys, values;
      std::vector<std::vector<int32_t>> lists;
      std::vector<KvHeadView> kv;
      for (int64_t g = 0; g < kKvHeads; ++g) {
        std::vector<int32_t>& list = lists.emplace_back();
        for (const int32_t token : kept[static_cast<size_t>(g)]) {
          if (token < end) list.push_back(token);
        }
        keys.emplace_back(dtype, static_cast<int64_t>(list.size()), kDim, 0);
        values.emplace_back(dtype, static_cast<int64_t>(list.size()), kDim, 0);
        for (size_t i = 0; i < list.size(); ++i) {
          for (int64_t d = 0; d < kDim; ++d) {
            keys.back().Set(static_cast<int64_t>(i), d, k.At(list[i], g * kDim + d));
            values.back().Set(static_cast<int64_t>(i), d, v.At(list[i], g * kDim + d));
          }
        }
      }
      std::vector<std::span<const int32_t>> spans(lists.begin(), lists.end());
      for (size_t g = 0; g < lists.size(); ++g) {
        kv.push_back({keys[g].View().data, values[g].View().data, keys[g].rows(), kDim, kDim, FormatOf(dtype)});
      }
      SparseAttentionArgs args;
      args.dense.q = q.Floats().Rows(row, end - row);
      args.dense.kv = kv;
      args.dense.heads = kHeads;
      args.dense.head_dim = kDim;
      args.dense.scale = 1.0F / std::sqrt(static_cast<float>(kDim));
      args.dense.out = out->View().Rows(row - first, end - row);
      args.tokens = spans;
      const auto rows = Range(static_cast<int32_t>(row), static_cast<int32_t>(end));
      SparseAttention(args, PlanSpatialTemporal(pattern, layout, rows, Range(0, static_cast<int32_t>(end)), nullptr));
    }
  }

  std::vector<TokenRecord> layout;
  Dtype dtype;
  int64_t tokens;
  Guarded q, k, v;
};

void CheckRun(const SpatialTemporalPattern& pattern, const std::vector<TokenRecord>& layout, double kept_share,
              uint32_t seed) {
  std::mt19937 random(seed);
  for (const Dtype dtype : {Dtype::kF32, Dtype::kBF16}) {
    Layer layer(layout, dtype, seed);
    const int64_t first = kept_share < 1 ? layer.tokens / 2 : 0;
    std::vector<std::vector<int32_t>> kept(Layer::kKvHeads);
    std::bernoulli_distribution keep(kept_share);
    for (auto& list : kept) {
      for (int32_t token = 0; token < static_cast<int32_t>(layer.tokens); ++token) {
        if (token >= first || keep(random)) list.push_back(token);
      }
    }
    Guarded want(Dtype::kF32, layer.tokens - first, Layer::kHeads * Layer::kDim, 0);
    layer.Masked(pattern, kept, first, &want);
    ForEachImplementation([&](bool bf16) {
      for (const int64_t block : {int64_t{1000}, int64_t{37}}) {
        Guarded got(Dtype::kF32, want.rows(), want.cols(), 0);
        layer.Planned(pattern, kept, first, block, &got);
        if (bf16 && dtype == Dtype::kBF16) {
          ExpectRowsNear(got, want, Layer::kDim, kBf16Error);
        } else {
          ExpectNear(got, want, 1e-5, 1e-5);
        }
      }
    });
  }
}

std::vector<TokenRecord> MixedLayout() {
  std::vector<TokenRecord> layout;
  AddText(&layout, 5);
  AddMedium(&layout, Kind::kVideo, 0, 6, 3, 5, 0);
  AddText(&layout, 2);
  AddMedium(&layout, Kind::kImage, 1, 1, 4, 3, 0);
  AddMedium(&layout, Kind::kVideo, 2, 5, 4, 3, 2);  // text between its frames
  AddText(&layout, 7);
  return layout;
}

TEST(SpatialTemporal, EqualsDenseAttentionUnderTheMask) {
  const std::vector<TokenRecord> layout = MixedLayout();
  uint32_t seed = 1;
  for (const SpatialTemporalPattern& pattern :
       {SpatialTemporalPattern{}, SpatialTemporalPattern{.temporal_radius = 1},
        SpatialTemporalPattern{.sinks = 0, .temporal_window = 2, .anchor_every = kNone},
        SpatialTemporalPattern{.sinks = 11, .temporal_radius = 2, .temporal_window = 1, .anchor_every = 2},
        SpatialTemporalPattern{.anchor_every = kNone, .temporal = false},
        SpatialTemporalPattern{.anchor_every = kNone, .spatial = false},
        SpatialTemporalPattern{.sinks = 0, .anchor_every = kNone, .spatial = false, .temporal = false}}) {
    SCOPED_TRACE(::testing::Message() << "pattern " << seed);
    CheckRun(pattern, layout, 1, seed);
    CheckRun(pattern, layout, 0.5, seed);  // ragged: each head has lost other keys of the first half
    ++seed;
  }
}

TEST(SpatialTemporal, RandomLayouts) {
  RandomLayouts draw(9);
  for (uint32_t round = 0; round < 6; ++round) {
    std::vector<TokenRecord> layout = draw.Layout();
    AddText(&layout, 1);
    SCOPED_TRACE(::testing::Message() << "round " << round);
    CheckRun(draw.Pattern(), layout, round % 2 == 0 ? 1 : 0.6, round);
  }
}

}  // namespace
}  // namespace purekv
