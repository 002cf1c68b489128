// Exact attention against its reference, on every instruction set: shapes at the edges of tiles, ragged heads, masks,
// extreme logits, thread counts.
#include "attention/attention.h"

#include <gtest/gtest.h>

#include <limits>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <vector>

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
  std::vector<int64_t> lengths;  // per KV head
  int64_t group = 1;
  int64_t head_dim = 64;
  bool causal = true;
  Dtype kv_dtype = Dtype::kF32;
  Dtype out_dtype = Dtype::kF32;
  int64_t extra = 0;  // elements behind each row, everywhere
  float deviation = 1.0f;
  int64_t window = 0;
};

std::string Describe(const Case& c) {
  std::ostringstream text;
  text << c.rows << " rows, group " << c.group << ", head " << c.head_dim << (c.causal ? ", causal" : "") << ", kv "
       << DtypeName(c.kv_dtype) << ", lengths";
  for (const int64_t length : c.lengths) text << " " << length;
  return text.str();
}

class Problem {
 public:
  Problem(const Case& c, uint32_t seed)
      : case_(c),
        heads_(static_cast<int64_t>(c.lengths.size()) * c.group),
        q_(Dtype::kF32, c.rows, heads_ * c.head_dim, c.extra) {
    std::mt19937 random(seed);
    q_.Fill(random, c.deviation);
    if (c.kv_dtype == Dtype::kBF16) q_.RoundToBF16();  // as models in bf16 do; what is left is the kernels' own error
    for (const int64_t length : c.lengths) {
      keys_.push_back(std::make_unique<Guarded>(c.kv_dtype, length, c.head_dim, c.extra));
      values_.push_back(std::make_unique<Guarded>(c.kv_dtype, length, c.head_dim, c.extra));
      keys_.back()->Fill(random, c.deviation);
      values_.back()->Fill(random);
      kv_.push_back({keys_.back()->View().data, values_.back()->View().data, length, keys_.back()->View().stride,
                     values_.back()->View().stride, FormatOf(c.kv_dtype)});
    }
  }
  AttentionArgs Args(Guarded& out, float* lse) {
    AttentionArgs args;
    args.q = q_.Floats();
    args.kv = kv_;
    args.heads = heads_;
    args.head_dim = case_.head_dim;
    args.scale = 1.0f / std::sqrt(static_cast<float>(case_.head_dim));
    args.causal = case_.causal;
    args.window = case_.window;
    args.out = out.View();
    args.lse = lse;
    return args;
  }
  Guarded Out() const { return Guarded(case_.out_dtype, case_.rows, heads_ * case_.head_dim, case_.extra); }
  int64_t heads() const { return heads_; }
  std::vector<std::unique_ptr<Guarded>>& values() { return values_; }

 private:
  Case case_;
  int64_t heads_;
  Guarded q_;
  std::vector<std::unique_ptr<Guarded>> keys_;
  std::vector<std::unique_ptr<Guarded>> values_;
  std::vector<KvHeadView> kv_;
};

void Check(const Case& c) {
  SCOPED_TRACE(Describe(c));
  Problem problem(c, 7);
  Guarded want = problem.Out();
  std::vector<float> want_lse(static_cast<size_t>(c.rows * problem.heads()));
  reference::Attention(problem.Args(want, want_lse.data()));
  // With logits of thousands a rounding of the logit (f32, relative 2^-24 and some sums) is a change of the weights.
  const double logit =
      3.0 * static_cast<double>(c.deviation * c.deviation) * std::sqrt(static_cast<double>(c.head_dim));
  const double tolerance = 4e-6 + 2e-7 * logit;
  ForEachImplementation([&](bool bf16) {
    Guarded got = problem.Out();
    std::vector<float> lse(want_lse.size() + 1, 123.0f);
    Attention(problem.Args(got, lse.data()));
    if (bf16 && c.kv_dtype == Dtype::kBF16) {
      ExpectRowsNear(got, want, c.head_dim, kBf16Error);
    } else {
      ExpectNear(got, want, tolerance, tolerance);
    }
    EXPECT_TRUE(got.Intact());
    EXPECT_EQ(lse.back(), 123.0f);
    for (size_t i = 0; i < want_lse.size(); ++i) {
      if (std::isinf(want_lse[i])) {
        EXPECT_EQ(lse[i], want_lse[i]);
      } else {
        const double slack = bf16 ? 1e-5 : 0;
        EXPECT_NEAR(lse[i], want_lse[i], (slack + tolerance) * (1 + std::abs(static_cast<double>(want_lse[i]))));
      }
    }
  });
}

