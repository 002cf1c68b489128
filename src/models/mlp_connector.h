// A connector of two layers with a GELU between them: each patch for itself (LLaVA-1.5, arXiv 2310.03744, section 3.2),
// or the patches of a cell as one long row, with a norm before (InternVL, arXiv 2404.16821, section 3.1).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/dense.h"
#include "models/family.h"
#include "models/norm.h"

namespace purekv {

struct MlpConnectorConfig {
  int64_t in = 0, out = 0;    // of the tower, of the decoder; the layer between is as wide as `out`
  std::string first, second;  // names of the layers without ".weight"
  bool bias = true;
  int64_t cell_rows = 1;  // of the tower, which lie one after another and become one
  std::string norm{};     // LayerNorm of a cell's row; "": none
  float norm_eps = 1e-5F;
};

class MlpConnector final : public Connector {
 public:
  static std::vector<TensorSpec> Tensors(const MlpConnectorConfig& config);
  MlpConnector(const MlpConnectorConfig& config, const TensorSource& source, const NumberFormats& formats);

  StorageTotals storage() const override;
  bool MixesSlices(const PreparedMedia&) const override { return false; }
  // A row for a cell.
  void Connect(std::span<const MatrixView<const float>> sets, std::span<const Tile> tiles, const PreparedMedia& medium,
               const MediaFeatures& features) const override;
  // The same for connectors that have these layers within. patches [cells * cell_rows, in]; out [cells, out].
  void Run(MatrixView<const float> patches, MatrixView<float> out) const;

 private:
  Dtype compute_;
  int64_t cell_rows_;
  float norm_eps_;
  Norm norm_;  // empty: none
  Linear in_, out_;
};

}  // namespace purekv
