#include "models/anyres_connector.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/threads.h"
#include "models/weights.h"

namespace purekv {
namespace {

// What one place of the larger or smaller axis is made of.
struct Tap {
  int64_t first = 0, second = 0;
  float of_second = 0;
};

// In float32, as torch.
std::vector<Tap> TapsOf(int64_t from, int64_t to) {
  std::vector<Tap> taps;
  const float scale = static_cast<float>(from) / static_cast<float>(to);
  for (int64_t i = 0; i < to; ++i) {
    const float at = std::max(0.0F, scale * (static_cast<float>(i) + 0.5F) - 0.5F);
    const int64_t first = std::min(static_cast<int64_t>(at), from - 1);
    taps.push_back({first, std::min(first + 1, from - 1), std::clamp(at - static_cast<float>(first), 0.0F, 1.0F)});
  }
  return taps;
}

}  // namespace

void ScaleBilinear(const std::function<const float*(int64_t y, int64_t x)>& row, const Size& from, const Size& to,
                   MatrixView<float> out) {
  PUREKV_CHECK(out.rows == to.height * to.width, out.rows, " rows for ", to.height, " x ", to.width);
  const std::vector<Tap> high = TapsOf(from.height, to.height), wide = TapsOf(from.width, to.width);
  ParallelForRanges(out.rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Tap& y = high[static_cast<size_t>(i / to.width)];
      const Tap& x = wide[static_cast<size_t>(i % to.width)];
      const float* const corners[] = {row(y.first, x.first), row(y.first, x.second), row(y.second, x.first),
                                      row(y.second, x.second)};
      float* const made = out.Row(i);
      const float below = y.of_second, right = x.of_second;
      for (int64_t c = 0; c < out.cols; ++c) {
        made[c] = (1 - below) * ((1 - right) * corners[0][c] + right * corners[1][c]) +
                  below * ((1 - right) * corners[2][c] + right * corners[3][c]);
      }
    }
  });
}

Grid AnyresConnectorConfig::cells(const Grid& patches, bool video) const {
  return video ? Grid{patches.t, (patches.h + 1) / 2, (patches.w + 1) / 2} : patches;
}

std::vector<TensorSpec> AnyresConnector::Tensors(const AnyresConnectorConfig& config) {
  std::vector<TensorSpec> specs = MlpConnector::Tensors(config.projector);
  specs.push_back({config.newline, {config.projector.out}});
  return specs;
}

AnyresConnector::AnyresConnector(const AnyresConnectorConfig& config, const TensorSource& source,
                                 const NumberFormats& formats)
    : config_(config), projector_(config.projector, source, formats), newline_(ReadFloats(source, config.newline)) {}

void AnyresConnector::Connect(std::span<const MatrixView<const float>> sets, std::span<const Tile> tiles,
                              const PreparedMedia& medium, const MediaFeatures& features) const {
  const MatrixView<const float> rows = sets.front();
  const MatrixView<float> out = features.rows;
  const int64_t side = config_.side, of_tile = side * side;
  PUREKV_CHECK(rows.rows % of_tile == 0, rows.rows, " rows of tiles of ", of_tile);
  if (medium.mosaic) {
    const Mosaic& mosaic = *medium.mosaic;
    PUREKV_CHECK(static_cast<int64_t>(tiles.size()) == 1 + mosaic.tiles.count() &&
                     rows.rows == of_tile * static_cast<int64_t>(tiles.size()),
                 rows.rows, " rows of ", tiles.size(), " tiles");
    projector_.Run(rows.Rows(0, of_tile), out.Rows(0, of_tile));
    Matrix<float> projected(rows.rows - of_tile, out.cols);
    projector_.Run(rows.Rows(of_tile, projected.rows()), projected.View());
    // The map's middle: patches of the tiles, which lie one after another.
    const int64_t top = (mosaic.tiles.rows * side - mosaic.covered.height) / 2;
    const int64_t left = (mosaic.tiles.columns * side - mosaic.covered.width) / 2;
    const auto row = [&](int64_t y, int64_t x) {
      y += top;
      x += left;
      const int64_t tile = y / side * mosaic.tiles.columns + x / side;
      return projected.Row(tile * of_tile + y % side * side + x % side);
    };
    ScaleBilinear(row, mosaic.covered, mosaic.cells, out.Rows(of_tile, out.rows - of_tile));
    return;
  }
  if (!medium.is_video()) return projector_.Run(rows, out);
  const Grid cells = config_.cells({1, side, side}, true);
  Matrix<float> projected(of_tile, out.cols);
  for (int64_t slice = 0; slice < rows.rows / of_tile; ++slice) {
    projector_.Run(rows.Rows(slice * of_tile, of_tile), projected.View());
    ScaleBilinear([&](int64_t y, int64_t x) { return projected.Row(y * side + x); }, {side, side}, {cells.h, cells.w},
                  out.Rows(slice * cells.patches(), cells.patches()));
  }
}

}  // namespace purekv
