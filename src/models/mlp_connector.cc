#include "models/mlp_connector.h"

#include <algorithm>
#include <utility>

#include "base/any_matrix.h"
#include "base/error.h"
#include "models/weights.h"

namespace purekv {
namespace {

constexpr int64_t kBlockRows = 1024;  // that pass through together

Linear ReadLayer(const TensorSource& source, const std::string& name, bool bias, const NumberFormats& formats) {
  const std::string weight = name + ".weight";
  const std::string bias_name = name + ".bias";
  return ReadLinear(source, {&weight, 1}, std::span(&bias_name, bias ? 1 : 0), formats, WeightRole::kVision);
}

}  // namespace

std::vector<TensorSpec> MlpConnector::Tensors(const MlpConnectorConfig& config) {
  std::vector<TensorSpec> specs;
  const int64_t wide = config.in * config.cell_rows;
  if (!config.norm.empty()) Norm::AddSpecs(config.norm, wide, true, &specs);
  for (const auto& [name, in] : {std::pair{config.first, wide}, std::pair{config.second, config.out}}) {
    specs.push_back({name + ".weight", {config.out, in}});
    if (config.bias) specs.push_back({name + ".bias", {config.out}});
  }
  return specs;
}

MlpConnector::MlpConnector(const MlpConnectorConfig& config, const TensorSource& source, const NumberFormats& formats)
    : compute_(formats.activations),
      cell_rows_(config.cell_rows),
      norm_eps_(config.norm_eps),
      norm_(config.norm.empty() ? Norm() : Norm::Read(source, config.norm, true)),
      in_(ReadLayer(source, config.first, config.bias, formats)),
      out_(ReadLayer(source, config.second, config.bias, formats)) {}

StorageTotals MlpConnector::storage() const {
  StorageTotals totals;
  for (const Linear* layer : {&in_, &out_}) totals.Add(*layer, layer->in() * layer->out());
  return totals;
}

void MlpConnector::Connect(std::span<const MatrixView<const float>> sets, std::span<const Tile>, const PreparedMedia&,
                           const MediaFeatures& features) const {
  Run(sets.front(), features.rows);
}

void MlpConnector::Run(MatrixView<const float> patches, MatrixView<float> out) const {
  PUREKV_CHECK(patches.rows == out.rows * cell_rows_ && patches.cols * cell_rows_ == in_.in() && out.cols == out_.out(),
               patches.rows, " x ", patches.cols, " to ", out.rows, " x ", out.cols);
  PUREKV_CHECK(cell_rows_ == 1 || patches.stride == patches.cols, patches.stride, " a row of ", patches.cols);
  const MatrixView<const float> rows{patches.data, out.rows, in_.in(), patches.stride * cell_rows_};
  const int64_t block = std::min(out.rows, kBlockRows);
  AnyMatrix converted(compute_, block, rows.cols);
  AnyMatrix activated(compute_, block, in_.out());
  for (int64_t first = 0; first < out.rows; first += block) {
    const int64_t count = std::min(block, out.rows - first);
    const AnyMatrixView taken = converted.View().Rows(0, count);
    if (norm_.weight.empty()) {
      Convert(rows.Rows(first, count), taken);
    } else {
      norm_.Apply(rows.Rows(first, count), norm_eps_, taken);
    }
    in_.RunActivated(Activation::kGeluErf, taken, activated.View().Rows(0, count));
    out_.Run(activated.View().Rows(0, count), out.Rows(first, count));
  }
}

}  // namespace purekv
