// The vision transformer and merger of Qwen2-VL (arXiv 2409.12191) and Qwen2.5-VL (arXiv 2502.13923).
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/matrix.h"
#include "checkpoint/tensor_source.h"
#include "kernels/dense.h"
#include "media/patches.h"
#include "models/qwen_config.h"

namespace purekv {

// The order in which the tower works on merged cells, and the rows that see one another.
struct WindowPlan {
  std::vector<int64_t> unit_order;  // [cells]: raster index of the k-th cell
  std::vector<int64_t> windows;     // cumulative patch rows per window, from 0
  std::vector<int64_t> slices;      // cumulative patch rows per temporal slice, from 0
};

// Windows of window_size pixels (Qwen2.5-VL); without windows the raster order. Windows never cross slices.
WindowPlan PlanWindows(const Grid& grid, const QwenVisionConfig& config);

class QwenVisionTower {
 public:
  static std::vector<TensorSpec> Tensors(const QwenVisionConfig& config);
  QwenVisionTower(const QwenVisionConfig& config, const TensorSource& source, Dtype compute);

  // Embeds whole temporal slices. patches [grid.patches(), patch_values] (normalised, in the processor's order); out
  // [grid.patches() / merge^2, out_hidden], cells in raster order (t, y, x). Attention never crosses slices, so slices
  // may be encoded a few at a time. `keep_going` is asked after every block; false ends the call with false.
  bool Encode(MatrixView<const float> patches, const Grid& grid, MatrixView<float> out,
              const std::function<bool()>& keep_going) const;

  const QwenVisionConfig& config() const { return config_; }
  int64_t packed_bytes() const { return packed_bytes_; }

 private:
  struct Norm {
    std::vector<float> weight, bias;  // bias empty: RMSNorm
  };
  struct Block {
    Norm norm1, norm2;
    Linear qkv, proj;
    GatedLinear gate_up;  // Qwen2.5
    Linear up;            // Qwen2: fc1
    Linear down;          // Qwen2: fc2
  };
  struct Scratch;
  Norm ReadNorm(const TensorSource& source, const std::string& name) const;
  void ApplyNorm(const Norm& norm, MatrixView<const float> x, AnyMatrixView out) const;
  struct RowGroup;
  static std::vector<RowGroup> GroupRows(std::span<const int64_t> segments);
  void RotatedQkv(const Block& block, const RowGroup& group, Scratch& scratch) const;
  void RunBlock(const Block& block, const RowGroup& group, Scratch& scratch) const;
  void Merge(Scratch& scratch, const WindowPlan& plan, MatrixView<float> out) const;

  QwenVisionConfig config_;
  Dtype compute_;
  Linear patch_embed_;
  std::vector<Block> blocks_;
  Norm merger_norm_;
  Linear merger_in_, merger_out_;
  int64_t packed_bytes_ = 0;
};

}  // namespace purekv
