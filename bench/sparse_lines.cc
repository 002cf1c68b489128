// Sparse prefill of one layer against dense attention of the same layer.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>
#include <utility>

#include "attention/reference.h"
#include "attention/sparse.h"
#include "base/error.h"
#include "base/threads.h"
#include "engine/spatial_temporal.h"
#include "inputs.h"
#include "line.h"

namespace purekv::bench {
namespace {

constexpr int64_t kHeads = 28, kKvHeads = 4, kDim = 128;
constexpr int64_t kTextBefore = 15, kTextBehind = 32;
constexpr int64_t kBlock = 512;  // dense
constexpr int64_t kSpan = 4096;  // the pattern, as SparsePrefill::AttentionRows

// Text, one video of slices x side x side cells, text.
std::vector<TokenRecord> VideoLayout(int64_t slices, int64_t side) {
  std::vector<TokenRecord> layout(static_cast<size_t>(kTextBefore));
  for (int32_t t = 0; t < slices; ++t) {
    for (int32_t y = 0; y < side; ++y) {
      for (int32_t x = 0; x < side; ++x) layout.push_back({TokenRecord::Kind::kVideo, 0, t, y, x});
    }
  }
  layout.resize(layout.size() + static_cast<size_t>(kTextBehind));
  return layout;
}

// The decoder's way over one layer: blocks of 512 rows over the growing cache.
class Layer {
 public:
  Layer(int64_t slices, int64_t side)
      : layout_(VideoLayout(slices, side)),
        n_(static_cast<int64_t>(layout_.size())),
        cache_(kKvHeads, n_, kDim, Dtype::kBF16, 100),
        q_(n_, kHeads * kDim),
        out_(Dtype::kBF16, n_, kHeads * kDim) {
    FillRandom(q_.View(), 99, 1, true);
    std::vector<int32_t> tokens(static_cast<size_t>(n_));
    std::iota(tokens.begin(), tokens.end(), 0);
    const auto all = std::span<const int32_t>(tokens);
    for (int64_t row = 0; row < n_; row += kSpan) {  // in the engine once for all layers
      const auto count = static_cast<size_t>(std::min(kSpan, n_ - row));
      const auto end = static_cast<size_t>(row) + count;
      plans_.push_back(PlanSpatialTemporal(pattern_, layout_, all.subspan(static_cast<size_t>(row), count),
                                           all.first(end), &pairs_));
    }
  }

  void Dense() {
    ForEachBlock(kBlock, [&](size_t, const AttentionArgs& args) { Attention(args); });
  }
  void SpatialTemporal() {
    ForEachBlock(kSpan, [&](size_t block, const AttentionArgs& args) {
      if (plans_[block].passes.empty()) {
        Attention(args);
      } else {
        SparseAttention({args, {}}, plans_[block]);
      }
    });
  }
  // Rows against the reference over the keys that the pattern's definition allows.
  void CheckSpatialTemporal() {
    SpatialTemporal();
    const std::vector<int64_t> rows = SampleRows(n_, kSpan, 10);
    ParallelFor(static_cast<int64_t>(rows.size()), [&](int64_t i) {
      const int64_t row = rows[static_cast<size_t>(i)];
      const std::vector<KvHeadView> all = cache_.Heads(0, row + 1);
      std::vector<Matrix<BF16>> copies(2 * all.size());
      std::vector<KvHeadView> seen;
      for (const KvHeadView& head : all) {
        Matrix<BF16>& keys = copies[2 * seen.size()] = Matrix<BF16>(row + 1, kDim);
        Matrix<BF16>& values = copies[2 * seen.size() + 1] = Matrix<BF16>(row + 1, kDim);
        int64_t count = 0;
        for (int64_t key = 0; key <= row; ++key) {
          if (!Sees(pattern_, layout_, row, key)) continue;
          Copy(head.keys, head.key_stride, key, keys.Row(count));
          Copy(head.values, head.value_stride, key, values.Row(count));
          ++count;
        }
        seen.push_back({keys.data(), values.data(), count, kDim, kDim, KvFormat::kBF16});
      }
      Matrix<float> want(1, kHeads * kDim);
      AttentionArgs args = Args(seen, row, 1);
      args.causal = false;
      args.out = {want.data(), Dtype::kF32, 1, want.cols(), want.cols()};
      reference::Attention(args);
      CheckClose("spatial-temporal attention", row, out_.View().Rows(row, 1), want.View(), kDim, kBf16Tolerance);
    });
  }

  // FLOPs of the pairs that count.
  double flops() const { return 4.0 * pairs_.sum() * static_cast<double>(kHeads * kDim); }
  double dense_flops() const { return 4.0 * pairs_.dense * static_cast<double>(kHeads * kDim); }

 private:
  static void Copy(const void* rows, int64_t stride, int64_t row, BF16* to) {
    std::memcpy(static_cast<void*>(to), static_cast<const BF16*>(rows) + row * stride,
                static_cast<size_t>(kDim) * sizeof(BF16));
  }
  AttentionArgs Args(std::span<const KvHeadView> kv, int64_t row, int64_t count) {
    return ArgsOf(std::as_const(q_).View().Rows(row, count), kHeads, kv, out_.View().Rows(row, count), &workspace_);
  }
  template <class Body>
  void ForEachBlock(int64_t rows, const Body& body) {
    for (int64_t row = 0; row < n_; row += rows) {
      const int64_t count = std::min(rows, n_ - row);
      const std::vector<KvHeadView> kv = cache_.Heads(0, row + count);
      body(static_cast<size_t>(row / rows), Args(kv, row, count));
    }
  }

  SpatialTemporalPattern pattern_;
  std::vector<TokenRecord> layout_;
  int64_t n_;
  RandomCache cache_;
  Matrix<float> q_;
  AnyMatrix out_;
  std::vector<SparsePlan> plans_;
  PatternPairs pairs_;
  AttentionWorkspace workspace_;
};

Line SparseLine(int64_t slices, double target) {
  Line line;
  line.name = StrCat("attention/st/bf16/slices", slices);
  line.shape = StrCat("28 heads, 4 KV heads, D 128, ", slices, " slices of 256 tokens");
  line.baseline = "dense attention of the same layer";
  line.compare = Compare::kTime;
  line.target = target;
  line.needs = CpuLevel::kAvx512Bf16;
  line.make = [=](const Options& options) {
    const auto layer = options.tiny ? std::make_shared<Layer>(9, 7) : std::make_shared<Layer>(slices, 16);
    Trial trial;
    trial.check = [layer] { layer->CheckSpatialTemporal(); };
    trial.kernel = [layer] { return Seconds([&] { layer->SpatialTemporal(); }); };
    trial.baseline = [layer] { return Seconds([&] { layer->Dense(); }); };
    trial.work = layer->flops();
    trial.baseline_work = layer->dense_flops();
    return trial;
  };
  return line;
}

}  // namespace

std::vector<Line> SparseLines(const Options& options) {
  // A sixth and a ninth of dense attention's time.
  std::vector<Line> lines = {SparseLine(64, 1.0 / 6)};
  if (options.heavy) lines.push_back(SparseLine(128, 1.0 / 9));
  return lines;
}

}  // namespace purekv::bench
