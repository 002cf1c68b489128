// Prefill attention, attention inside segments, and the column sums, against oneDNN's matrix product.
#include <algorithm>
#include <cmath>
#include <memory>

#include "attention/attention.h"
#include "attention/observer.h"
#include "attention/reference.h"
#include "base/error.h"
#include "base/threads.h"
#include "inputs.h"
#include "kernels/elementwise.h"
#include "line.h"
#include "matmul.h"

namespace purekv::bench {
namespace {

int64_t CubeSize(const Options& options) {
  return options.tiny ? 96 : 4096;
}

Trial AgainstCube(Dtype dtype, const Options& options) {
  Trial trial;
  const auto cube = CubeMatmul(dtype, CubeSize(options));
  trial.baseline = [cube] { return Seconds([&] { cube->Run(); }); };
  trial.baseline_work = cube->flops();
  return trial;
}

// A prompt of n rows read in blocks over the growing cache, as the decoder does.
class Prefill {
 public:
  Prefill(int64_t n, int64_t heads, int64_t kv_heads, int64_t head_dim, Dtype dtype, int64_t block)
      : n_(n),
        heads_(heads),
        head_dim_(head_dim),
        kv_heads_(kv_heads),
        block_(block),
        dtype_(dtype),
        cache_(kv_heads, n, head_dim, dtype, 100),
        q_(n, heads * head_dim),
        out_(dtype, n, heads * head_dim),
        lse_(static_cast<size_t>(n * heads)),
        sums_(static_cast<size_t>(n * kv_heads)) {
    FillRandom(q_.View(), 99, 1, dtype == Dtype::kBF16);
  }

  void Attend(bool with_lse) {
    for (int64_t row = 0; row < n_; row += block_) {
      const int64_t count = std::min(block_, n_ - row);
      const std::vector<KvHeadView> kv = cache_.Heads(0, row + count);
      AttentionArgs args = Args(kv, q_.View().Rows(row, count), out_.View().Rows(row, count));
      args.lse = with_lse ? lse_.data() + row * heads_ : nullptr;
      args.workspace = &workspace_;
      Attention(args);
    }
  }

  // What every key receives from all queries. Needs the lse of Attend.
  void Observe() {
    std::fill(sums_.begin(), sums_.end(), 0.0);
    for (int64_t row = 0; row < n_; row += block_) {
      const int64_t count = std::min(block_, n_ - row);
      const std::vector<KvHeadView> kv = cache_.Heads(0, row + count);
      ColumnSumsArgs args = SumArgs(kv, q_.View().Rows(row, count), row);
      std::vector<double*> sums;
      for (int64_t head = 0; head < kv_heads_; ++head) sums.push_back(sums_.data() + head * n_);
      args.sums = sums;
      args.workspace = &observer_workspace_;
      ColumnSums(args);
    }
  }

  void Check() {
    Attend(true);
    const std::vector<int64_t> rows = SampleRows(n_, block_, 10);
    ParallelFor(static_cast<int64_t>(rows.size()), [&](int64_t i) {
      const int64_t row = rows[static_cast<size_t>(i)];
      const std::vector<KvHeadView> kv = cache_.Heads(0, row + 1);
      Matrix<float> want(1, heads_ * head_dim_);
      std::vector<float> lse(static_cast<size_t>(heads_));
      AttentionArgs args = Args(kv, q_.View().Rows(row, 1), {want.data(), Dtype::kF32, 1, want.cols(), want.cols()});
      args.lse = lse.data();
      reference::Attention(args);
      CheckClose("attention", row, out_.View().Rows(row, 1), want.View(), head_dim_, tolerance());
      for (int64_t head = 0; head < heads_; ++head) {
        CheckClose(StrCat("log sum exp of row ", row, ", head ", head),
                   1 + static_cast<double>(lse_[static_cast<size_t>(row * heads_ + head)]),
                   1 + static_cast<double>(lse[static_cast<size_t>(head)]), 1e-4);
      }
    });
  }

  // Key j is seen by the queries from j on: to them it is all there is.
  void CheckSums() {
    Check();
    Observe();
    for (const int64_t key : SampleRows(n_, block_, 8)) {
      const std::vector<KvHeadView> kv = cache_.Heads(key, 1);
      std::vector<double> want(static_cast<size_t>(kv_heads_));
      ColumnSumsArgs args = SumArgs(kv, q_.View().Rows(key, n_ - key), key);
      args.causal = false;
      std::vector<double*> sums;
      for (double& sum : want) sums.push_back(&sum);
      args.sums = sums;
      reference::ColumnSums(args);
      for (int64_t head = 0; head < kv_heads_; ++head) {
        CheckClose(StrCat("column sum of key ", key, ", KV head ", head), sums_[static_cast<size_t>(head * n_ + key)],
                   want[static_cast<size_t>(head)], 10 * tolerance());
      }
    }
  }

