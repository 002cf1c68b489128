// LLaVA-OneVision's connector (arXiv 2408.03326, section 3): two layers for each patch; then the tiles of an image as
// one map, scaled down where it is too large, and the patches of a frame as a smaller grid; and the row that stands for
// a newline.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "models/family.h"
#include "models/mlp_connector.h"

namespace purekv {

struct AnyresConnectorConfig {
  MlpConnectorConfig projector;
  std::string newline;  // its tensor
  int64_t side = 0;     // patches of a tile's or a frame's

  // Of a frame's patches: half as many a side, rounded up. An image keeps its own.
  Grid cells(const Grid& patches, bool video) const;
};

class AnyresConnector final : public Connector {
 public:
  static std::vector<TensorSpec> Tensors(const AnyresConnectorConfig& config);
  AnyresConnector(const AnyresConnectorConfig& config, const TensorSource& source, const NumberFormats& formats);

  StorageTotals storage() const override { return projector_.storage(); }
  bool MixesSlices(const PreparedMedia& medium) const override { return medium.mosaic.has_value(); }
  std::span<const float> newline() const override { return newline_; }
  // Of an image with a map: its first tile, then the map's rows. Else slice after slice.
  void Connect(std::span<const MatrixView<const float>> sets, std::span<const Tile> tiles, const PreparedMedia& medium,
               const MediaFeatures& features) const override;

 private:
  AnyresConnectorConfig config_;
  MlpConnector projector_;
  std::vector<float> newline_;  // [decoder hidden]
};

// A map of rows scaled to another size as torch.nn.functional.interpolate(mode "bilinear", align_corners false, no
// antialiasing) does it. row(y, x): of the map, `from`.height x `from`.width, [columns]. out [to.height * to.width,
// columns].
void ScaleBilinear(const std::function<const float*(int64_t y, int64_t x)>& row, const Size& from, const Size& to,
                   MatrixView<float> out);

}  // namespace purekv
