// A whole prefill and a whole vision tower of random weights, against what their products alone take.
#include <algorithm>
#include <memory>
#include <vector>

#include "base/error.h"
#include "base/threads.h"
#include "bench/inputs.h"
#include "bench/line.h"
#include "bench/matmul.h"
#include "purekv/bench.h"

namespace purekv::bench {
namespace {

// qwen2.5-vl-3b, from its published config.json.
constexpr int64_t kHidden = 2048;
constexpr int64_t kQkv = 2048 + 2 * 256;
constexpr int64_t kWide = 11008;
constexpr int64_t kAttention = 16 * 128;  // heads x head dim
constexpr int64_t kBlockRows = 512;       // of the engine
constexpr int64_t kTowerHidden = 1280;
constexpr int64_t kTowerWide = 3420;
constexpr int64_t kTowerLayers = 32;
constexpr int64_t kTowerFullLayers = 4;  // attend to whole frames; the others to windows of 8 x 8 patches
constexpr int64_t kTowerRows = 1024;     // of the engine's feed-forward blocks
constexpr int kDecoderLayers = 4;

const std::shared_ptr<const Model>& TheModel(int threads) {
  static auto& model = *new std::shared_ptr<const Model>();
  if (model == nullptr)
    model = Model::Random("qwen2.5-vl-3b", kDecoderLayers, {.activations = Dtype::kBF16, .threads = threads});
  return model;
}

// The products of `layers` layers, each with weights of its own, over a block of `rows` rows, timed on `blocks` blocks
// of each layer and counted for all.
class Products {
 public:
  Products(int64_t layers, int64_t rows, const std::vector<std::pair<int64_t, int64_t>>& shapes) {
    for (int64_t layer = 0; layer < layers; ++layer) {
      for (const auto& [in, out] : shapes)
        layers_.emplace_back(std::make_unique<OneDnnMatmul>(Dtype::kBF16, rows, in, out));
    }
    per_layer_ = shapes.size();
  }
  // Layer by layer, inside a layer block by block, as the engine goes.
  double Time(int64_t blocks) {
    return Seconds([&] {
      for (size_t first = 0; first < layers_.size(); first += per_layer_) {
        for (int64_t block = 0; block < blocks; ++block) {
          for (size_t i = first; i < first + per_layer_; ++i) layers_[i]->Run();
        }
      }
    });
  }
  double flops() const {  // of one block of all layers
    double sum = 0;
    for (const auto& product : layers_) sum += product->flops();
    return sum;
  }

