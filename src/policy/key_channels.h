// Which channels of their keys heads hold (ThinK, arXiv 2407.21018).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/matrix.h"
#include "kernels/kv_view.h"

namespace purekv {

// Squares of a layer's last rotated queries, the mean over the query heads of each group.
class LastSquares {
 public:
  // q: [rows, heads * head_dim], behind the rows before. Of all rows the last `window` count.
  void Add(MatrixView<const float> q, int64_t kv_heads, int64_t head_dim, int64_t window);
  bool empty() const { return rows_.empty(); }
  // The mean over the rows. [head_dim]
  std::vector<double> Mean(int64_t head, int64_t head_dim) const;

 private:
  std::vector<std::vector<double>> rows_;  // [kv_heads * head_dim]
};

// The `count` channels, ascending, of the highest product of `squares` [head_dim] and the mean square of the head's
// keys, plain ones; ties: the lower channel. pairs: rotated pairs (c, c + head_dim / 2) by the sum of their two,
// `count` even.
std::vector<int16_t> ChooseChannels(std::span<const double> squares, const KvHeadView& kv, int64_t count, bool pairs);

}  // namespace purekv