  // Causal: half of N x N, counted once.
  double flops() const {
    const auto n = static_cast<double>(n_);
    return 2.0 * 2.0 * n * n / 2 * static_cast<double>(head_dim_ * heads_);
  }

 private:
  double tolerance() const { return dtype_ == Dtype::kBF16 ? kBf16Tolerance : kF32Tolerance; }
  float scale() const { return 1.0F / std::sqrt(static_cast<float>(head_dim_)); }
  AttentionArgs Args(std::span<const KvHeadView> kv, MatrixView<const float> q, AnyMatrixView out) const {
    return ArgsOf(q, heads_, kv, out);
  }
  ColumnSumsArgs SumArgs(std::span<const KvHeadView> kv, MatrixView<const float> q, int64_t first_row) const {
    ColumnSumsArgs args;
    args.q = q;
    args.kv = kv;
    args.heads = heads_;
    args.head_dim = head_dim_;
    args.scale = scale();
    args.lse = lse_.data() + first_row * heads_;
    return args;
  }

  int64_t n_, heads_, head_dim_, kv_heads_, block_;
  Dtype dtype_;
  RandomCache cache_;
  Matrix<float> q_;
  AnyMatrix out_;
  std::vector<float> lse_;
  std::vector<double> sums_;
  AttentionWorkspace workspace_, observer_workspace_;
};

std::shared_ptr<Prefill> MakePrefill(int64_t n, Dtype dtype, const Options& options) {
  if (options.tiny) return std::make_shared<Prefill>(n / 16 + 1, 14, 2, 128, dtype, 96);
  return std::make_shared<Prefill>(n, 28, 4, 128, dtype, 512);
}

Line PrefillLine(int64_t n, Dtype dtype, double target) {
  Line line;
  line.name = StrCat("attention/prefill/", DtypeName(dtype), "/n", n);
  line.shape = StrCat("28 heads, 4 KV heads, D 128, ", n, " tokens in blocks of 512");
  line.baseline = StrCat("oneDNN ", DtypeName(dtype), " 4096^3");
  line.target = target;
  line.needs = dtype == Dtype::kBF16 ? CpuLevel::kAvx512Bf16 : CpuLevel::kPortable;
  line.make = [=](const Options& options) {
    const auto prefill = MakePrefill(n, dtype, options);
    Trial trial = AgainstCube(dtype, options);
    trial.check = [prefill] { prefill->Check(); };
    trial.kernel = [prefill] { return Seconds([&] { prefill->Attend(false); }); };
    trial.work = prefill->flops();
    return trial;
  };
  return line;
}

Line ObserverLine(int64_t n, Dtype dtype) {
  Line line;
  line.name = StrCat("observer/", DtypeName(dtype), "/n", n);
  line.shape = StrCat("28 heads, 4 KV heads, D 128, all ", n, " queries in blocks of 512");
  line.baseline = "prefill attention of the same tokens";
  line.compare = Compare::kTime;
  line.target = 0.65;
  line.make = [=](const Options& options) {
    const auto prefill = MakePrefill(n, dtype, options);
    Trial trial;
    trial.check = [prefill] { prefill->CheckSums(); };
    trial.kernel = [prefill] { return Seconds([&] { prefill->Observe(); }); };
    trial.baseline = [prefill] { return Seconds([&] { prefill->Attend(true); }); };
    trial.work = prefill->flops() / 2;  // Q K^T alone
    trial.baseline_work = prefill->flops();
    return trial;
  };
  return line;
}

// Windows or frames of a vision tower: queries, keys and values side by side, as one product made them.
class Segments {
 public:
  Segments(int64_t segments, int64_t length, int64_t heads, int64_t head_dim, Dtype out)
      : segments_(segments),
        length_(length),
        heads_(heads),
        head_dim_(head_dim),
        qkv_(out, segments * length, 3 * heads * head_dim),
        floats_(segments * length, 3 * heads * head_dim),
        out_(out, segments * length, heads * head_dim) {
    FillRandom(floats_.View(), 98, 1, out == Dtype::kBF16);
    Convert(floats_.View(), qkv_.View());
    for (int64_t i = 0; i <= segments; ++i) starts_.push_back(i * length);
  }
  void Attend() {
    SegmentAttentionArgs args;
    args.q = Packed(0);
    args.k = Packed(1);
    args.v = Packed(2);
    args.heads = heads_;
    args.head_dim = head_dim_;
    args.scale = scale();
    args.cu_segments = starts_;
    args.out = out_.View();
    args.workspace = &workspace_;
    SegmentAttention(args);
  }
  void Check() {
    Attend();
    const std::vector<int64_t> rows = SampleRows(segments_ * length_, length_, 16);
    ParallelFor(static_cast<int64_t>(rows.size()), [&](int64_t i) {
      const int64_t row = rows[static_cast<size_t>(i)];
      const int64_t first = row / length_ * length_;
      std::vector<KvHeadView> kv;
      for (int64_t head = 0; head < heads_; ++head) {
        kv.push_back({Part(1).Row(first) + head * head_dim_, Part(2).Row(first) + head * head_dim_, length_,
                      floats_.cols(), floats_.cols(), KvFormat::kF32});
      }
      Matrix<float> want(1, heads_ * head_dim_);
      AttentionArgs args;
      args.q = Part(0).Rows(row, 1);
      args.kv = kv;
      args.heads = heads_;
      args.head_dim = head_dim_;
      args.scale = scale();
      args.causal = false;
      args.out = {want.data(), Dtype::kF32, 1, want.cols(), want.cols()};
      reference::Attention(args);
      CheckClose("segment attention", row, out_.View().Rows(row, 1), want.View(), head_dim_,
                 out_.View().dtype == Dtype::kBF16 ? kBf16Tolerance : kF32Tolerance);
    });
  }
  double flops() const {
    return 4.0 * static_cast<double>(length_ * length_) * static_cast<double>(head_dim_ * heads_ * segments_);
  }

