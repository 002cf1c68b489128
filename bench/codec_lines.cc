// Attention over an encoded cache against the same over bf16.
#include <cmath>
#include <memory>
#include <vector>

#include "attention/attention.h"
#include "attention/reference.h"
#include "base/error.h"
#include "bench/inputs.h"
#include "bench/line.h"
#include "cache/kv_cache.h"

namespace purekv::bench {
namespace {

constexpr int64_t kHeads = 28, kKvHeads = 4, kDim = 128;

// Layers in turn, so that the last-level cache does not hold what is read.
struct Caches {
  std::vector<KvCache> layers;
  Matrix<float> q;
  AnyMatrix out;
  AttentionWorkspace workspace;

  Caches(int64_t rows, int64_t layers_count, int64_t length, int bits)
      : q(rows, kHeads * kDim), out(Dtype::kBF16, rows, kHeads * kDim) {
    FillRandom(q.View(), 5, 1, true);
    KvLayerSpec spec{kKvHeads, kDim, KvFormat::kBF16};
    if (bits > 0) {
      spec.codec = {
          .keys = {bits, KvGroupAxis::kChannel, 32}, .values = {bits, KvGroupAxis::kToken, 32}, .residual = 32};
    }
    Matrix<float> keys(length, kKvHeads * kDim), values(length, kKvHeads * kDim);
    for (int64_t layer = 0; layer < layers_count; ++layer) {
      FillRandom(keys.View(), static_cast<uint64_t>(1000 * layer + 1));
      FillRandom(values.View(), static_cast<uint64_t>(1000 * layer + 2));
      KvCache& cache = layers.emplace_back(KvCacheSpec({spec}));
      cache.AddTokens(length);
      cache.Reserve(0, length);
      cache.Append(0, keys.View(), values.View(), 0);
      cache.Encode(0);
    }
  }
  AttentionArgs Args(std::span<const KvHeadView> kv, AnyMatrixView to) {
    return ArgsOf(q.View(), kHeads, kv, to, &workspace);
  }
  void Run() {
    for (const KvCache& layer : layers) {
      const std::vector<KvHeadView> kv = layer.Heads(0);
      Attention(Args(kv, out.View()));
    }
  }
  double Bytes() const {
    double bytes = 0;
    for (const KvCache& layer : layers) bytes += static_cast<double>(layer.AllocatedBytes());
    return bytes;
  }
  void Check() {
    Run();  // leaves the last layer's result
    const std::vector<KvHeadView> kv = layers.back().Heads(0);
    Matrix<float> want(q.rows(), q.cols());
    reference::Attention(Args(kv, {want.data(), Dtype::kF32, want.rows(), want.cols(), want.cols()}));
    for (const int64_t row : {int64_t{0}, q.rows() - 1}) {
      CheckClose("attention over codes", row, out.View().Rows(row, 1), want.View().Rows(row, 1), kDim, kBf16Tolerance);
    }
  }
};

Line CodecLine(const std::string& name, const std::string& shape, int64_t rows, int bits, double target) {
  Line line;
  line.name = name;
  line.shape = shape;
  line.baseline = "the same over bf16 entries";
  line.unit = Unit::kBytes;
  line.compare = Compare::kTime;
  line.target = target;
  line.make = [rows, bits](const Options& options) {
    const int64_t length = options.tiny ? 1000 : 16384, layers = options.tiny ? 2 : rows == 1 ? 12 : 1;
    const auto codes = std::make_shared<Caches>(rows, layers, length, bits);
    const auto plain = std::make_shared<Caches>(rows, layers, length, 0);
    Trial trial;
    trial.check = [codes, plain, tiny = options.tiny] {
      plain->Run();
      if (codes->q.rows() == 1 || tiny) codes->Check();  // the slow twin takes a minute for a block of rows
    };
    trial.kernel = [codes] { return Seconds([&] { codes->Run(); }); };
    trial.baseline = [plain] { return Seconds([&] { plain->Run(); }); };
    trial.work = codes->Bytes();
    trial.baseline_work = plain->Bytes();
    return trial;
  };
  return line;
}

}  // namespace

std::vector<Line> CodecLines(const Options& options) {
  (void)options;
  std::vector<Line> lines;
  for (const int bits : {8, 4, 2}) {
    const std::string codec = StrCat("int", bits);
    lines.push_back(CodecLine(StrCat("attention/decode/", codec, "/16k"),
                              "1 row, 28 heads, 4 KV heads, D 128, 16384 entries, 12 layers in turn", 1, bits,
                              bits == 8 ? 0.6 : 0.4));
  }
  for (const int bits : {8, 4}) {
    lines.push_back(CodecLine(StrCat("attention/prefill/int", bits, "/16k"),
                              "512 rows over 16384 entries, 28 heads, 4 KV heads, D 128", 512, bits, 1.15));
  }
  return lines;
}

}  // namespace purekv::bench
