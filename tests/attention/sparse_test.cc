// Sparse attention against its reference on every instruction set: random plans, ragged heads, several passes, windows
// with a lower end; and block-sparse attention.
#include "attention/sparse.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "attention/block_sparse.h"
#include "attention/reference.h"
#include "attention/testing.h"
#include "kernels/testing.h"

namespace purekv {
namespace {

using testing::ExpectNear;
using testing::ExpectRowsNear;
using testing::ForEachImplementation;
using testing::Guarded;
using testing::kBf16Error;
using testing::ScopedThreads;

struct Case {
  int64_t rows = 1;
  int64_t tokens = 1;  // rows are the last of them
  int64_t kv_heads = 2;
  int64_t group = 1;
  int64_t head_dim = 64;
  Dtype kv_dtype = Dtype::kF32;
  Dtype out_dtype = Dtype::kF32;
  double kept = 1;  // share of the past that each head still has
};

class Problem {
 public:
  Problem(const Case& c, uint32_t seed)
      : case_(c), random_(seed), q_(Dtype::kF32, c.rows, c.kv_heads * c.group * c.head_dim, 3) {
    q_.Fill(random_);
    if (c.kv_dtype == Dtype::kBF16) q_.RoundToBF16();
    std::bernoulli_distribution keep(c.kept);
    for (int64_t head = 0; head < c.kv_heads; ++head) {
      std::vector<int32_t> tokens;
      for (int64_t token = 0; token < c.tokens; ++token) {
        if (token >= c.tokens - c.rows || c.kept == 1 || keep(random_)) tokens.push_back(static_cast<int32_t>(token));
      }
      const auto length = static_cast<int64_t>(tokens.size());
      tokens_.push_back(tokens);
      keys_.push_back(std::make_unique<Guarded>(c.kv_dtype, length, c.head_dim, 0));
      values_.push_back(std::make_unique<Guarded>(c.kv_dtype, length, c.head_dim, 5));
      keys_.back()->Fill(random_);
      values_.back()->Fill(random_);
      kv_.push_back({keys_.back()->View().data, values_.back()->View().data, length, keys_.back()->View().stride,
                     values_.back()->View().stride, FormatOf(c.kv_dtype)});
    }
    for (const auto& list : tokens_) spans_.emplace_back(list);
  }
  SparseAttentionArgs Args(Guarded& out, float* lse) {
    SparseAttentionArgs args;
    args.dense.q = q_.Floats();
    args.dense.kv = kv_;
    args.dense.heads = case_.kv_heads * case_.group;
    args.dense.head_dim = case_.head_dim;
    args.dense.scale = 1.0f / std::sqrt(static_cast<float>(case_.head_dim));
    args.dense.out = out.View();
    args.dense.lse = lse;
    args.tokens = spans_;
    return args;
  }
  Guarded Out() const { return Guarded(case_.out_dtype, case_.rows, case_.kv_heads * case_.group * case_.head_dim, 4); }
  int64_t heads() const { return case_.kv_heads * case_.group; }

  // Rows into parts at random; each pass draws its keys from a share of the tokens of its own.
  SparsePlan RandomPlan() {
    SparsePlan plan;
    plan.rows = case_.rows;
    std::vector<int32_t> sparse;
    for (int32_t row = 0; row < case_.rows; ++row) {
      if (Draw(10) > 0) {
        sparse.push_back(row);
      } else if (!plan.dense.empty() && plan.dense.back().first + plan.dense.back().count == row) {
        ++plan.dense.back().count;
      } else {
        plan.dense.push_back({row, 1});
      }
    }
    const int passes = 1 + Draw(3);
    for (int pass = 0; pass < passes; ++pass) {
      const int parts = 1 + Draw(4);
      std::vector<std::vector<int32_t>> rows(static_cast<size_t>(parts));
      for (const int32_t row : sparse) {
        if (pass + 1 == passes || Draw(4) > 0) rows[static_cast<size_t>(Draw(parts))].push_back(row);
      }
      plan.passes.emplace_back();
      for (const auto& list : rows) {
        if (list.empty()) continue;
        SparsePart part;
        part.rows.Add(list);
        std::vector<int32_t> keys;
        for (int32_t token = pass; token < case_.tokens; token += passes) {
          if (Draw(5) > 0) keys.push_back(token);
        }
        if (Draw(3) == 0) std::reverse(keys.begin(), keys.end());
        if (Draw(8) == 0) keys.clear();
        part.keys.Add(keys);
        const bool windows = Draw(2) == 0;
        std::vector<int32_t> limits(2 * list.size());
        for (int32_t& limit : limits) limit = Draw(static_cast<int>(keys.size()) + 1);
        std::sort(limits.begin(), limits.end());
        for (size_t r = 0; r < list.size(); ++r) {
          // Windows of a few places, some of them empty.
          if (windows) part.begins.push_back(limits[2 * r]);
          part.ends.push_back(std::min(limits[2 * r + 1] + (windows ? 40 : 0), static_cast<int32_t>(keys.size())));
        }
        plan.passes.back().push_back(std::move(part));
      }
    }
    return plan;
  }
  int Draw(int n) { return static_cast<int>(random_() % static_cast<uint32_t>(n)); }
  std::vector<std::vector<int32_t>> tokens_;