TEST(Attention, TileEdges) {
  for (const int64_t rows : {1, 2, 3, 5, 15, 16, 17, 63, 64, 65}) {
    Check({.rows = rows, .lengths = {rows, rows + 95}, .group = 1, .head_dim = 64});
  }
  for (const int64_t length : {1, 2, 95, 96, 97, 191, 193})
    Check({.rows = 3, .lengths = {length}, .group = 2, .head_dim = 16});
  Check({.rows = 129, .lengths = {129}, .group = 1, .head_dim = 32});
  Check({.rows = 37, .lengths = {41, 37}, .group = 7, .head_dim = 32});
}

TEST(Attention, HeadSizes) {
  for (const int64_t head_dim : {1, 3, 8, 31, 64, 72, 80, 96, 128, 129, 256}) {
    Check({.rows = 9, .lengths = {50}, .group = 2, .head_dim = head_dim});
    Check({.rows = 4, .lengths = {50}, .group = 3, .head_dim = head_dim, .kv_dtype = Dtype::kBF16, .extra = 5});
  }
}

// A step's query heads of one KV head: as many rows as a group has.
TEST(Attention, GroupsOfAStep) {
  for (int64_t group = 1; group <= 9; ++group) {
    for (const int64_t head_dim : {64, 80, 129}) {
      Check({.rows = 1, .lengths = {130, 777}, .group = group, .head_dim = head_dim});
      Check({.rows = 1, .lengths = {777}, .group = group, .head_dim = head_dim, .kv_dtype = Dtype::kBF16});
    }
  }
}

TEST(Attention, Bf16Shapes) {
  // Panels of 32 rows, groups of 32 keys, blocks of 128, tiles of 256 rows: one less, exactly, one more.
  for (const int64_t head_dim : {1, 31, 32, 64, 80, 96, 128, 256}) {
    Check({.rows = 40, .lengths = {150}, .group = 1, .head_dim = head_dim, .kv_dtype = Dtype::kBF16});
    Check({.rows = 5, .lengths = {5, 33}, .group = 7, .head_dim = head_dim, .kv_dtype = Dtype::kBF16, .extra = 3});
  }
  for (const int64_t rows : {9, 15, 16, 17, 31, 32, 33, 255, 256, 257}) {
    for (const int64_t more : {0, 1, 127, 128, 129}) {
      Check({.rows = rows, .lengths = {rows + more}, .group = 1, .head_dim = 64, .kv_dtype = Dtype::kBF16});
    }
  }
  for (const int64_t length : {1, 31, 32, 33, 127, 128, 129, 160, 161}) {
    Check({.rows = 13,
           .lengths = {length, 2 * length},
           .group = 4,
           .head_dim = 64,
           .causal = false,
           .kv_dtype = Dtype::kBF16});
  }
  Check({.rows = 5, .lengths = {3, 0, 200, 5, 1}, .group = 2, .head_dim = 24, .kv_dtype = Dtype::kBF16});
  Check({.rows = 700, .lengths = {1300, 701}, .group = 2, .head_dim = 32, .kv_dtype = Dtype::kBF16});
  Check({.rows = 12, .lengths = {3000}, .group = 3, .head_dim = 64, .kv_dtype = Dtype::kBF16});  // split over keys
  Check({.rows = 30, .lengths = {120}, .group = 2, .head_dim = 64, .kv_dtype = Dtype::kBF16, .deviation = 35.0f});
  Check({.rows = 30, .lengths = {120}, .group = 2, .head_dim = 64, .kv_dtype = Dtype::kBF16, .deviation = 1e-20f});
}

TEST(Attention, FormatsStridesAndMask) {
  for (const Dtype kv : {Dtype::kF32, Dtype::kBF16}) {
    for (const Dtype out : {Dtype::kF32, Dtype::kBF16}) {
      for (const bool causal : {false, true}) {
        for (const int64_t extra : {0, 3}) {
          Check({.rows = 21,
                 .lengths = {100, 131},
                 .group = 4,
                 .head_dim = 40,
                 .causal = causal,
                 .kv_dtype = kv,
                 .out_dtype = out,
                 .extra = extra});
        }
      }
    }
  }
}

