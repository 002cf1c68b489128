// A decode step that looks entries up, index and choice included, against one that reads all.
#include <memory>
#include <vector>

#include "attention/attention.h"
#include "attention/reference.h"
#include "base/error.h"
#include "bench/inputs.h"
#include "bench/line.h"
#include "cache/kv_cache.h"
#include "policy/retrieval.h"

namespace purekv::bench {
namespace {

constexpr int64_t kHeads = 28, kKvHeads = 4, kDim = 128;

// Layers in turn, so that the last-level cache does not hold what is read.
struct Lookup {
  KvCacheSpec spec;
  KvCache cache;
  Retrieval retrieval;
  Matrix<float> q{1, kHeads* kDim};
  AnyMatrix out{Dtype::kBF16, 1, kHeads* kDim};
  AttentionWorkspace workspace;
  int64_t layers;

  static KvOptions Quest() {
    KvOptions options;
    options.attend.view = "quest";
    options.attend.budget = 0.1;
    options.attend.options["attend_dense_layers"] = "0";
    return options;
  }
  static RopeSpec NoRope() { return {}; }

  Lookup(int64_t layers_count, int64_t length)
      : spec(KvCacheSpec::Uniform(layers_count, kKvHeads, kDim, KvFormat::kBF16)),
        cache(spec),
        retrieval(Quest(), spec, kHeads, NoRope()),
        layers(layers_count) {
    FillRandom(q.View(), 5, 1, true);
    Matrix<float> keys(length, kKvHeads * kDim), values(length, kKvHeads * kDim);
    cache.AddTokens(length);
    for (int64_t layer = 0; layer < layers; ++layer) {
      FillRandom(keys.View(), static_cast<uint64_t>(1000 * layer + 1));
      FillRandom(values.View(), static_cast<uint64_t>(1000 * layer + 2));
      cache.Reserve(layer, length);
      cache.Append(layer, keys.View(), values.View(), 0);
    }
    retrieval.SetPart(length, length, true);
    retrieval.EndPart(cache, {});
    retrieval.Begin(PassedRows::kStep, length, 1);
  }
  void Run(bool all) {
    for (int64_t layer = 0; layer < layers; ++layer) {
      const AttendedHeads heads =
          all ? AttendedHeads{cache.Heads(layer), {}, {}} : retrieval.Heads(layer, q.View(), cache, {});
      Attention(ArgsOf(q.View(), kHeads, heads.heads, out.View(), &workspace));
    }
  }
  // Of the last layer: the entries that were chosen, through the slow twin.
  void Check() {
    Run(false);
    const AttendedHeads heads = retrieval.Heads(layers - 1, q.View(), cache, {});
    Matrix<float> want(1, q.cols());
    reference::Attention(
        ArgsOf(q.View(), kHeads, heads.heads, {want.data(), Dtype::kF32, 1, want.cols(), want.cols()}, &workspace));
    CheckClose("attention over chosen pages", 0, out.View(), want.View(), kDim, kBf16Tolerance);
  }
};

}  // namespace

std::vector<Line> LookupLines(const Options& options) {
  (void)options;
  Line line;
  line.name = "attention/decode/quest/32k";
  line.shape = "1 row, 28 heads, 4 KV heads, D 128, a tenth of 32768 entries by pages of 16, 6 layers in turn";
  line.baseline = "the same over all entries";
  line.unit = Unit::kBytes;
  line.compare = Compare::kTime;
  line.target = 0.2;
  line.make = [](const Options& how) {
    const int64_t length = how.tiny ? 1000 : 32768, layers = how.tiny ? 2 : 6;
    const auto lookup = std::make_shared<Lookup>(layers, length);
    Trial trial;
    trial.check = [lookup] { lookup->Check(); };
    trial.kernel = [lookup] { return Seconds([&] { lookup->Run(false); }); };
    trial.baseline = [lookup] { return Seconds([&] { lookup->Run(true); }); };
    trial.baseline_work = static_cast<double>(lookup->cache.AllocatedBytes());
    // A tenth of the entries, and two rows of every sixteen keys.
    trial.work = trial.baseline_work * (0.1 + 1.0 / 16);
    return trial;
  };
  return {line};
}

}  // namespace purekv::bench
