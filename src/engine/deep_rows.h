// What media add to the hidden state behind the decoder's first layers (DeepStack, arXiv 2406.04334): rows that the
// connector makes beside those that stand in the prompt (MediaFeatures::deep).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/matrix.h"

namespace purekv {

class DeepRows {
 public:
  DeepRows() = default;
  // Room for `sets` rows each of these tokens, ascending sequence indices.
  DeepRows(std::vector<int32_t> tokens, int64_t sets, int64_t hidden);

  // Layers behind which something is added: 0 .. layers() - 1.
  int64_t layers() const { return static_cast<int64_t>(sets_.size()); }
  // What is added behind `layer`. [tokens, hidden]
  MatrixView<float> set(int64_t layer) { return sets_[static_cast<size_t>(layer)].View(); }
  MatrixView<const float> set(int64_t layer) const { return sets_[static_cast<size_t>(layer)].View(); }
  // Tokens are counted from `first` on instead of 0.
  void MoveTokens(int32_t first);

  // hidden += what is added behind `layer`. tokens [hidden.rows] ascending; those without rows stay as they are.
  void Add(int64_t layer, std::span<const int32_t> tokens, MatrixView<float> hidden) const;

  // The rows of tokens `sources`, as rows of tokens first, first + 1 ..; a source without rows (-1: no token) has none.
  DeepRows Copied(std::span<const int32_t> sources, int32_t first) const;

 private:
  int64_t Find(int32_t token) const;  // its row; -1: none

  std::vector<int32_t> tokens_;
  std::vector<Matrix<float>> sets_;
};

}  // namespace purekv