 private:
  MatrixView<const float> Part(int64_t part) const {
    return floats_.View().Cols(part * heads_ * head_dim_, heads_ * head_dim_);
  }
  AnyMatrixView Packed(int64_t part) { return qkv_.View().Cols(part * heads_ * head_dim_, heads_ * head_dim_); }
  float scale() const { return 1.0F / std::sqrt(static_cast<float>(head_dim_)); }

  int64_t segments_, length_, heads_, head_dim_;
  AnyMatrix qkv_;         // in the format of the output, as the tower makes it
  Matrix<float> floats_;  // the same values
  AnyMatrix out_;
  std::vector<int64_t> starts_;
  AttentionWorkspace workspace_;
};

Line SegmentLine(const char* what, int64_t segments, int64_t length, int64_t head_dim, double target) {
  Line line;
  line.name = StrCat("attention/", what, "/bf16/d", head_dim);
  line.shape = StrCat(segments, " ", what, " of ", length, " rows, 16 heads, D ", head_dim);
  line.baseline = "oneDNN bf16 4096^3";
  line.target = target;
  line.needs = CpuLevel::kAvx512Bf16;
  line.make = [=](const Options& options) {
    const auto problem = options.tiny ? std::make_shared<Segments>(2, length / 8 + 5, 3, head_dim, Dtype::kBF16)
                                      : std::make_shared<Segments>(segments, length, 16, head_dim, Dtype::kBF16);
    Trial trial = AgainstCube(Dtype::kBF16, options);
    trial.check = [problem] { problem->Check(); };
    trial.kernel = [problem] { return Seconds([&] { problem->Attend(); }); };
    trial.work = problem->flops();
    return trial;
  };
  return line;
}

}  // namespace

std::vector<Line> AttentionLines(const Options& /*options*/) {
  return {PrefillLine(4096, Dtype::kBF16, 0.85), PrefillLine(16384, Dtype::kBF16, 0.85),
          SegmentLine("frames", 8, 1024, 64, 0.7), SegmentLine("frames", 8, 1024, 80, 0.7),
          // A group of the tower's: its rows were written just before.
          SegmentLine("windows", 16, 64, 64, 0.5), SegmentLine("windows", 16, 64, 80, 0.5),
          // More than the caches next to a core hold.
          SegmentLine("windows-from-memory", 128, 64, 64, 0), SegmentLine("windows-from-memory", 128, 64, 80, 0),
          PrefillLine(4096, Dtype::kF32, 0.7), ObserverLine(4096, Dtype::kBF16)};
}

}  // namespace purekv::bench
