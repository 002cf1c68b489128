// A connector of two layers with a GELU between them, each patch for itself (LLaVA-1.5, arXiv 2310.03744, section 3.2).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/dense.h"
#include "models/family.h"

namespace purekv {

struct MlpConnectorConfig {
  int64_t in = 0, out = 0;    // of the tower, of the decoder; the layer between is as wide as `out`
  std::string first, second;  // names of the layers without ".weight"
  bool bias = true;
};

class MlpConnector final : public Connector {
 public:
  static std::vector<TensorSpec> Tensors(const MlpConnectorConfig& config);
  MlpConnector(const MlpConnectorConfig& config, const TensorSource& source, const NumberFormats& formats);

  StorageTotals storage() const override;
  bool MixesSlices() const override { return false; }
  // A row for a row.
  void Connect(std::span<const MatrixView<const float>> sets, std::span<const Tile> tiles,
               const MediaFeatures& features) const override;

 private:
  Dtype compute_;
  Linear in_, out_;
};

}  // namespace purekv
