// The patch merger of Qwen2-VL and Qwen2.5-VL: the patches of a cell as one long row, through two layers.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/dense.h"
#include "models/family.h"
#include "models/norm.h"
#include "models/qwen_config.h"

namespace purekv {

class QwenPatchMerger final : public Connector {
 public:
  static std::vector<TensorSpec> Tensors(const QwenVisionConfig& config);
  QwenPatchMerger(const QwenVisionConfig& config, const TensorSource& source, const NumberFormats& formats);

  StorageTotals storage() const override;
  bool MixesSlices() const override { return false; }
  // Cells in raster order (t, y, x).
  void Connect(std::span<const MatrixView<const float>> sets, std::span<const Tile> tiles,
               const MediaFeatures& features) const override;

 private:
  int64_t hidden_;
  int64_t cell_rows_;
  Dtype compute_;
  Norm norm_;
  Linear in_, out_;
};

}  // namespace purekv
