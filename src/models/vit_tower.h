// A plain vision transformer: patches and learned positions, LayerNorm before attention over one picture and before a
// feed-forward of two layers (CLIP, arXiv 2103.00020; SigLIP, arXiv 2303.15343; InternViT, arXiv 2312.14238).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/any_matrix.h"
#include "base/matrix.h"
#include "checkpoint/tensor_source.h"
#include "kernels/dense.h"
#include "models/family.h"
#include "models/norm.h"
#include "models/vit_config.h"

namespace purekv {

class VitTower final : public VisionTower {
 public:
  // Those that are read: of the layers the first config.run alone.
  static std::vector<TensorSpec> Tensors(const VitConfig& config);
  // Beginnings of the names that published files have beside: the layers behind, the norm behind the last, a head.
  static std::vector<std::string> Unread(const VitConfig& config);
  VitTower(const VitConfig& config, const TensorSource& source, const NumberFormats& formats);

  int64_t hidden() const override { return config_.hidden; }
  int64_t blocks() const override { return config_.run; }
  StorageTotals storage() const override { return storage_; }
  // Slices of config.side() x config.side() patches, a picture each. The class token is left out of what it returns.
  std::optional<std::vector<Matrix<float>>> Encode(MatrixView<const float> patches, const Grid& grid,
                                                   const std::function<bool()>& keep_going) const override;

 private:
  struct Block {
    Norm norm1, norm2;
    Norm q_norm, k_norm;                // of all heads together; empty: none
    std::vector<float> scale1, scale2;  // [hidden], of what each half adds; empty: none
    Linear qkv, proj, up, down;
  };
  struct Scratch;
  // Rows of a picture in the tower.
  int64_t picture_rows() const { return config_.patches() + (config_.class_token ? 1 : 0); }
  void Embed(MatrixView<const float> patches, int64_t pictures, MatrixView<float> x) const;
  void RunBlock(const Block& block, MatrixView<float> x, Scratch& scratch) const;
  // Adds what a half of a layer makes of `in` to x, channel by channel times `scale`.
  void Add(const Linear& last, AnyMatrixView in, const std::vector<float>& scale, MatrixView<float> x,
           Scratch& scratch) const;

  VitConfig config_;
  Dtype compute_;
  Linear patch_embed_;
  std::vector<float> class_embedding_;
  Matrix<float> positions_;  // [picture_rows, hidden]
  Norm pre_norm_;
  std::vector<Block> blocks_;
  StorageTotals storage_;
};

}  // namespace purekv
