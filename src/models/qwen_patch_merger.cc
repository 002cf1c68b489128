#include "models/qwen_patch_merger.h"

#include <algorithm>
#include <string>

#include "base/any_matrix.h"
#include "base/error.h"
#include "models/weights.h"

namespace purekv {
namespace {

constexpr float kNormEps = 1e-6F;     // fixed in the published code, not in the config
constexpr int64_t kBlockRows = 1024;  // of the tower, that pass through together

Linear ReadLayer(const TensorSource& source, const std::string& name, const NumberFormats& formats) {
  const std::string weight = name + ".weight";
  const std::string bias = name + ".bias";
  return ReadLinear(source, {&weight, 1}, {&bias, 1}, formats, WeightRole::kVision);
}

}  // namespace

std::vector<TensorSpec> QwenPatchMerger::Tensors(const QwenVisionConfig& config) {
  const int64_t wide = config.hidden * config.merge_size * config.merge_size;
  std::vector<TensorSpec> specs;
  Norm::AddSpecs("visual.merger.ln_q", config.hidden, config.version == QwenVersion::kQwen2, &specs);
  specs.push_back({"visual.merger.mlp.0.weight", {wide, wide}});
  specs.push_back({"visual.merger.mlp.0.bias", {wide}});
  specs.push_back({"visual.merger.mlp.2.weight", {config.out_hidden, wide}});
  specs.push_back({"visual.merger.mlp.2.bias", {config.out_hidden}});
  return specs;
}

QwenPatchMerger::QwenPatchMerger(const QwenVisionConfig& config, const TensorSource& source,
                                 const NumberFormats& formats)
    : hidden_(config.hidden),
      cell_rows_(config.merge_size * config.merge_size),
      compute_(formats.activations),
      norm_(Norm::Read(source, "visual.merger.ln_q", config.version == QwenVersion::kQwen2)),
      in_(ReadLayer(source, "visual.merger.mlp.0", formats)),
      out_(ReadLayer(source, "visual.merger.mlp.2", formats)) {}

StorageTotals QwenPatchMerger::storage() const {
  StorageTotals totals;
  for (const Linear* layer : {&in_, &out_}) totals.Add(*layer, layer->in() * layer->out());
  return totals;
}

void QwenPatchMerger::Connect(std::span<const MatrixView<const float>> sets, std::span<const Tile>,
                              const MediaFeatures& features) const {
  const MatrixView<const float> rows = sets.front();
  const MatrixView<float> out = features.rows;
  PUREKV_CHECK(rows.rows == out.rows * cell_rows_ && rows.cols == hidden_ && out.cols == out_.out(), rows.rows, " x ",
               rows.cols, " to ", out.rows, " x ", out.cols);
  const int64_t wide = hidden_ * cell_rows_;
  const int64_t block = std::min(out.rows, std::max<int64_t>(1, kBlockRows / cell_rows_));
  AnyMatrix normed(compute_, block * cell_rows_, hidden_);
  AnyMatrix activated(compute_, block, wide);
  for (int64_t first = 0; first < out.rows; first += block) {
    const int64_t count = std::min(block, out.rows - first);
    norm_.Apply(rows.Rows(first * cell_rows_, count * cell_rows_), kNormEps, normed.View().Rows(0, count * cell_rows_));
    // The rows of a cell lie one after another: the same memory is one long row per cell.
    AnyMatrixView cells = normed.View();
    cells.rows = count;
    cells.cols = cells.stride = wide;
    in_.RunActivated(Activation::kGeluErf, cells, activated.View().Rows(0, count));
    out_.Run(activated.View().Rows(0, count), out.Rows(first, count));
  }
}

}  // namespace purekv
