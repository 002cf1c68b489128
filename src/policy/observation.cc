#include "policy/observation.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/threads.h"
#include "policy/gaussian.h"

namespace purekv {

std::vector<std::vector<float>> QueryWeights(const Observer& observer, std::span<const TokenRecord> rows,
                                             MatrixView<const float> lse) {
  const auto count = static_cast<int64_t>(rows.size());
  PUREKV_CHECK(lse.rows == count, lse.rows, " rows of LSE for ", count);
  const auto size = static_cast<size_t>(count * lse.cols);
  std::vector<std::vector<float>> weights(static_cast<size_t>(observer.planes()), std::vector<float>(size, 0.0F));
  for (int64_t i = 0; i < count; ++i) {
    const size_t plane = observer.by_query && IsVisual(rows[static_cast<size_t>(i)]) ? 1 : 0;
    for (int64_t h = 0; h < lse.cols; ++h) {
      // sigmoid(LSE - ln n) = 1 / (1 + n e^-LSE)
      const double weight = observer.n > 0 ? 1 / (1 + observer.n * std::exp(-static_cast<double>(lse.Row(i)[h]))) : 1;
      weights[plane][static_cast<size_t>(i * lse.cols + h)] = static_cast<float>(weight);
    }
  }
  return weights;
}

AttentionSums::AttentionSums(int64_t planes, int64_t kv_heads)
    : planes_(planes), kv_heads_(kv_heads), sums_(static_cast<size_t>(planes * kv_heads)) {}

size_t AttentionSums::Index(int64_t plane, int64_t head) const {
  PUREKV_CHECK(plane >= 0 && plane < planes_ && head >= 0 && head < kv_heads_, "plane ", plane, " head ", head);
  return static_cast<size_t>(plane * kv_heads_ + head);
}

void AttentionSums::Announce(std::span<const int32_t> queries, std::span<const int64_t> lengths) {
  PUREKV_CHECK(static_cast<int64_t>(lengths.size()) == kv_heads_ && !queries.empty(), lengths.size(), " heads, ",
               queries.size(), " queries");
  for (const int64_t query : queries) {
    const int64_t last = runs_.empty() ? -2 : runs_.back().last;
    PUREKV_CHECK(query > last, "query ", query, " after ", last);
    if (query == last + 1) {
      runs_.back().last = query;
    } else {
      runs_.push_back({query, query, queries_});
    }
    ++queries_;
  }
  for (int64_t head = 0; head < kv_heads_; ++head) {
    for (int64_t plane = 0; plane < planes_; ++plane) {
      auto& sums = sums_[Index(plane, head)];
      const auto length = static_cast<size_t>(lengths[static_cast<size_t>(head)]);
      PUREKV_CHECK(length >= sums.size(), length, " entries after ", sums.size());
      sums.resize(length, 0.0);
    }
  }
}

std::vector<double*> AttentionSums::Lists(int64_t first, int64_t count) {
  std::vector<double*> lists;
  for (int64_t plane = first; plane < first + count; ++plane) {
    for (int64_t head = 0; head < kv_heads_; ++head) lists.push_back(sums_[Index(plane, head)].data());
  }
  return lists;
}

void AttentionSums::Keep(int64_t head, std::span<const int32_t> entries) {
  for (int64_t plane = 0; plane < planes_; ++plane) {
    auto& sums = sums_[Index(plane, head)];
    PUREKV_CHECK(entries.empty() || static_cast<size_t>(entries.back()) < sums.size(), entries.back(), " of ",
                 sums.size());
    for (size_t i = 0; i < entries.size(); ++i) sums[i] = sums[static_cast<size_t>(entries[i])];
    sums.resize(entries.size());
    sums.shrink_to_fit();
  }
}

void AttentionSums::ClearPlane(int64_t plane) {
  for (int64_t head = 0; head < kv_heads_; ++head) {
    auto& sums = sums_[Index(plane, head)];
    std::fill(sums.begin(), sums.end(), 0.0);
  }
}

void AttentionSums::Clear() {
  for (auto& sums : sums_) sums = {};
  runs_.clear();
  queries_ = 0;
}

void AttentionSums::Restore(int64_t first_query, int64_t last_query, std::span<const std::span<const double>> lists) {
  PUREKV_CHECK(lists.size() == sums_.size() && first_query <= last_query, lists.size(), " lists of ", sums_.size());
  for (size_t i = 0; i < lists.size(); ++i) sums_[i].assign(lists[i].begin(), lists[i].end());
  queries_ = last_query - first_query + 1;
  runs_ = {{first_query, last_query, 0}};
}

int64_t AttentionSums::QueriesThatSee(int64_t token) const {
  // The first run that does not end before the token.
  const auto run = std::partition_point(runs_.begin(), runs_.end(), [&](const Run& one) { return one.last < token; });
  if (run == runs_.end()) return 0;
  return queries_ - run->before - std::max<int64_t>(0, token - run->first);
}

void QueryStats::Add(MatrixView<const float> q) {
  PUREKV_CHECK(q.cols == heads_ * head_dim_, q.cols, " columns for ", heads_, " heads of ", head_dim_);
  if (q.rows == 0) return;
  const auto dim = static_cast<size_t>(head_dim_);
  if (count_ == 0) {
    pivot_.assign(q.Row(0), q.Row(0) + q.cols);
    sums_.assign(pivot_.size(), 0);
    products_.assign(pivot_.size() * dim, 0);
  }
  count_ += q.rows;
  constexpr int64_t kF32Rows = 128;  // summed in f32 before they are added in f64
  const auto padded = static_cast<size_t>((head_dim_ + kGaussianPad - 1) / kGaussianPad * kGaussianPad);
  ParallelFor(heads_, [&](int64_t head) {
    const float* const pivot = pivot_.data() + head * head_dim_;
    double* const sums = sums_.data() + head * head_dim_;
    double* const products = products_.data() + head * head_dim_ * head_dim_;
    std::vector<float> rows(kGaussianRows * padded), tile(padded * padded);
    for (int64_t begin = 0; begin < q.rows; begin += kF32Rows) {
      const int64_t end = std::min(begin + kF32Rows, q.rows);
      std::fill(tile.begin(), tile.end(), 0.0F);
      for (int64_t row = begin; row < end; row += kGaussianRows) {
        std::fill(rows.begin(), rows.end(), 0.0F);
        for (int64_t r = 0; r < std::min(kGaussianRows, end - row); ++r) {
          float* const out = rows.data() + static_cast<size_t>(r) * padded;
          const float* const in = q.Row(row + r) + head * head_dim_;
          for (size_t i = 0; i < dim; ++i) {
            out[i] = in[i] - pivot[i];
            sums[i] += static_cast<double>(out[i]);
          }
        }
        AddOuterProducts(rows.data(), static_cast<int64_t>(padded), tile.data());
      }
      for (size_t i = 0; i < dim; ++i) {
        for (size_t j = i; j < dim; ++j) products[i * dim + j] += static_cast<double>(tile[i * padded + j]);
      }
    }
  });
}

void QueryStats::Add(std::span<const int32_t> tokens, MatrixView<const float> q, int64_t first_token, int64_t every) {
  PUREKV_CHECK(static_cast<int64_t>(tokens.size()) == q.rows && every >= 1, tokens.size(), " tokens, ", q.rows,
               " rows, every ", every);
  const int64_t left_out = std::lower_bound(tokens.begin(), tokens.end(), first_token) - tokens.begin();
  if (every == 1) return Add(q.Rows(left_out, q.rows - left_out));
  std::vector<int64_t> wanted;
  for (int64_t row = left_out; row < q.rows; ++row) {
    if (tokens[static_cast<size_t>(row)] % every == 0) wanted.push_back(row);
  }
  if (wanted.empty()) return;
  Matrix<float> some(static_cast<int64_t>(wanted.size()), q.cols);
  for (size_t i = 0; i < wanted.size(); ++i) {
    std::copy_n(q.Row(wanted[i]), q.cols, some.Row(static_cast<int64_t>(i)));
  }
  Add(some.View());
}

void QueryStats::Clear() {
  *this = QueryStats(heads_, head_dim_);
}

std::vector<double> QueryStats::Mean(int64_t head) const {
  std::vector<double> mean(static_cast<size_t>(head_dim_));
  for (size_t i = 0; i < mean.size(); ++i) {
    const size_t at = static_cast<size_t>(head * head_dim_) + i;
    mean[i] = static_cast<double>(pivot_[at]) + sums_[at] / static_cast<double>(count_);
  }
  return mean;
}

std::vector<double> QueryStats::Covariance(int64_t head) const {
  const auto dim = static_cast<size_t>(head_dim_);
  const auto n = static_cast<double>(count_);
  const double* const sums = sums_.data() + head * head_dim_;
  const double* const products = products_.data() + head * head_dim_ * head_dim_;
  std::vector<double> covariance(dim * dim);
  for (size_t i = 0; i < dim; ++i) {
    for (size_t j = i; j < dim; ++j) {
      const double value = products[i * dim + j] / n - (sums[i] / n) * (sums[j] / n);
      covariance[i * dim + j] = covariance[j * dim + i] = value;
    }
  }
  return covariance;
}

}  // namespace purekv
