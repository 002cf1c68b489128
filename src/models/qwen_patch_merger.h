// The patch mergers of Qwen2-VL, Qwen2.5-VL and Qwen3-VL: the patches of a cell as one long row, through two layers.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/dense.h"
#include "models/family.h"
#include "models/norm.h"
#include "models/qwen_config.h"

namespace purekv {

// One merger per set of the tower's rows: the first makes what stands in the prompt, the others, of the blocks that are
// tapped, what is added behind the decoder's first layers (DeepStack, arXiv 2406.04334; Qwen3-VL, arXiv 2511.21631).
class QwenPatchMerger final : public Connector {
 public:
  static std::vector<TensorSpec> Tensors(const QwenVisionConfig& config);
  QwenPatchMerger(const QwenVisionConfig& config, const TensorSource& source, const NumberFormats& formats);

  StorageTotals storage() const override;
  bool MixesSlices(const PreparedMedia&) const override { return false; }
  int64_t deep_sets() const override { return static_cast<int64_t>(mergers_.size()) - 1; }
  // Cells in raster order (t, y, x).
  void Connect(std::span<const MatrixView<const float>> sets, std::span<const Tile> tiles, const PreparedMedia& medium,
               const MediaFeatures& features) const override;

 private:
  struct Merger {
    Norm norm;  // of a patch's row or, as wide as its weight, of a cell's
    Linear in, out;
  };
  void Merge(const Merger& merger, MatrixView<const float> rows, MatrixView<float> out) const;

  int64_t hidden_;
  int64_t cell_rows_;
  Dtype compute_;
  std::vector<Merger> mergers_;
};

}  // namespace purekv
