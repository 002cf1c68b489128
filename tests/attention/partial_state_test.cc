// Partial softmax states: parts of the keys, merged in any order, are the whole.
#include "attention/partial_state.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "attention/tile.h"
#include "kernels/testing.h"

namespace purekv {
namespace {

using testing::Guarded;

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// A state with its memory.
class Owned {
 public:
  Owned(int64_t rows, int64_t head_dim) : memory_(1, StateFloats(rows, head_dim)) {
    view_ = StateIn(memory_.data(), rows, head_dim);
    ResetState(view_);
  }
  const PartialState& view() const { return view_; }

 private:
  Matrix<float> memory_;
  PartialState view_;
};

TEST(PartialState, MergedPartsAreTheWhole) {
  constexpr int64_t kRows = 5;
  constexpr int64_t kDim = 24;
  constexpr int64_t kKeys = 300;
  std::mt19937 random(4);
  Guarded q(Dtype::kF32, kRows, kDim, 0);
  Guarded k(Dtype::kF32, kKeys, kDim, 0);
  Guarded v(Dtype::kF32, kKeys, kDim, 0);
  for (Guarded* matrix : {&q, &k, &v}) matrix->Fill(random, 3.0f);
  AttentionTile tile;
  tile.q = q.Floats().data;
  tile.q_stride = kDim;
  tile.q_rows = kRows;
  tile.group = 1;
  tile.head_dim = kDim;
  tile.scale = 0.2f;
  tile.kv = {k.View().data, v.View().data, kKeys, kDim, kDim, KvFormat::kF32};
  tile.first_limit = kKeys;
  Matrix<float> scratch(1, TileScratchFloats(kRows, kDim));
  const auto attend = [&](int64_t begin, int64_t end) {
    Owned state(kRows, kDim);
    tile.key_begin = begin;
    tile.key_end = end;
    AttendTile(tile, state.view(), scratch.data());
    return state;
  };
  const Owned whole = attend(0, kKeys);
  const std::vector<int64_t> cuts = {0, 1, 1, 97, 200, 300};
  for (const bool backwards : {false, true}) {
    Owned merged(kRows, kDim);
    for (size_t i = 0; i + 1 < cuts.size(); ++i) {
      const size_t part = backwards ? cuts.size() - 2 - i : i;
      MergeState(merged.view(), attend(cuts[part], cuts[part + 1]).view());
    }
    Guarded got(Dtype::kF32, kRows, kDim, 3);
    Guarded want(Dtype::kF32, kRows, kDim, 3);
    std::vector<float> got_lse(kRows * 2, 9.0f);
    std::vector<float> want_lse(kRows * 2, 9.0f);
    FinishState(merged.view(), got.View(), got_lse.data(), 2);
    FinishState(whole.view(), want.View(), want_lse.data(), 2);
    testing::ExpectNear(got, want, 2e-6, 2e-6);
    EXPECT_TRUE(got.Intact());
    for (size_t i = 0; i < got_lse.size(); ++i) EXPECT_NEAR(got_lse[i], want_lse[i], 1e-5);
    EXPECT_EQ(got_lse[1], 9.0f);
  }
}

TEST(PartialState, EmptyPartsChangeNothing) {
  Owned state(2, 3);
  const Owned empty(2, 3);
  MergeState(state.view(), empty.view());
  EXPECT_EQ(state.view().m[0], kMinusInfinity);
  EXPECT_EQ(state.view().l[1], 0.0f);
  Guarded out(Dtype::kBF16, 2, 3, 1);
  std::vector<float> lse(2);
  FinishState(state.view(), out.View(), lse.data(), 1);
  EXPECT_EQ(out.At(1, 2), 0.0f);
  EXPECT_EQ(lse[0], kMinusInfinity);

  state.view().m[0] = -5e4f;  // exp(-5e4) alone is zero
  state.view().l[0] = 2.0f;
  state.view().o.Row(0)[1] = 3.0f;
  MergeState(state.view(), empty.view());
  EXPECT_EQ(state.view().m[0], -5e4f);
  EXPECT_EQ(state.view().l[0], 2.0f);
  Owned other(2, 3);
  MergeState(other.view(), state.view());
  EXPECT_EQ(other.view().m[0], -5e4f);
  EXPECT_EQ(other.view().o.Row(0)[1], 3.0f);
  EXPECT_EQ(other.view().m[1], kMinusInfinity);
}

TEST(PartialState, FarApartMaximaDoNotOverflow) {
  Owned low(1, 1);
  Owned high(1, 1);
  *low.view().m = -1e4f;
  *high.view().m = 1e4f;
  *low.view().l = *high.view().l = 4.0f;
  *low.view().o.data = 8.0f;
  *high.view().o.data = 12.0f;
  MergeState(low.view(), high.view());
  Guarded out(Dtype::kF32, 1, 1, 0);
  float lse = 0;
  FinishState(low.view(), out.View(), &lse, 1);
  EXPECT_EQ(out.At(0, 0), 3.0f);
  EXPECT_FLOAT_EQ(lse, 1e4f + std::log(4.0f));
}

}  // namespace
}  // namespace purekv
