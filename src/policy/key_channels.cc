#include "policy/key_channels.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "policy/scores.h"

namespace purekv {

void LastSquares::Add(MatrixView<const float> q, int64_t kv_heads, int64_t head_dim, int64_t window) {
  const int64_t group = q.cols / (kv_heads * head_dim);
  for (int64_t row = std::max<int64_t>(0, q.rows - window); row < q.rows; ++row) {
    std::vector<double>& squares = rows_.emplace_back(static_cast<size_t>(kv_heads * head_dim));
    for (int64_t h = 0; h < kv_heads * group; ++h) {
      for (int64_t c = 0; c < head_dim; ++c) {
        const auto x = static_cast<double>(q.Row(row)[h * head_dim + c]);
        squares[static_cast<size_t>(h / group * head_dim + c)] += x * x / static_cast<double>(group);
      }
    }
  }
  const auto more = static_cast<int64_t>(rows_.size()) - window;
  if (more > 0) rows_.erase(rows_.begin(), rows_.begin() + more);
}

std::vector<double> LastSquares::Mean(int64_t head, int64_t head_dim) const {
  std::vector<double> mean(static_cast<size_t>(head_dim), 0.0);
  for (const std::vector<double>& row : rows_) {
    for (int64_t c = 0; c < head_dim; ++c) {
      mean[static_cast<size_t>(c)] += row[static_cast<size_t>(head * head_dim + c)] / static_cast<double>(rows_.size());
    }
  }
  return mean;
}

std::vector<int16_t> ChooseChannels(std::span<const double> squares, const KvHeadView& kv, int64_t count, bool pairs) {
  const auto dim = static_cast<int64_t>(squares.size());
  PUREKV_CHECK(count >= 1 && count <= dim && (!pairs || (count % 2 == 0 && dim % 2 == 0)), count, " of ", dim);
  std::vector<double> sums(squares.size(), 0.0), key(squares.size());
  for (int64_t entry = 0; entry < kv.length; ++entry) {
    KeyRow(kv, entry, dim, key.data());
    for (size_t c = 0; c < key.size(); ++c) sums[c] += key[c] * key[c];
  }
  for (size_t c = 0; c < sums.size(); ++c) {
    sums[c] *= squares[c] / static_cast<double>(std::max<int64_t>(1, kv.length));
  }
  const int64_t half = dim / 2;
  std::vector<int64_t> order(static_cast<size_t>(pairs ? half : dim));
  std::iota(order.begin(), order.end(), 0);
  const auto worth = [&](int64_t c) {
    const double own = sums[static_cast<size_t>(c)];
    return pairs ? own + sums[static_cast<size_t>(c + half)] : own;
  };
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return worth(a) > worth(b); });
  std::vector<int16_t> channels;
  for (int64_t i = 0; i < (pairs ? count / 2 : count); ++i) {
    const int64_t c = order[static_cast<size_t>(i)];
    channels.push_back(static_cast<int16_t>(c));
    if (pairs) channels.push_back(static_cast<int16_t>(c + half));
  }
  std::sort(channels.begin(), channels.end());
  return channels;
}

}  // namespace purekv
