// What waits for memory: decode attention and matrix-vector products, against a plain read of as many bytes. All go
// round over more memory than the last-level cache holds.
#include <cmath>
#include <memory>
#include <vector>

#include "attention/attention.h"
#include "attention/reference.h"
#include "base/error.h"
#include "bench/inputs.h"
#include "bench/line.h"
#include "bench/plain_read.h"
#include "kernels/dense.h"
#include "kernels/reference.h"

namespace purekv::bench {
namespace {

// One new token over the caches of all layers.
struct Decode {
  int64_t heads, head_dim;
  std::vector<RandomCache> layers;
  Matrix<float> q;
  AnyMatrix out;
  AttentionWorkspace workspace;

  AttentionArgs Args(std::span<const KvHeadView> kv, AnyMatrixView to) {
    return ArgsOf(q.View(), heads, kv, to, &workspace);
  }
  void Run() {
    for (const RandomCache& layer : layers) {
      const std::vector<KvHeadView> kv = layer.Heads();
      Attention(Args(kv, out.View()));
    }
  }
  void Check() {
    Run();  // leaves the last layer's result
    const std::vector<KvHeadView> kv = layers.back().Heads();
    Matrix<float> want(1, heads * head_dim);
    reference::Attention(Args(kv, {want.data(), Dtype::kF32, 1, want.cols(), want.cols()}));
    CheckClose("decode attention", 0, out.View(), want.View(), head_dim, kBf16Tolerance);
  }
};

Line DecodeLine() {
  Line line;
  line.name = "attention/decode/bf16/32k";
  line.shape = "1 row, 28 heads, 4 KV heads, D 128, 32768 tokens, 12 layers in turn";
  line.baseline = "plain read of the same bytes";
  line.unit = Unit::kBytes;
  line.target = 0.8;
  line.make = [](const Options& options) {
    const int64_t kv_heads = 4;
    const int64_t heads = 28;
    const int64_t head_dim = 128;
    const auto decode = std::make_shared<Decode>();
    decode->heads = heads;
    decode->head_dim = head_dim;
    for (uint64_t layer = 0; layer < (options.tiny ? 2U : 12U); ++layer) {
      decode->layers.emplace_back(kv_heads, options.tiny ? 1000 : 32768, head_dim, Dtype::kBF16, 1000 * layer);
    }
    decode->q = Matrix<float>(1, heads * head_dim);
    decode->out = AnyMatrix(Dtype::kBF16, 1, heads * head_dim);
    FillRandom(decode->q.View(), 5, 1, true);
    std::vector<std::pair<const char*, int64_t>> memory;
    for (RandomCache& layer : decode->layers) {
      for (const auto& stretch : layer.Stretches()) memory.push_back(stretch);
    }
    const auto read = std::make_shared<PlainRead>(std::move(memory));
    Trial trial;
    trial.check = [decode] { decode->Check(); };
    trial.kernel = [decode] { return Seconds([&] { decode->Run(); }); };
    trial.baseline = [read, decode] { return Seconds([&] { read->Run(); }); };
    trial.work = trial.baseline_work = read->bytes();
    trial.remark = read->chunking();
    return trial;
  };
  return line;
}

struct MatrixVector {
  std::vector<Linear> layers;
  AnyMatrix x, weights;
  Matrix<float> y;
  Buffer other;  // as many bytes as the packed matrices, for the plain read

  void Run() {
    for (const Linear& layer : layers) layer.Run(x.View(), y.View());
  }
  void Check() {
    Run();
    const WeightRows part = {weights.View().data, weights.View().dtype, weights.View().rows};
    for (int64_t row = 0; row < y.rows(); ++row) {
      Matrix<float> want(1, y.cols());
      reference::Dense(std::span(&part, 1), {}, part.dtype, x.View().Rows(row, 1), want.View(), false);
      const AnyMatrixView got = {y.Row(row), Dtype::kF32, 1, y.cols(), y.cols()};
      CheckClose("matrix-vector product", row, got, want.View(), 16, 3e-5);
    }
  }
};

// `rows` rows of x through W [out, in].
Line MatrixVectorLine(int64_t rows, int64_t out, int64_t in) {
  Line line;
  line.name = StrCat("matvec/bf16/", out, "x", in, "/rows", rows);
  line.shape = StrCat("W [", out, ", ", in, "], ", rows, rows == 1 ? " row" : " rows", " of x, 6 matrices in turn");
  line.baseline = "plain read of as many bytes";
  line.unit = Unit::kBytes;
  line.target = 0.85;
  line.make = [=](const Options& options) {
    const int64_t from = options.tiny ? 200 : in;
    const int64_t to = options.tiny ? 208 : out;
    const auto problem = std::make_shared<MatrixVector>();
    problem->x = AnyMatrix(Dtype::kBF16, rows, from);
    problem->weights = AnyMatrix(Dtype::kBF16, to, from);
    problem->y = Matrix<float>(rows, to);
    FillRandom(problem->x.View(), 6);
    FillRandom(problem->weights.View(), 7, 1.0F / std::sqrt(static_cast<float>(from)));
    const WeightRows part = {problem->weights.View().data, Dtype::kBF16, to};
    size_t bytes = 0;
    for (int i = 0; i < (options.tiny ? 2 : 6); ++i) {
      problem->layers.emplace_back(std::span(&part, 1), from, std::span<const float>(), WeightFormat::kBF16,
                                   Dtype::kBF16);
      bytes += problem->layers.back().packed_bytes();
    }
    problem->other.Resize(bytes);
    std::fill_n(static_cast<char*>(problem->other.data()), bytes, char{1});
    const auto read = std::make_shared<PlainRead>(std::vector<std::pair<const char*, int64_t>>{
        {static_cast<const char*>(problem->other.data()), static_cast<int64_t>(bytes)}});
    Trial trial;
    trial.check = [problem] { problem->Check(); };
    trial.kernel = [problem] { return Seconds([&] { problem->Run(); }); };
    trial.baseline = [read, problem] { return Seconds([&] { read->Run(); }); };
    trial.work = trial.baseline_work = read->bytes();
    trial.remark = read->chunking();
    return trial;
  };
  return line;
}

}  // namespace

std::vector<Line> MemoryLines(const Options& /*options*/) {
  return {DecodeLine(), MatrixVectorLine(1, 18944, 3584), MatrixVectorLine(4, 18944, 3584),
          MatrixVectorLine(1, 3584, 18944), MatrixVectorLine(4, 3584, 18944)};
}

}  // namespace purekv::bench