 private:
  std::vector<std::unique_ptr<OneDnnMatmul>> layers_;
  size_t per_layer_ = 0;
};

// Seconds of all products, and of `attention` FLOPs at the rate they ran at; a part of the work is timed, `share` is
// all of it in units of that part.
double IdealSeconds(double part_seconds, double part_flops, double share, double attention) {
  return part_seconds * share + attention / (part_flops / part_seconds);
}

// Text alone: seconds of one prefill.
double PrefillSeconds(const Options& options, int threads, int64_t tokens) {
  SessionOptions session;
  session.threads = threads;
  const BenchRequest request{.depth = 0, .prompt_tokens = tokens, .grid = {{0, 0, 0}}, .decode_tokens = 0};
  return RunBench(TheModel(options.threads), request, session).prefill.seconds;
}

// `slices` pairs of frames of 32 x 32 patches: seconds of the tower.
double TowerSeconds(const Options& options, int64_t slices) {
  SessionOptions session;
  session.threads = options.threads;
  const BenchRequest request{
      .depth = 0, .prompt_tokens = slices * 256 + 8, .grid = {{slices, 32, 32}}, .decode_tokens = 0};
  return RunBench(TheModel(options.threads), request, session).vision.seconds;
}

Line PrefillLine() {
  Line line;
  line.name = "model/prefill/16k";
  line.shape = "qwen2.5-vl-3b, 4 layers, 16384 tokens of text";
  line.baseline = "its products through oneDNN + attention at their rate";
  line.compare = Compare::kTime;
  line.target = 1.08;
  line.needs = CpuLevel::kAvx512Bf16;
  line.make = [](const Options& options) {
    constexpr int64_t kTokens = 16384;
    constexpr int64_t kBlocks = kTokens / kBlockRows;
    constexpr int64_t kTimed = kBlocks / 4;
    const auto products =
        std::make_shared<Products>(kDecoderLayers, kBlockRows,
                                   std::vector<std::pair<int64_t, int64_t>>{
                                       {kHidden, kQkv}, {kAttention, kHidden}, {kHidden, 2 * kWide}, {kWide, kHidden}});
    const double attention = 2.0 * static_cast<double>(kTokens) * static_cast<double>(kTokens) *
                             static_cast<double>(kAttention * kDecoderLayers);
    PrefillSeconds(options, options.threads, kBlockRows);  // first touches, plans made on first use
    products->Time(1);
    Trial trial;
    trial.kernel = [options] { return PrefillSeconds(options, options.threads, kTokens); };
    trial.baseline = [=] {
      return IdealSeconds(products->Time(kTimed), products->flops() * kTimed, static_cast<double>(kBlocks) / kTimed,
                          attention);
    };
    trial.work = trial.baseline_work = products->flops() * kBlocks + attention;
    trial.calls = 1;
    trial.remark = "products of a quarter of the blocks timed";
    return trial;
  };
  return line;
}

Line TowerLine() {
  Line line;
  line.name = "model/tower/16x448x448";
  line.shape = "qwen2.5-vl-3b, 16 frames of 448 x 448: 8 slices of 1024 patches";
  line.baseline = "its products through oneDNN + attention at their rate";
  line.compare = Compare::kTime;
  line.target = 1.2;
  line.needs = CpuLevel::kAvx512Bf16;
  line.make = [](const Options& options) {
    constexpr int64_t kSlices = 8;
    constexpr int64_t kPatches = 1024;
    constexpr int64_t kTimedLayers = kTowerLayers / 4;
    const auto products =
        std::make_shared<Products>(kTimedLayers, kTowerRows,
                                   std::vector<std::pair<int64_t, int64_t>>{{kTowerHidden, 3 * kTowerHidden},
                                                                            {kTowerHidden, kTowerHidden},
                                                                            {kTowerHidden, 2 * kTowerWide},
                                                                            {kTowerWide, kTowerHidden}});
    // Patches in, merged cells out: once, whatever the depth.
    const auto in = std::make_shared<OneDnnMatmul>(Dtype::kBF16, kSlices * kPatches, 3 * 2 * 14 * 14, kTowerHidden);
    const auto merge =
        std::make_shared<OneDnnMatmul>(Dtype::kBF16, kSlices * kPatches / 4, 4 * kTowerHidden, 4 * kTowerHidden);
    const auto out = std::make_shared<OneDnnMatmul>(Dtype::kBF16, kSlices * kPatches / 4, 4 * kTowerHidden, kHidden);
    const double per_key = 4.0 * static_cast<double>(kSlices * kPatches * kTowerHidden);
    const double attention =
        per_key * static_cast<double>(kTowerFullLayers * kPatches + (kTowerLayers - kTowerFullLayers) * 64);
    TowerSeconds(options, 1);  // first touches, plans made on first use
    products->Time(1);
    for (const auto& product : {in, merge, out}) product->Run();
    Trial trial;
    trial.kernel = [options] { return TowerSeconds(options, kSlices); };
    trial.baseline = [=] {
      const double once = Seconds([&] {
        in->Run();
        merge->Run();
        out->Run();
      });
      return once + IdealSeconds(products->Time(kSlices), products->flops() * kSlices,
                                 static_cast<double>(kTowerLayers) / kTimedLayers, attention);
    };
    trial.work = trial.baseline_work = products->flops() * kSlices * kTowerLayers / kTimedLayers + attention +
                                       in->flops() + merge->flops() + out->flops();
    trial.calls = 1;
    trial.remark = "products of a quarter of the layers timed";
    return trial;
  };
  return line;
}

Line ScalingLine() {
  Line line;
  line.name = "scaling/model/prefill/4k";
  line.shape = "qwen2.5-vl-3b, 4 layers, 4096 tokens of text";
  line.baseline = "the same on 1 thread";
  line.needs = CpuLevel::kAvx512Bf16;
  line.make = [](const Options& options) {
    PrefillSeconds(options, options.threads, kBlockRows);
    Trial trial;
    trial.kernel = [options] { return PrefillSeconds(options, options.threads, 4096); };
    trial.baseline = [options] { return PrefillSeconds(options, 1, 4096); };
    trial.calls = 1;
    const double per_token = 2.0 * static_cast<double>(kHidden * kQkv + kAttention * kHidden + 3 * kHidden * kWide);
    trial.work = trial.baseline_work = kDecoderLayers * 4096.0 * (per_token + 2.0 * 4096.0 * kAttention);
    return trial;
  };
  return line;
}

}  // namespace

std::vector<Line> ModelLines(const Options& options) {
  if (!options.heavy || options.tiny) return {};  // their parts are checked above, their results by the parity tests
  std::vector<Line> lines = {PrefillLine(), TowerLine()};
  if (options.threads > 1) {
    lines.push_back(ScalingLine());
    if (options.threads == 2) lines.back().target = 1.85;
  }
  return lines;
}

}  // namespace purekv::bench
