// A decode step that looks entries up, index and choice included, against one that reads all.
#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "attention/attention.h"
#include "attention/reference.h"
#include "base/error.h"
#include "bench/inputs.h"
#include "bench/line.h"
#include "cache/kv_cache.h"
#include "kernels/page_convolution.h"
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

// What a step of attention-predictor takes to choose its pages, the row behind it added: by the trained predictor, of
// random numbers, and by the average.
struct Choice {
  KvCacheSpec spec;
  KvCache cache;
  Retrieval trained, average;
  Matrix<float> q{1, kHeads* kDim};
  std::vector<std::vector<float>> row;  // [kv_heads][entries]

  static KvOptions Predictor(const std::string& model) {
    KvOptions options;
    options.attend.view = "attention-predictor";
    options.attend.budget = 0.1;
    options.attend.options = {{"attend_dense_layers", "0"}, {"attend_model", model}};
    return options;
  }
  static std::shared_ptr<const PageConvolution> RandomNumbers() {
    const auto draw = [](int64_t count, uint64_t seed) {
      Matrix<float> numbers(1, count);
      FillRandom(numbers.View(), seed);
      return std::vector<float>(numbers.data(), numbers.data() + count);
    };
    PageConvolutionWeights weights;
    weights.conv1 = draw(16 * 9, 1);
    weights.bias1 = draw(16, 2);
    weights.conv2 = draw(32 * 16 * 9, 3);
    weights.bias2 = draw(32, 4);
    weights.conv3 = draw(32, 5);
    return std::make_shared<const PageConvolution>(std::move(weights));
  }

  explicit Choice(int64_t length)
      : spec(KvCacheSpec::Uniform(1, kKvHeads, kDim, KvFormat::kBF16)),
        cache(spec),
        trained(Predictor("random"), spec, kHeads, {}, RandomNumbers()),
        average(Predictor("ema"), spec, kHeads, {}) {
    Matrix<float> keys(length, kKvHeads * kDim);
    cache.AddTokens(length);
    cache.Append(0, keys.View(), keys.View(), 0);
    row.assign(static_cast<size_t>(kKvHeads), std::vector<float>(static_cast<size_t>(length), 0.0F));
    for (std::vector<float>& head : row) {
      Matrix<float> numbers(1, length);
      FillRandom(numbers.View(), 6);
      std::copy_n(numbers.data(), length, head.data());
    }
    for (Retrieval* const one : {&trained, &average}) {
      one->SetPart(length, length, true);
      one->EndPart(cache, {});
      one->Begin(PassedRows::kStep, length, 1);
      for (int64_t i = 0; i < PageConvolutionWeights::kRows; ++i) one->AddProbabilities(0, row);
      one->Heads(0, q.View(), cache, {});
    }
  }
  void Run(Retrieval* retrieval) {
    retrieval->AddProbabilities(0, row);
    retrieval->Heads(0, q.View(), cache, {});
  }
  // What it keeps from step to step is what working everything out anew gives: of a fresh view, the same pages.
  void Check() {
    Run(&trained);
    Retrieval fresh(Predictor("random"), spec, kHeads, {}, RandomNumbers());
    fresh.SetPart(cache.tokens(), cache.tokens(), true);
    fresh.EndPart(cache, {});
    fresh.Begin(PassedRows::kStep, cache.tokens(), 1);
    for (int64_t i = 0; i < PageConvolutionWeights::kRows; ++i) fresh.AddProbabilities(0, row);
    if (fresh.Heads(0, q.View(), cache, {}).ranges != trained.Heads(0, q.View(), cache, {}).ranges) {
      Fail("pages chosen from step to step are others than those chosen anew");
    }
  }
};

Line ChoiceLine() {
  Line line;
  line.name = "attention/choice/predictor/32k";
  line.shape = "a step's choice among 2,048 pages of 16 in each of 4 KV heads, by the trained predictor";
  line.baseline = "by the average";
  line.unit = Unit::kFlops;
  line.compare = Compare::kTime;
  line.make = [](const Options& how) {
    const int64_t length = how.tiny ? 1000 : 32768;
    const auto choice = std::make_shared<Choice>(length);
    Trial trial;
    trial.check = [choice] { choice->Check(); };
    trial.kernel = [choice] { return Seconds([&] { choice->Run(&choice->trained); }); };
    trial.baseline = [choice] { return Seconds([&] { choice->Run(&choice->average); }); };
    // Five rows of 64 a page: a multiplication and an addition for each number of conv2.
    trial.work = 2.0 * 5 * 32 * 16 * 9 * static_cast<double>(length / 16 * kKvHeads);
    trial.baseline_work = 2.0 * 64 * static_cast<double>(length / 16 * kKvHeads);
    return trial;
  };
  return line;
}

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
  return {line, ChoiceLine()};
}

}  // namespace purekv::bench
