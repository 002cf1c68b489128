// The spatial-temporal convolution connector of VideoLLaMA2 (arXiv 2406.07476, section 2.1): a stage of RegNet blocks
// (arXiv 2003.13678) on each frame, a convolution that halves time, height and width, a second stage, and two layers.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/any_matrix.h"
#include "kernels/dense.h"
#include "models/family.h"
#include "models/mlp_connector.h"
#include "models/norm.h"

namespace purekv {

struct StcConfig {
  int64_t in = 0, out = 0;  // of the tower, of the decoder
  bool padded = false;      // a row of zeros before and behind each axis of the halving convolution
  std::string prefix;       // of its tensors: "model.mm_projector."

  // What becomes of slices, rows and columns; zeros where an axis is too short.
  Grid cells(const Grid& patches) const;
};

class StcConnector final : public Connector {
 public:
  static std::vector<TensorSpec> Tensors(const StcConfig& config);
  StcConnector(const StcConfig& config, const TensorSource& source, const NumberFormats& formats);

  StorageTotals storage() const override { return storage_; }
  bool MixesSlices(const PreparedMedia&) const override { return true; }
  // Tokens in raster order (t, y, x) of StcConfig::cells, tile after tile.
  void Connect(std::span<const MatrixView<const float>> sets, std::span<const Tile> tiles, const PreparedMedia& medium,
               const MediaFeatures& features) const override;

 private:
  struct Block {
    Linear conv1, conv3, squeeze, excite;
    std::optional<Linear> shortcut;  // where the widths differ
    std::vector<float> depthwise;    // [9, out]: taps, row by row
    Norm norm1, norm2, norm3, shortcut_norm;
  };
  struct Scratch;
  static constexpr int64_t kDepth = 4;  // blocks of a stage

  Block ReadBlock(const TensorSource& source, const std::string& name, int64_t in, const NumberFormats& formats);
  // x: rows of `frames` pictures of height x width, replaced by the block's output.
  void RunBlock(const Block& block, int64_t frames, int64_t height, int64_t width, Matrix<float>* x,
                Scratch& scratch) const;
  // Frames of `tile` through the first stage, as the halving convolution reads them: [frames * h * w, out].
  AnyMatrix FirstStage(MatrixView<const float> rows, int64_t frames, const Grid& grid, Scratch& scratch) const;
  void ConnectTile(MatrixView<const float> rows, const Tile& tile, MatrixView<float> out, Scratch& scratch) const;

  StcConfig config_;
  Dtype compute_;
  std::vector<Block> first_, second_;
  Linear halve_;
  MlpConnector readout_;
  StorageTotals storage_;
};

}  // namespace purekv