TEST(Attention, RaggedHeadsAndRowsWithoutKeys) {
  Check({.rows = 5, .lengths = {3, 0, 200, 5, 1}, .group = 2, .head_dim = 24});
  Check({.rows = 5, .lengths = {3, 0, 200, 5, 1}, .group = 2, .head_dim = 24, .causal = false});
  Check({.rows = 150, .lengths = {10, 151}, .group = 1, .head_dim = 16});
  Check({.rows = 0, .lengths = {10}, .group = 1, .head_dim = 16});
}

TEST(Attention, LongCacheSplitOverKeys) {
  Check({.rows = 1, .lengths = {1500, 2111}, .group = 7, .head_dim = 64, .kv_dtype = Dtype::kBF16});
  Check({.rows = 1, .lengths = {3001, 7}, .group = 1, .head_dim = 80});
  Check({.rows = 8, .lengths = {1025}, .group = 3, .head_dim = 16});
}

TEST(Attention, HugeLogits) {
  // Logits of about +-1e4 (16 x 16 per product, summed over 64 and scaled by 1/8).
  Check({.rows = 20, .lengths = {120}, .group = 2, .head_dim = 64, .deviation = 35.0f});
  Check({.rows = 20, .lengths = {120}, .group = 2, .head_dim = 64, .deviation = 1e-20f});
}

TEST(Attention, EqualKeysGiveTheMean) {
  Problem problem({.rows = 2, .lengths = {1000}, .group = 1, .head_dim = 8, .causal = false, .deviation = 1e-30f}, 3);
  Guarded out = problem.Out();
  std::vector<float> lse(2);
  Attention(problem.Args(out, lse.data()));
  for (int64_t d = 0; d < 8; ++d) {
    double mean = 0;
    for (int64_t k = 0; k < 1000; ++k) mean += static_cast<double>(problem.values()[0]->At(k, d)) / 1000;
    EXPECT_NEAR(out.At(1, d), mean, 1e-6);
  }
  EXPECT_NEAR(lse[0], std::log(1000.0), 1e-5);
}

TEST(Attention, SameBitsOnAnyNumberOfThreads) {
  for (const Case& c :
       {Case{.rows = 1, .lengths = {2500, 1800}, .group = 4, .head_dim = 64},
        Case{.rows = 300, .lengths = {300, 555}, .group = 2, .head_dim = 32},
        Case{.rows = 40, .lengths = {2500, 1800}, .group = 4, .head_dim = 64, .kv_dtype = Dtype::kBF16},
        Case{.rows = 300, .lengths = {300, 555}, .group = 7, .head_dim = 32, .kv_dtype = Dtype::kBF16}}) {
    Problem problem(c, 11);
    Guarded first = problem.Out();
    {
      ScopedThreads threads(1);
      Attention(problem.Args(first, nullptr));
    }
    for (const int count : {2, 3, 7}) {
      ScopedThreads threads(count);
      Guarded out = problem.Out();
      Attention(problem.Args(out, nullptr));
      EXPECT_TRUE(out.SameBits(first)) << count << " threads, " << Describe(c);
    }
  }
}

struct Segments {
  std::vector<int64_t> cu;
  int64_t heads;
  int64_t head_dim;
};

