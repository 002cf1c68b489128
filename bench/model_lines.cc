// Whole prefills and whole vision towers of random weights, against what their products alone take, and the prefills of
// other families against Qwen2.5-VL's.
#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/threads.h"
#include "bench/inputs.h"
#include "bench/line.h"
#include "bench/matmul.h"
#include "purekv/bench.h"

namespace purekv::bench {
namespace {

constexpr int64_t kBlockRows = 512;   // of the engine
constexpr int64_t kTowerRows = 1024;  // of the engine's feed-forward blocks
constexpr int kDecoderLayers = 4;

using Products2d = std::vector<std::pair<int64_t, int64_t>>;  // columns in, columns out

// A decoder's layer, from the published config.json.
struct DecoderShape {
  const char* name;
  int64_t hidden, attention, kv, wide;  // attention, kv: heads x head dim

  Products2d products() const {
    return {{hidden, attention + 2 * kv}, {attention, hidden}, {hidden, 2 * wide}, {wide, hidden}};
  }
  // Of kDecoderLayers layers over a prompt of `tokens`, each of which attends to half of them on average.
  double flops(int64_t tokens) const {
    double per_token = 0;
    for (const auto& [in, out] : products()) per_token += 2.0 * static_cast<double>(in * out);
    per_token += 2.0 * static_cast<double>(tokens * attention);
    return kDecoderLayers * static_cast<double>(tokens) * per_token;
  }
};
constexpr DecoderShape kQwen25Vl3b = {"qwen2.5-vl-3b", 2048, 2048, 256, 11008};
constexpr DecoderShape kQwen25Vl7b = {"qwen2.5-vl-7b", 3584, 3584, 512, 18944};
constexpr DecoderShape kLlava7b = {"llava-1.5-7b", 4096, 4096, 4096, 11008};
constexpr DecoderShape kQwen3Vl8b = {"qwen3-vl-8b", 4096, 4096, 1024, 12288};

// One at a time: the last that was asked for stays.
std::shared_ptr<const Model> RandomModel(const std::string& shape, int layers, int threads) {
  static auto& kept = *new std::pair<std::string, std::shared_ptr<const Model>>();
  const std::string key = StrCat(shape, " ", layers);
  if (kept.first != key) {
    kept = {};
    kept = {key, Model::Random(shape, layers, {.activations = Dtype::kBF16, .threads = threads})};
  }
  return kept.second;
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

// Seconds of one prefill: of text alone, or of as much of random visual embeddings as the prompt holds.
double PrefillSeconds(const std::shared_ptr<const Model>& model, int threads, int64_t tokens, bool visual = false) {
  SessionOptions session;
  session.threads = threads;
  BenchRequest request{.depth = 0, .prompt_tokens = tokens, .grid = {{0, 0, 0}}, .decode_tokens = 0, .vision = false};
  if (visual) request.grid.reset();
  return RunBench(model, request, session).prefill.seconds;
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
    const auto products = std::make_shared<Products>(kDecoderLayers, kBlockRows, kQwen25Vl3b.products());
    const double attention = 2.0 * static_cast<double>(kTokens) * static_cast<double>(kTokens) *
                             static_cast<double>(kQwen25Vl3b.attention * kDecoderLayers);
    const auto model = RandomModel(kQwen25Vl3b.name, kDecoderLayers, options.threads);
    PrefillSeconds(model, options.threads, kBlockRows);  // first touches, plans made on first use
    products->Time(1);
    Trial trial;
    trial.kernel = [=] { return PrefillSeconds(model, options.threads, kTokens); };
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

// The prefill of another family, in FLOPs a second, beside that of Qwen2.5-VL's model of about its size.
Line FamilyLine(const DecoderShape& shape, int64_t tokens, bool visual) {
  Line line;
  line.name = StrCat("model/prefill/", shape.name);
  line.shape =
      StrCat(shape.name, ", ", kDecoderLayers, " layers, ", tokens, " tokens", visual ? ", most of them visual" : "");
  line.baseline = StrCat(kQwen25Vl7b.name, ", the same prompt");
  line.target = 0.95;
  line.needs = CpuLevel::kAvx2;
  line.make = [=](const Options& options) {
    const auto model = [&](const DecoderShape& of) {
      return Model::Random(of.name, kDecoderLayers, {.activations = Dtype::kBF16, .threads = options.threads});
    };
    const auto ours = model(shape), theirs = model(kQwen25Vl7b);
    for (const auto& one : {ours, theirs}) PrefillSeconds(one, options.threads, kBlockRows);
    Trial trial;
    trial.kernel = [=] { return PrefillSeconds(ours, options.threads, tokens, visual); };
    trial.baseline = [=] { return PrefillSeconds(theirs, options.threads, tokens, visual); };
    trial.work = shape.flops(tokens);
    trial.baseline_work = kQwen25Vl7b.flops(tokens);
    trial.calls = 1;
    return trial;
  };
  return line;
}

// A vision tower, and a medium that it is timed on.
struct Tower {
  const char* name;   // of the line
  const char* model;  // a published shape
  const char* medium;
  std::array<int64_t, 3> grid;  // slices, rows and columns of patches
  int64_t tokens = 0;           // that its medium makes
  int64_t layers = 0, hidden = 0;
  Products2d products;        // of a layer
  int64_t attended = 0;       // patches that one attends to, summed over the layers
  int64_t class_rows = 0;     // beside each slice's patches
  struct Once {               // whatever the depth
    int64_t rows_per = 1;     // patches that a row is made of
    int64_t in = 0, out = 0;  // columns
  };
  std::vector<Once> once;

  int64_t patches() const { return grid[0] * grid[1] * grid[2]; }
  int64_t rows() const { return patches() + grid[0] * class_rows; }
};

double TowerSeconds(const std::shared_ptr<const Model>& model, const Options& options, const Tower& tower,
                    int64_t slices) {
  SessionOptions session;
  session.threads = options.threads;
  const int64_t tokens = tower.tokens / tower.grid[0] * slices;
  const BenchRequest request{
      .depth = 0, .prompt_tokens = tokens + 64, .grid = {{slices, tower.grid[1], tower.grid[2]}}, .decode_tokens = 0};
  return RunBench(model, request, session).vision.seconds;
}

Line TowerLine(const Tower& tower) {
  Line line;
  line.name = StrCat("model/tower/", tower.name);
  line.shape = StrCat(tower.model, ", ", tower.medium);
  line.baseline = "its products through oneDNN + attention at their rate";
  line.compare = Compare::kTime;
  line.target = 1.2;
  line.needs = CpuLevel::kAvx512Bf16;
  line.make = [tower](const Options& options) {
    const int64_t timed_layers = std::max<int64_t>(1, tower.layers / 4);
    const int64_t blocks = std::max<int64_t>(1, tower.rows() / kTowerRows);
    const auto products = std::make_shared<Products>(timed_layers, kTowerRows, tower.products);
    std::vector<std::shared_ptr<OneDnnMatmul>> once;
    double once_flops = 0;
    for (const Tower::Once& one : tower.once) {
      once.push_back(std::make_shared<OneDnnMatmul>(Dtype::kBF16, tower.patches() / one.rows_per, one.in, one.out));
      once_flops += once.back()->flops();
    }
    const double attention =
        4.0 * static_cast<double>(tower.rows() * tower.hidden) * static_cast<double>(tower.attended);
    // All of the work in units of what is timed.
    const double share = static_cast<double>(tower.layers) / static_cast<double>(timed_layers) *
                         static_cast<double>(tower.rows()) / static_cast<double>(blocks * kTowerRows);
    const auto model = RandomModel(tower.model, kDecoderLayers, options.threads);
    TowerSeconds(model, options, tower, 1);  // first touches, plans made on first use
    products->Time(1);
    for (const auto& product : once) product->Run();
    Trial trial;
    trial.kernel = [=] { return TowerSeconds(model, options, tower, tower.grid[0]); };
    trial.baseline = [=] {
      const double of_once = Seconds([&] {
        for (const auto& product : once) product->Run();
      });
      const double flops = products->flops() * static_cast<double>(blocks);
      return of_once + IdealSeconds(products->Time(blocks), flops, share, attention);
    };
    trial.work = trial.baseline_work = products->flops() * static_cast<double>(blocks) * share + attention + once_flops;
    trial.calls = 1;
    trial.remark = "products of a quarter of the layers timed";
    return trial;
  };
  return line;
}

// From the published config.json files.
std::vector<Tower> Towers() {
  const auto plain = [](int64_t hidden, int64_t wide) {  // queries, keys and values in one; out; up; down
    return Products2d{{hidden, 3 * hidden}, {hidden, hidden}, {hidden, wide}, {wide, hidden}};
  };
  std::vector<Tower> towers;
  // Four layers attend to whole frames, the others to windows of 8 x 8 patches.
  towers.push_back({"16x448x448",
                    kQwen25Vl3b.name,
                    "16 frames of 448 x 448: 8 slices of 1024 patches",
                    {8, 32, 32},
                    8 * 256,
                    32,
                    1280,
                    {{1280, 3 * 1280}, {1280, 1280}, {1280, 2 * 3420}, {3420, 1280}},
                    4 * 1024 + 28 * 64,
                    0,
                    {{1, 3 * 2 * 14 * 14, 1280}, {4, 4 * 1280, 4 * 1280}, {4, 4 * 1280, 2048}}});
  towers.push_back({"llava-1.5-7b",
                    kLlava7b.name,
                    "6 images of 336 x 336: 576 patches and a class token each",
                    {6, 24, 24},
                    6 * 576,
                    23,
                    1024,
                    plain(1024, 4096),
                    23 * 577,
                    1,
                    {{1, 3 * 14 * 14, 1024}, {1, 1024, 4096}, {1, 4096, 4096}}});
  towers.push_back({"qwen3-vl-4b",
                    "qwen3-vl-4b",
                    "16 frames of 512 x 512: 8 slices of 1024 patches",
                    {8, 32, 32},
                    8 * 256,
                    24,
                    1024,
                    plain(1024, 4096),
                    24 * 1024,
                    0,
                    {{1, 3 * 2 * 16 * 16, 1024},
                     {4, 4 * 1024, 4 * 1024},
                     {4, 4 * 1024, 2560},
                     {4, 4 * 1024, 4 * 1024},
                     {4, 4 * 1024, 2560},
                     {4, 4 * 1024, 4 * 1024},
                     {4, 4 * 1024, 2560},
                     {4, 4 * 1024, 4 * 1024},
                     {4, 4 * 1024, 2560}}});
  towers.push_back({"internvl3-1b",
                    "internvl3-1b",
                    "8 tiles of 448 x 448: 1024 patches and a class token each",
                    {8, 32, 32},
                    8 * 256,
                    24,
                    1024,
                    plain(1024, 4096),
                    24 * 1025,
                    1,
                    {{1, 3 * 14 * 14, 1024}, {4, 4 * 1024, 896}, {4, 896, 896}}});
  towers.push_back({"llava-onevision-0.5b",
                    "llava-onevision-0.5b",
                    "8 frames of 384 x 384: 729 patches each",
                    {8, 27, 27},
                    8 * 196,
                    26,
                    1152,
                    plain(1152, 4304),
                    26 * 729,
                    0,
                    {{1, 3 * 14 * 14, 1152}, {1, 1152, 896}, {1, 896, 896}}});
  return towers;
}

Line ScalingLine() {
  Line line;
  line.name = "scaling/model/prefill/4k";
  line.shape = "qwen2.5-vl-3b, 4 layers, 4096 tokens of text";
  line.baseline = "the same on 1 thread";
  line.needs = CpuLevel::kAvx512Bf16;
  line.make = [](const Options& options) {
    const auto model = RandomModel(kQwen25Vl3b.name, kDecoderLayers, options.threads);
    PrefillSeconds(model, options.threads, kBlockRows);
    Trial trial;
    trial.kernel = [=] { return PrefillSeconds(model, options.threads, 4096); };
    trial.baseline = [=] { return PrefillSeconds(model, 1, 4096); };
    trial.calls = 1;
    trial.work = trial.baseline_work = kQwen25Vl3b.flops(4096);
    return trial;
  };
  return line;
}

}  // namespace

std::vector<Line> ModelLines(const Options& options) {
  if (!options.heavy || options.tiny) return {};  // their parts are checked above, their results by the parity tests
  std::vector<Line> lines = {PrefillLine()};
  for (const Tower& tower : Towers()) lines.push_back(TowerLine(tower));
  lines.push_back(FamilyLine(kLlava7b, 4000, false));  // all positions but a few
  lines.push_back(FamilyLine(kQwen3Vl8b, 8192, true));
  if (options.threads > 1) {
    lines.push_back(ScalingLine());
    if (options.threads == 2) lines.back().target = 1.85;
  }
  return lines;
}

}  // namespace purekv::bench
