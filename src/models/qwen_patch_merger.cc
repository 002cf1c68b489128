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

// Names of a merger's parts, and whether its norm is of a cell's row.
struct MergerNames {
  std::string norm, in, out;
  bool norm_of_cell = false;
};

std::vector<MergerNames> NamesOf(const QwenVisionConfig& config) {
  if (config.version != QwenVersion::kQwen3) {
    return {{"visual.merger.ln_q", "visual.merger.mlp.0", "visual.merger.mlp.2"}};
  }
  const auto names = [](const std::string& of, bool norm_of_cell) {
    return MergerNames{of + ".norm", of + ".linear_fc1", of + ".linear_fc2", norm_of_cell};
  };
  std::vector<MergerNames> all = {names("visual.merger", false)};
  for (size_t i = 0; i < config.taps.size(); ++i) {
    all.push_back(names(StrCat("visual.deepstack_merger_list.", i), true));
  }
  return all;
}

}  // namespace

std::vector<TensorSpec> QwenPatchMerger::Tensors(const QwenVisionConfig& config) {
  const int64_t wide = config.hidden * config.merge_size * config.merge_size;
  std::vector<TensorSpec> specs;
  for (const MergerNames& names : NamesOf(config)) {
    Norm::AddSpecs(names.norm, names.norm_of_cell ? wide : config.hidden, config.layer_norms, &specs);
    specs.push_back({names.in + ".weight", {wide, wide}});
    specs.push_back({names.in + ".bias", {wide}});
    specs.push_back({names.out + ".weight", {config.out_hidden, wide}});
    specs.push_back({names.out + ".bias", {config.out_hidden}});
  }
  return specs;
}

QwenPatchMerger::QwenPatchMerger(const QwenVisionConfig& config, const TensorSource& source,
                                 const NumberFormats& formats)
    : hidden_(config.hidden), cell_rows_(config.merge_size * config.merge_size), compute_(formats.activations) {
  for (const MergerNames& names : NamesOf(config)) {
    mergers_.push_back({Norm::Read(source, names.norm, config.layer_norms), ReadLayer(source, names.in, formats),
                        ReadLayer(source, names.out, formats)});
  }
}

StorageTotals QwenPatchMerger::storage() const {
  StorageTotals totals;
  for (const Merger& merger : mergers_) {
    for (const Linear* layer : {&merger.in, &merger.out}) totals.Add(*layer, layer->in() * layer->out());
  }
  return totals;
}

void QwenPatchMerger::Connect(std::span<const MatrixView<const float>> sets, std::span<const Tile>,
                              const PreparedMedia&, const MediaFeatures& features) const {
  PUREKV_CHECK(sets.size() == mergers_.size() && features.deep.size() + 1 == sets.size(), sets.size(), " sets, ",
               features.deep.size(), " deep");
  for (size_t i = 0; i < sets.size(); ++i) Merge(mergers_[i], sets[i], i == 0 ? features.rows : features.deep[i - 1]);
}

void QwenPatchMerger::Merge(const Merger& merger, MatrixView<const float> rows, MatrixView<float> out) const {
  PUREKV_CHECK(rows.rows == out.rows * cell_rows_ && rows.cols == hidden_ && rows.stride == hidden_ &&
                   out.cols == merger.out.out(),
               rows.rows, " x ", rows.cols, " to ", out.rows, " x ", out.cols);
  const int64_t wide = hidden_ * cell_rows_;
  const int64_t block = std::min(out.rows, std::max<int64_t>(1, kBlockRows / cell_rows_));
  const auto norm_cols = static_cast<int64_t>(merger.norm.weight.size());
  AnyMatrix normed(compute_, block * cell_rows_, hidden_);
  AnyMatrix activated(compute_, block, wide);
  for (int64_t first = 0; first < out.rows; first += block) {
    const int64_t count = std::min(block, out.rows - first);
    // The rows of a cell lie one after another: the same memory is one long row per cell.
    AnyMatrixView cells = normed.View();
    cells.rows = count;
    cells.cols = cells.stride = wide;
    AnyMatrixView normed_rows = cells;
    normed_rows.rows = count * wide / norm_cols;
    normed_rows.cols = normed_rows.stride = norm_cols;
    merger.norm.Apply({rows.Row(first * cell_rows_), normed_rows.rows, norm_cols, norm_cols}, kNormEps, normed_rows);
    merger.in.RunActivated(Activation::kGeluErf, cells, activated.View().Rows(0, count));
    merger.out.Run(activated.View().Rows(0, count), out.Rows(first, count));
  }
}

}  // namespace purekv