// Every format of rows and output against the reference; `extra` elements behind each row.
void Check(const Segments& c, int64_t extra, float deviation, std::mt19937& random) {
  const int64_t rows = c.cu.back();
  const int64_t cols = c.heads * c.head_dim;
  // As in Check(Case): large logits are rounded in f32.
  const double tolerance =
      5e-6 + 2e-7 * 3.0 * 0.2 * static_cast<double>(deviation * deviation) * std::sqrt(static_cast<double>(c.head_dim));
  for (const Dtype in : {Dtype::kF32, Dtype::kBF16}) {
    Guarded q(in, rows, cols, extra);
    Guarded k(in, rows, cols, 2 * extra);
    Guarded v(in, rows, cols, extra);
    q.Fill(random, deviation);
    k.Fill(random, deviation);
    v.Fill(random);
    for (Guarded* x : {&q, &k, &v}) x->RoundToBF16();  // as the kernels will
    for (const Dtype out : {Dtype::kF32, Dtype::kBF16}) {
      SCOPED_TRACE(StrCat(c.cu.size() - 1, " segments, ", rows, " rows, ", c.heads, " heads of ", c.head_dim, ", ",
                          DtypeName(in), " to ", DtypeName(out), ", ", extra, " elements between rows"));
      SegmentAttentionArgs args;
      args.q = q.View();
      args.k = k.View();
      args.v = v.View();
      args.heads = c.heads;
      args.head_dim = c.head_dim;
      args.scale = 0.2f;
      args.cu_segments = c.cu;
      Guarded want(out, rows, cols, extra);
      args.out = want.View();
      reference::SegmentAttention(args);
      ForEachImplementation([&](bool bf16) {
        Guarded got(out, rows, cols, extra);
        args.out = got.View();
        SegmentAttention(args);
        if (bf16 && (in == Dtype::kBF16 || out == Dtype::kBF16)) {
          ExpectRowsNear(got, want, c.head_dim, kBf16Error);
        } else {
          ExpectNear(got, want, tolerance, tolerance);
        }
        EXPECT_TRUE(got.Intact());
      });
    }
  }
}

TEST(SegmentAttention, WindowsAndFrames) {
  std::mt19937 random(5);
  const std::vector<Segments> cases = {{{0, 700}, 2, 80}, {{0, 513, 1100}, 1, 96},    {{0, 64, 128, 144, 150}, 2, 80},
                                       {{0, 200}, 3, 64}, {{0, 1, 1, 3, 132}, 2, 20}, {{0}, 2, 16},  // no rows
                                       {{0, 0}, 2, 16}};
  for (const Segments& c : cases) {
    for (const int64_t extra : {0, 13}) Check(c, extra, 1.0f, random);
  }
}

// Windows end at the edges of a frame: any length, around the multiples of tiles and panels.
TEST(SegmentAttention, WindowsOfEveryLength) {
  std::mt19937 random(6);
  for (const int64_t head_dim : {64, 72, 80, 128, 22}) {
    Segments c{{0}, 2, head_dim};
    for (const int64_t length : {1, 2, 4, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 79, 80, 97, 128, 255, 256, 257}) {
      c.cu.push_back(c.cu.back() + length);
    }
    Check(c, 5, 1.0f, random);
  }
}

// One key takes all: logits of hundreds.
TEST(SegmentAttention, LargeLogits) {
  std::mt19937 random(7);
  Check({{0, 64, 100, 164, 470}, 2, 80}, 0, 12.0f, random);
}

TEST(SegmentAttention, SameBitsOnAnyNumberOfThreads) {
  std::mt19937 random(8);
  Segments c{{0}, 3, 80};
  for (int i = 0; i < 40; ++i) c.cu.push_back(c.cu.back() + 40 + i % 3 * 12);
  c.cu.push_back(c.cu.back() + 400);
  const int64_t rows = c.cu.back();
  Guarded x(Dtype::kBF16, rows, c.heads * c.head_dim, 0);
  x.Fill(random);
  const auto run = [&](int count) {
    ScopedThreads threads(count);
    Guarded out(Dtype::kBF16, rows, c.heads * c.head_dim, 0);
    SegmentAttentionArgs args;
    args.q = args.k = args.v = x.View();
    args.heads = c.heads;
    args.head_dim = c.head_dim;
    args.scale = 0.1f;
    args.cu_segments = c.cu;
    args.out = out.View();
    SegmentAttention(args);
    return out;
  };
  const Guarded first = run(1);
  for (const int count : {2, 3, 7}) EXPECT_TRUE(run(count).SameBits(first)) << count;
}

TEST(Attention, Windows) {
  for (const Dtype kv : {Dtype::kF32, Dtype::kBF16}) {
    for (const int64_t window : {1, 7, 128, 300}) {
      for (const int64_t rows : {1, 2, 9, 70, 300}) {
        Check({.rows = rows,
               .lengths = {rows + 1500, rows},
               .group = 2,
               .head_dim = 64,
               .kv_dtype = kv,
               .window = window});
      }
      Check({.rows = 1, .lengths = {2000}, .group = 20, .head_dim = 32, .kv_dtype = kv, .window = window});
    }
  }
}

}  // namespace
}  // namespace purekv