 private:
  Case case_;
  std::mt19937 random_;
  Guarded q_;
  std::vector<std::unique_ptr<Guarded>> keys_, values_;
  std::vector<KvHeadView> kv_;
  std::vector<std::span<const int32_t>> spans_;
};

void Compare(const Case& c, Problem& problem, const SparsePlan& plan) {
  Guarded want = problem.Out();
  std::vector<float> want_lse(static_cast<size_t>(c.rows * problem.heads()));
  reference::SparseAttention(problem.Args(want, want_lse.data()), plan);
  ForEachImplementation([&](bool bf16) {
    Guarded got = problem.Out();
    std::vector<float> lse(want_lse.size(), 5.0f);
    SparseAttention(problem.Args(got, lse.data()), plan);
    if (bf16 && c.kv_dtype == Dtype::kBF16) {
      ExpectRowsNear(got, want, c.head_dim, kBf16Error);
    } else {
      ExpectNear(got, want, 1e-5, 1e-5);
    }
    EXPECT_TRUE(got.Intact());
    for (size_t i = 0; i < lse.size(); ++i) {
      if (std::isinf(want_lse[i])) {
        EXPECT_EQ(lse[i], want_lse[i]);
      } else {
        EXPECT_NEAR(lse[i], want_lse[i], 2e-5 * (1 + std::abs(static_cast<double>(want_lse[i]))));
      }
    }
  });
}

TEST(SparseAttention, RandomPlans) {
  uint32_t seed = 1;
  for (const Dtype kv : {Dtype::kF32, Dtype::kBF16}) {
    for (const Case& c : {Case{.rows = 1, .tokens = 1, .head_dim = 16}, Case{.rows = 37, .tokens = 90, .group = 3},
                          Case{.rows = 70, .tokens = 333, .group = 7, .head_dim = 32, .out_dtype = Dtype::kBF16},
                          Case{.rows = 41, .tokens = 260, .group = 2, .head_dim = 20, .kept = 0.6},
                          Case{.rows = 150, .tokens = 150, .kv_heads = 1, .group = 2, .head_dim = 128},
                          Case{.rows = 19, .tokens = 140, .kv_heads = 3, .head_dim = 80, .kept = 0.1}}) {
      for (int round = 0; round < 4; ++round) {
        Case one = c;
        one.kv_dtype = kv;
        SCOPED_TRACE(::testing::Message() << c.rows << " rows, head " << c.head_dim << ", seed " << seed);
        Problem problem(one, seed++);
        const SparsePlan plan = problem.RandomPlan();
        Compare(one, problem, plan);
      }
    }
  }
}

TEST(SparseAttention, MoreKeysThanAreGatheredAtATime) {
  const Case c{.rows = 40, .tokens = 9000, .kv_heads = 1, .group = 2, .head_dim = 32, .kv_dtype = Dtype::kBF16};
  Problem problem(c, 77);
  SparsePlan plan;
  plan.rows = c.rows;
  plan.passes.resize(1);
  SparsePart& part = plan.passes[0].emplace_back();
  for (int32_t row = 0; row < 40; ++row) {
    part.rows.Add(row);
    part.begins.push_back(row < 20 ? 0 : 100 * row);
    part.ends.push_back(row < 5 ? 40 : 8960 + row);
  }
  for (int32_t key = 0; key < 9000; ++key) part.keys.Add(key);
  Compare(c, problem, plan);
}

TEST(SparseAttention, AllKeysAreDenseAttention) {
  for (const Dtype kv : {Dtype::kF32, Dtype::kBF16}) {
    const Case c{.rows = 75, .tokens = 200, .group = 3, .head_dim = 64, .kv_dtype = kv};
    Problem problem(c, 5);
    SparsePlan plan;
    plan.rows = c.rows;
    plan.passes.resize(1);
    SparsePart& part = plan.passes[0].emplace_back();
    for (int32_t row = 0; row < 75; ++row) {
      part.rows.Add(row);
      part.ends.push_back(125 + row + 1);
    }
    for (int32_t key = 0; key < 200; ++key) part.keys.Add(key);
    Guarded want = problem.Out();
    reference::Attention(problem.Args(want, nullptr).dense);
    ForEachImplementation([&](bool bf16) {
      Guarded got = problem.Out();
      SparseAttention(problem.Args(got, nullptr), plan);
      if (bf16 && kv == Dtype::kBF16) {
        ExpectRowsNear(got, want, c.head_dim, kBf16Error);
      } else {
        ExpectNear(got, want, 1e-5, 1e-5);
      }
    });
  }
}

TEST(SparseAttention, SameBitsOnAnyNumberOfThreads) {
  const Case c{.rows = 120, .tokens = 500, .group = 3, .head_dim = 64, .kv_dtype = Dtype::kBF16, .kept = 0.7};
  Problem problem(c, 9);
  const SparsePlan plan = problem.RandomPlan();
  Guarded first = problem.Out();
  {
    ScopedThreads threads(1);
    SparseAttention(problem.Args(first, nullptr), plan);
  }
  for (const int count : {2, 5}) {
    ScopedThreads threads(count);
    Guarded out = problem.Out();
    SparseAttention(problem.Args(out, nullptr), plan);
    EXPECT_TRUE(out.SameBits(first)) << count;
  }
}

TEST(IndexList, RunsGiveBackWhatWasAdded) {
  std::mt19937 random(3);
  for (int round = 0; round < 200; ++round) {
    std::vector<int32_t> indices;
    IndexList list;
    while (indices.size() < 60) {
      const auto first = static_cast<int32_t>(random() % 1000);
      const auto step = static_cast<int32_t>(random() % 7) - 3;
      for (uint32_t i = 0; i < random() % 9; ++i) indices.push_back(first + static_cast<int32_t>(i) * step);
    }
    list.Add(indices);
    EXPECT_EQ(list.Expanded(), indices);
    EXPECT_EQ(list.size(), static_cast<int64_t>(indices.size()));
  }
  IndexList column;
  for (int32_t t = 0; t < 64; ++t) column.Add(15 + 256 * t);
  EXPECT_EQ(column.runs().size(), 1u);
}

// Keys of every row of one KV head.
std::vector<std::vector<int32_t>> KeysOf(const SparsePlan& plan, int32_t kv_head) {
  std::vector<std::vector<int32_t>> keys(static_cast<size_t>(plan.rows));
  for (const SparsePart& part : plan.passes.at(0)) {
    if (part.kv_head != kv_head) continue;
    const std::vector<int32_t> list = part.keys.Expanded();
    size_t r = 0;
    part.rows.ForEach([&](int32_t row) {
      EXPECT_TRUE(keys[static_cast<size_t>(row)].empty());
      keys[static_cast<size_t>(row)].assign(list.begin(), list.begin() + part.ends[r++]);
    });
  }
  return keys;
}

TEST(BlockSparse, SharesAgreeWithTheReference) {
  for (const Dtype kv : {Dtype::kF32, Dtype::kBF16}) {
    for (const Case& c : {Case{.rows = 64, .tokens = 64, .group = 3}, Case{.rows = 77, .tokens = 301, .head_dim = 24},
                          Case{.rows = 130, .tokens = 700, .kv_heads = 1, .group = 7, .head_dim = 32}}) {
      Case one = c;
      one.kv_dtype = kv;
      Problem problem(one, 21);
      Guarded out = problem.Out();
      for (const BlockSparseOptions& options : {BlockSparseOptions{64, 16, 0.9}, BlockSparseOptions{32, 4, 0.5}}) {
        const AttentionArgs args = problem.Args(out, nullptr).dense;
        const BlockShares want = reference::EstimateBlockShares(args, options);
        ForEachImplementation([&](bool) {
          const BlockShares got = EstimateBlockShares(args, options);
          for (size_t g = 0; g < want.size(); ++g) {
            for (size_t block = 0; block < want[g].size(); ++block) {
              double sum = 0;
              for (size_t k = 0; k < want[g][block].size(); ++k) {
                EXPECT_NEAR(got[g][block][k], want[g][block][k], 1e-5);
                sum += got[g][block][k];
              }
              EXPECT_NEAR(sum, 1.0, 1e-6);
            }
          }
        });
      }
    }
  }
}

TEST(BlockSparse, KeepsTheFewestBlocksThatReachTheThreshold) {
  const Case c{.rows = 100, .tokens = 410, .kv_heads = 2, .group = 2, .head_dim = 16};
  Problem problem(c, 33);
  Guarded out = problem.Out();
  const AttentionArgs args = problem.Args(out, nullptr).dense;
  for (const double threshold : {0.0, 0.3, 0.9, 1.0}) {
    const BlockSparseOptions options{32, 8, threshold};
    const BlockShares shares = EstimateBlockShares(args, options);
    const SparsePlan plan = PlanBlocks(shares, args, options);
    for (int32_t head = 0; head < 2; ++head) {
      const auto keys = KeysOf(plan, head);
      for (int64_t row = 0; row < c.rows; ++row) {
        const int64_t entry = 310 + row;
        const std::vector<double>& share = shares[static_cast<size_t>(head)][static_cast<size_t>(row / 32)];
        // Whole blocks, but for what lies behind the row.
        std::set<int64_t> blocks;
        for (const int32_t key : keys[static_cast<size_t>(row)]) blocks.insert(key / 32);
        std::vector<int32_t> want;
        for (const int64_t block : blocks) {
          for (int64_t key = block * 32; key < std::min(block * 32 + 32, entry + 1); ++key) {
            want.push_back(static_cast<int32_t>(key));
          }
        }
        EXPECT_EQ(keys[static_cast<size_t>(row)], want) << row;
        EXPECT_TRUE(blocks.contains(0));
        EXPECT_TRUE(blocks.contains(entry / 32));
        EXPECT_TRUE(blocks.contains((310 + row / 32 * 32) / 32));
        if (threshold == 1) {
          EXPECT_EQ(static_cast<int64_t>(want.size()), entry + 1);
        }
        // No block left out has a larger share than one that was kept for its share alone.
        if (row % 32 != 31 && row != c.rows - 1) continue;
        double sum = 0, least = 2, most_left_out = 0;
        for (size_t k = 0; k < share.size(); ++k) {
          const bool forced = k == 0 || static_cast<int64_t>(k) >= (310 + row / 32 * 32) / 32;
          if (!blocks.contains(static_cast<int64_t>(k))) {
            most_left_out = std::max(most_left_out, share[k]);
          } else {
            sum += share[k];
            if (!forced) least = std::min(least, share[k]);
          }
        }
        EXPECT_GE(sum, threshold - 1e-9);
        EXPECT_GE(least, most_left_out);
        // It would not have been kept had the larger ones been enough.
        double larger = 0;
        for (const double one : share) larger += one > least ? one : 0;
        if (least < 2 && threshold < 1) {
          EXPECT_LT(larger, threshold);
        }
      }
    }
  }
}

TEST(BlockSparse, ThresholdOneIsDenseAttention) {
  for (const Dtype kv : {Dtype::kF32, Dtype::kBF16}) {
    const Case c{.rows = 90, .tokens = 333, .group = 2, .head_dim = 32, .kv_dtype = kv};
    Problem problem(c, 41);
    Guarded want = problem.Out();
    reference::Attention(problem.Args(want, nullptr).dense);
    ForEachImplementation([&](bool bf16) {
      Guarded got = problem.Out();
      SparseAttentionArgs args = problem.Args(got, nullptr);
      args.tokens = {};
      const BlockSparseOptions options{64, 16, 1.0};
      SparseAttention(args, PlanBlocks(EstimateBlockShares(args.dense, options), args.dense, options));
      if (bf16 && kv == Dtype::kBF16) {
        ExpectRowsNear(got, want, c.head_dim, kBf16Error);
      } else {
        ExpectNear(got, want, 1e-5, 1e-5);
      }
    });
  }
}

}  // namespace
}  // namespace purekv
