// The vision transformer of Qwen2-VL (arXiv 2409.12191), Qwen2.5-VL (arXiv 2502.13923) and Qwen3-VL (arXiv 2511.21631).
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/matrix.h"
#include "checkpoint/tensor_source.h"
#include "kernels/dense.h"
#include "media/patches.h"
#include "models/family.h"
#include "models/norm.h"
#include "models/qwen_config.h"

namespace purekv {

// The order in which the tower works on cells (patches that one token merges), and the rows that see one another.
struct WindowPlan {
  std::vector<int64_t> unit_order;  // [cells]: raster index of the k-th cell
  std::vector<int64_t> windows;     // cumulative patch rows per window, from 0
  std::vector<int64_t> slices;      // cumulative patch rows per temporal slice, from 0
};

// Windows of window_size pixels (Qwen2.5-VL); without windows the raster order. Windows never cross slices.
WindowPlan PlanWindows(const Grid& grid, const QwenVisionConfig& config);

// What a patch takes of a square table of learned positions that is stretched over the grid: bilinear, the table's
// corners at the grid's (Qwen3-VL). A weight may be 0.
struct PositionTaps {
  std::array<int64_t, 4> rows{};  // of the table
  std::array<float, 4> weights{};
};

// Of one slice, patch by patch in the patches' order. [grid.h * grid.w]
std::vector<PositionTaps> InterpolatePositions(const Grid& grid, int64_t side, int64_t merge);

class QwenVisionTower final : public VisionTower {
 public:
  static std::vector<TensorSpec> Tensors(const QwenVisionConfig& config);
  QwenVisionTower(const QwenVisionConfig& config, const TensorSource& source, const NumberFormats& formats);

  int64_t hidden() const override { return config_.hidden; }
  int64_t blocks() const override { return config_.depth; }
  int64_t sets() const override { return 1 + static_cast<int64_t>(config_.taps.size()); }
  StorageTotals storage() const override { return storage_; }
  std::optional<std::vector<Matrix<float>>> Encode(MatrixView<const float> patches, const Grid& grid,
                                                   const std::function<bool()>& keep_going) const override;

 private:
  struct Block {
    Norm norm1, norm2;
    Linear qkv, proj;
    GatedLinear gate_up;  // gated
    Linear up;            // not
    Linear down;
  };
  struct Scratch;
  struct RowGroup;
  static std::vector<RowGroup> GroupRows(std::span<const int64_t> segments);
  // Adds learned positions to the embedded patches, where there is a table. x [grid.patches(), hidden]
  void AddPositions(const Grid& grid, MatrixView<float> x) const;
  void RotatedQkv(const Block& block, const RowGroup& group, Scratch& scratch) const;
  void RunBlock(const Block& block, const RowGroup& group, Scratch& scratch) const;

  QwenVisionConfig config_;
  Dtype compute_;
  Linear patch_embed_;
  std::vector<float> positions_;  // [position_side^2, hidden]; empty: none
  std::vector<Block> blocks_;
  StorageTotals storage_;
};

}  // namespace purekv
