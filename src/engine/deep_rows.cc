#include "engine/deep_rows.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/threads.h"

namespace purekv {

DeepRows::DeepRows(std::vector<int32_t> tokens, int64_t sets, int64_t hidden) : tokens_(std::move(tokens)) {
  for (int64_t i = 0; i < sets; ++i) sets_.emplace_back(static_cast<int64_t>(tokens_.size()), hidden);
}

void DeepRows::MoveTokens(int32_t first) {
  for (int32_t& token : tokens_) token += first;
}

int64_t DeepRows::Find(int32_t token) const {
  const auto found = std::lower_bound(tokens_.begin(), tokens_.end(), token);
  return found == tokens_.end() || *found != token ? -1 : found - tokens_.begin();
}

void DeepRows::Add(int64_t layer, std::span<const int32_t> tokens, MatrixView<float> hidden) const {
  if (layer >= layers()) return;
  const MatrixView<const float> rows = set(layer);
  PUREKV_CHECK(static_cast<int64_t>(tokens.size()) == hidden.rows && rows.cols == hidden.cols, tokens.size(), " of ",
               hidden.rows);
  ParallelForRanges(hidden.rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t from = Find(tokens[static_cast<size_t>(row)]);
      if (from < 0) continue;
      const float* const added = rows.Row(from);
      float* const to = hidden.Row(row);
      for (int64_t i = 0; i < hidden.cols; ++i) to[i] += added[i];
    }
  });
}

DeepRows DeepRows::Copied(std::span<const int32_t> sources, int32_t first) const {
  std::vector<int32_t> tokens;
  std::vector<int64_t> rows;
  for (size_t i = 0; i < sources.size(); ++i) {
    const int64_t row = Find(sources[i]);
    if (row < 0) continue;
    tokens.push_back(first + static_cast<int32_t>(i));
    rows.push_back(row);
  }
  DeepRows copy(std::move(tokens), layers(), sets_.empty() ? 0 : sets_.front().cols());
  for (size_t set = 0; set < sets_.size(); ++set) {
    for (size_t i = 0; i < rows.size(); ++i) {
      std::memcpy(copy.sets_[set].Row(static_cast<int64_t>(i)), sets_[set].View().Row(rows[i]),
                  static_cast<size_t>(sets_[set].cols()) * sizeof(float));
    }
  }
  return copy;
}

}  // namespace purekv
