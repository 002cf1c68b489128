// The trained predictor of AttentionPredictor (arXiv 2502.04077, section 3): a small convolution over what the last
// rows gave each page. Conv 1 -> 16, 3x3, ReLU, conv 16 -> 32, 3x3, ReLU, both padded by one zero, the mean over the
// rows, and a product 32 -> 1: a score per page.
#pragma once

#include <cstdint>
#include <vector>

namespace purekv {

// Its numbers, as its file has them: 4,833 in all.
struct PageConvolutionWeights {
  static constexpr int64_t kRows = 64;  // that it looks at, the newest last
  static constexpr int64_t kFirst = 16, kSecond = 32, kTaps = 9;

  std::vector<float> conv1, bias1;  // [16, 1, 3, 3], [16]
  std::vector<float> conv2, bias2;  // [32, 16, 3, 3], [32]
  std::vector<float> conv3;         // [1, 32, 1]
  float bias3 = 0;
};

// The last product and the mean over rows change places: a page's score is bias3 + the mean over rows of what each
// (row, page) contributes, conv3 times ReLU(conv2(ReLU(conv1))). Such a contribution depends on the rows and pages that
// are at most two away and on nothing else, so that it stays, bit for bit, when rows farther away come and go.
class PageConvolution {
 public:
  static constexpr int64_t kReach = 2;         // rows, and pages, on either side
  static constexpr int64_t kTileRows = 8;      // contributions at a time, at most
  static constexpr int64_t kTileColumns = 64;  // likewise
  static constexpr int64_t kInputStride = 96;  // of Tile::in

  explicit PageConvolution(PageConvolutionWeights weights);

  // Contributions of rows row .. row + rows - 1 of 64 and columns column .. column + columns - 1 of `width`.
  struct Tile {
    int64_t row = 0, rows = 0;
    int64_t column = 0, columns = 0;
    int64_t width = 0;
    // [rows + 4][kInputStride] the map's rows and columns from row - 2 and column - 2 on; what lies outside the map,
    // and what is left of a row, is zero.
    const float* in = nullptr;
    float* out = nullptr;  // [rows][kTileColumns]
  };
  void Run(const Tile& tile) const;

  float bias() const { return weights_.bias3; }
  const PageConvolutionWeights& weights() const { return weights_; }

 private:
  PageConvolutionWeights weights_;
  std::vector<float> packed_;  // conv2 as [32 / 4][16][9][4]
};

}  // namespace purekv
