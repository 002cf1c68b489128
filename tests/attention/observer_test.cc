// Column sums and maxima of attention against their reference: every implementation, ragged heads, masks, planes of
// weights.
#include "attention/observer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "attention/reference.h"
#include "attention/testing.h"

namespace purekv {
namespace {

using testing::ForEachImplementation;
using testing::Guarded;
using testing::ScopedThreads;

struct Case {
  int64_t rows = 1;
  std::vector<int64_t> lengths;
  int64_t group = 1;
  int64_t head_dim = 64;
  bool causal = true;
  Dtype dtype = Dtype::kF32;
  int64_t planes = 0;  // 0: without weights
  bool squares = false;
};

class Problem {
 public:
  explicit Problem(const Case& c)
      : case_(c),
        kv_heads_(static_cast<int64_t>(c.lengths.size())),
        heads_(kv_heads_ * c.group),
        q_(Dtype::kF32, c.rows, heads_ * c.head_dim, 2),
        lse_(static_cast<size_t>(c.rows * heads_)) {
    std::mt19937 random(17);
    q_.Fill(random, 1.5f);
    if (c.dtype == Dtype::kBF16) q_.RoundToBF16();
    for (const int64_t length : c.lengths) {
      keys_.push_back(std::make_unique<Guarded>(c.dtype, length, c.head_dim, 3));
      keys_.back()->Fill(random);
      kv_.push_back({keys_.back()->View().data, keys_.back()->View().data, length, keys_.back()->View().stride,
                     keys_.back()->View().stride, FormatOf(c.dtype)});
      stride_ = std::max(stride_, length + 5);
    }
    AttentionArgs attention;
    attention.q = q_.Floats();
    attention.kv = kv_;
    attention.heads = heads_;
    attention.head_dim = c.head_dim;
    attention.scale = 0.3f / std::sqrt(static_cast<float>(c.head_dim));
    attention.causal = c.causal;
    Guarded out(Dtype::kF32, c.rows, heads_ * c.head_dim, 0);
    attention.out = out.View();
    attention.lse = lse_.data();
    reference::Attention(attention);
    std::uniform_real_distribution<float> uniform(0.0f, 1.0f);
    weights_.resize(static_cast<size_t>(c.planes) * lse_.size());
    for (float& w : weights_) w = uniform(random) < 0.3f ? 0.0f : uniform(random);
  }

  // As from a query that is no number: where its row sees keys, the log-sum-exp is none either.
  void SpoilRow(int64_t row) {
    for (int64_t h = 0; h < heads_; ++h) {
      float& lse = lse_[static_cast<size_t>(row * heads_ + h)];
      if (std::isfinite(lse)) lse = std::numeric_limits<float>::quiet_NaN();
    }
  }

  // The largest probabilities, of cases without weights. [kv_heads][stride]; before: what is there already.
  std::vector<double> Maxima(bool slow, double before) { return Run(slow, true, before); }

  // [planes][kv_heads][stride], one element more at the end.
  std::vector<double> Run(bool slow, bool maxima = false, double before = 0.5) {
    const int64_t planes = case_.squares ? 2 : std::max<int64_t>(1, case_.planes);
    std::vector<double> sums(static_cast<size_t>(planes * kv_heads_ * stride_), before);
    ColumnSumsArgs args;
    args.q = q_.Floats();
    args.kv = kv_;
    args.heads = heads_;
    args.head_dim = case_.head_dim;
    args.scale = 0.3f / std::sqrt(static_cast<float>(case_.head_dim));
    args.causal = case_.causal;
    args.lse = lse_.data();
    std::vector<const float*> weights;
    for (int64_t p = 0; p < case_.planes; ++p)
      weights.push_back(weights_.data() + static_cast<size_t>(p) * lse_.size());
    args.weights = weights;
    args.squares = case_.squares;
    std::vector<double*> lists;
    for (int64_t i = 0; i < planes * kv_heads_; ++i) lists.push_back(sums.data() + i * stride_);
    args.sums = lists;
    if (maxima) {
      slow ? reference::ColumnMaxima(args) : ColumnMaxima(args);
    } else {
      slow ? reference::ColumnSums(args) : ColumnSums(args);
    }
    return sums;
  }

 private:
  Case case_;
  int64_t kv_heads_;
  int64_t heads_;
  int64_t stride_ = 0;
  Guarded q_;
  std::vector<float> lse_;
  std::vector<float> weights_;
  std::vector<std::unique_ptr<Guarded>> keys_;
  std::vector<KvHeadView> kv_;
};

void Check(const Case& c) {
  Problem problem(c);
  const std::vector<double> want = problem.Run(true);
  ForEachImplementation([&](bool bf16) {
    const std::vector<double> got = problem.Run(false);
    // A square has twice its root's error.
    const double tolerance = (bf16 && c.dtype == Dtype::kBF16 ? 2e-4 : 1e-5) * (c.squares ? 2 : 1);
    for (size_t i = 0; i < want.size(); ++i) {
      ASSERT_NEAR(got[i] - 0.5, want[i] - 0.5, tolerance * std::abs(want[i] - 0.5) + 1e-9)
          << "element " << i << ", " << c.rows << " rows, group " << c.group << ", head " << c.head_dim;
    }
  });
}

TEST(ColumnSums, EqualsReference) {
  for (const Dtype dtype : {Dtype::kF32, Dtype::kBF16}) {
    for (const int64_t head_dim : {3, 32, 64, 80, 128}) {
      Check({.rows = 21, .lengths = {100, 131}, .group = 4, .head_dim = head_dim, .dtype = dtype});
      Check({.rows = 1, .lengths = {40}, .group = 7, .head_dim = head_dim, .causal = false, .dtype = dtype});
    }
    Check({.rows = 300, .lengths = {300, 700}, .group = 2, .head_dim = 32, .dtype = dtype, .planes = 2});
    for (const int64_t head_dim : {3, 64, 128}) {
      Check({.rows = 71, .lengths = {300, 71, 97}, .group = 3, .head_dim = head_dim, .dtype = dtype, .squares = true});
      Check({.rows = 1, .lengths = {40}, .group = 7, .head_dim = head_dim, .dtype = dtype, .squares = true});
    }
    Check({.rows = 33, .lengths = {33, 34, 257}, .group = 7, .head_dim = 64, .dtype = dtype, .planes = 1});
    Check({.rows = 5, .lengths = {3, 0, 200, 5, 1}, .group = 2, .head_dim = 24, .dtype = dtype});  // rows without keys
    Check({.rows = 0, .lengths = {9}, .group = 2, .head_dim = 24, .dtype = dtype});
  }
}

void CheckMaxima(const Case& c) {
  Problem problem(c);
  for (const double before : {0.0, 0.02}) {
    const std::vector<double> want = problem.Maxima(true, before);
    ForEachImplementation([&](bool bf16) {
      const std::vector<double> got = problem.Maxima(false, before);
      const double tolerance = bf16 && c.dtype == Dtype::kBF16 ? 2e-4 : 1e-5;
      for (size_t i = 0; i < want.size(); ++i) {
        ASSERT_NEAR(got[i], want[i], tolerance * want[i] + 1e-12)
            << "element " << i << ", " << c.rows << " rows, group " << c.group << ", head " << c.head_dim;
      }
    });
  }
}

TEST(ColumnMaxima, EqualReference) {
  for (const Dtype dtype : {Dtype::kF32, Dtype::kBF16}) {
    for (const int64_t head_dim : {3, 32, 64, 80, 128}) {
      CheckMaxima({.rows = 21, .lengths = {100, 131}, .group = 4, .head_dim = head_dim, .dtype = dtype});
      CheckMaxima({.rows = 1, .lengths = {40}, .group = 7, .head_dim = head_dim, .causal = false, .dtype = dtype});
    }
    CheckMaxima({.rows = 300, .lengths = {300, 700}, .group = 2, .head_dim = 32, .dtype = dtype});
    CheckMaxima({.rows = 33, .lengths = {1, 34, 257}, .group = 7, .head_dim = 64, .causal = false, .dtype = dtype});
    CheckMaxima({.rows = 5, .lengths = {3, 0, 200, 5, 1}, .group = 2, .head_dim = 24, .dtype = dtype});
    CheckMaxima({.rows = 0, .lengths = {9}, .group = 2, .head_dim = 24, .dtype = dtype});
  }
}

TEST(ColumnMaxima, SameBitsOnAnyNumberOfThreads) {
  for (const Dtype dtype : {Dtype::kF32, Dtype::kBF16}) {
    Problem problem({.rows = 90, .lengths = {900, 555}, .group = 2, .head_dim = 32, .dtype = dtype});
    std::vector<double> first;
    for (const int count : {1, 2, 5}) {
      ScopedThreads threads(count);
      const std::vector<double> maxima = problem.Maxima(false, 0);
      if (first.empty()) first = maxima;
      EXPECT_EQ(maxima, first) << count << " threads";
    }
  }
}

TEST(ColumnSums, RowsSumToOne) {
  // Over all keys, the sums are the number of (row, head) pairs.
  const Case c{.rows = 200, .lengths = {450}, .group = 3, .head_dim = 64, .dtype = Dtype::kBF16};
  Problem problem(c);
  double total = 0;
  const std::vector<double> sums = problem.Run(false);
  for (int64_t i = 0; i < 450; ++i) total += sums[static_cast<size_t>(i)] - 0.5;
  EXPECT_NEAR(total, 600.0, 0.05);
}

TEST(ColumnSums, ARowThatIsNoNumberSpoilsWhatItSees) {
  // Row 6 of 20 over 50 keys sees 37 of them, over 3 keys (the last 3 rows see any) none.
  for (const Dtype dtype : {Dtype::kF32, Dtype::kBF16}) {
    for (const int64_t planes : {0, 2}) {
      Problem problem({.rows = 20, .lengths = {50, 3}, .group = 2, .head_dim = 32, .dtype = dtype, .planes = planes});
      problem.SpoilRow(6);
      const std::vector<double> want = problem.Run(true);
      EXPECT_EQ(std::count_if(want.begin(), want.end(), [](double x) { return std::isnan(x); }), planes == 0 ? 37 : 74);
      ForEachImplementation([&](bool) {
        const std::vector<double> got = problem.Run(false);
        for (size_t i = 0; i < want.size(); ++i) EXPECT_EQ(std::isnan(got[i]), std::isnan(want[i])) << "element " << i;
      });
    }
  }
}

TEST(ColumnMaxima, ARowThatIsNoNumberSpoilsWhatItSees) {
  for (const Dtype dtype : {Dtype::kF32, Dtype::kBF16}) {
    Problem problem({.rows = 20, .lengths = {50, 3}, .group = 2, .head_dim = 32, .dtype = dtype});
    problem.SpoilRow(6);
    const std::vector<double> want = problem.Maxima(true, 0);
    EXPECT_EQ(std::count_if(want.begin(), want.end(), [](double x) { return std::isnan(x); }), 37);
    ForEachImplementation([&](bool) {
      const std::vector<double> got = problem.Maxima(false, 0);
      for (size_t i = 0; i < want.size(); ++i) EXPECT_EQ(std::isnan(got[i]), std::isnan(want[i])) << "element " << i;
    });
  }
}

TEST(ColumnSums, SameBitsOnAnyNumberOfThreads) {
  for (const Dtype dtype : {Dtype::kF32, Dtype::kBF16}) {
    Problem problem({.rows = 90, .lengths = {900, 555}, .group = 2, .head_dim = 32, .dtype = dtype, .planes = 2});
    std::vector<double> first;
    for (const int count : {1, 2, 5}) {
      ScopedThreads threads(count);
      const std::vector<double> sums = problem.Run(false);
      if (first.empty()) first = sums;
      EXPECT_EQ(sums, first) << count << " threads";
    }
  }
}

}  // namespace
}  // namespace purekv
