#include "policy/expectation.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "base/threads.h"
#include "policy/gaussian.h"
#include "policy/scores.h"

namespace purekv {
namespace {

// The mean of the rotations at positions first .. first + count - 1: pair f of a head, dimensions (f, f + half), goes
// to (a cos - b sin, b cos + a sin). Angles in f32, as the models compute them.
struct MeanRotation {
  std::vector<double> cos, sin;  // [head_dim / 2], (1, 0) where nothing turns

  MeanRotation(std::span<const float> inv_freq, int64_t head_dim, int64_t first, int64_t count)
      : cos(static_cast<size_t>(head_dim / 2), 1.0), sin(cos.size(), 0.0) {
    for (size_t f = 0; f < inv_freq.size(); ++f) {
      double c = 0, s = 0;
      for (int64_t i = 0; i < count; ++i) {
        const float angle = static_cast<float>(first + i) * inv_freq[f];
        c += std::cos(static_cast<double>(angle));
        s += std::sin(static_cast<double>(angle));
      }
      cos[f] = c / static_cast<double>(count);
      sin[f] = s / static_cast<double>(count);
    }
  }

  // Rotates head_dim numbers that lie `stride` apart, in place.
  void Apply(double* x, size_t stride) const {
    const size_t half = cos.size();
    for (size_t f = 0; f < half; ++f) {
      double& a = x[f * stride];
      double& b = x[(f + half) * stride];
      const double rotated = a * cos[f] - b * sin[f];
      b = b * cos[f] + a * sin[f];
      a = rotated;
    }
  }
};

// z_j = (mean . k_j) / sqrt(d) + k_j^T covariance k_j / (2d): the log of the expected exp(q . k_j / sqrt(d)). In f32,
// a group of keys at a time.
class LogExpectation {
 public:
  LogExpectation(const std::vector<double>& mean, const std::vector<double>& covariance)
      : padded_((mean.size() + kGaussianPad - 1) / kGaussianPad * kGaussianPad),
        linear_(padded_, 0.0F),
        quadratic_(covariance.empty() ? 0 : padded_ * padded_, 0.0F) {
    const size_t dim = mean.size();
    const auto d = static_cast<double>(dim);
    for (size_t i = 0; i < dim; ++i) linear_[i] = static_cast<float>(mean[i] / std::sqrt(d));
    for (size_t i = 0; i < dim && !covariance.empty(); ++i) {  // the upper triangle serves for both
      for (size_t j = i; j < dim; ++j) {
        quadratic_[i * padded_ + j] = static_cast<float>(covariance[i * dim + j] / (i == j ? 2 * d : d));
      }
    }
  }

  // Room for a group of keys, transposed: [padded dim][kGaussianKeys], zeros.
  std::vector<float> Keys() const { return std::vector<float>(padded_ * kGaussianKeys, 0.0F); }
  void Run(const std::vector<float>& keys, float* z) const {
    QuadraticForms(linear_.data(), quadratic_.empty() ? nullptr : quadratic_.data(), static_cast<int64_t>(padded_),
                   keys.data(), z);
  }

 private:
  size_t padded_;
  std::vector<float> linear_, quadratic_;
};

struct Gaussian {
  std::vector<double> mean, covariance;  // [d], [d * d] or empty
};

Gaussian OfHead(const QueryStats& queries, int64_t head, bool covariance) {
  return {queries.Mean(head), covariance ? queries.Covariance(head) : std::vector<double>()};
}

// A query head of one of the layers that attend.
struct HeadOf {
  const QueryStats* queries;
  int64_t head;
};

// The Gaussian with the mean and covariance of what the heads ask together.
Gaussian OfGroup(std::span<const HeadOf> heads, bool covariance) {
  const auto dim = static_cast<size_t>(heads.front().queries->head_dim());
  Gaussian pooled{std::vector<double>(dim, 0.0), std::vector<double>(covariance ? dim * dim : 0, 0.0)};
  const double share = 1 / static_cast<double>(heads.size());
  for (const auto& [queries, head] : heads) {
    const Gaussian one = OfHead(*queries, head, covariance);
    for (size_t i = 0; i < dim; ++i) pooled.mean[i] += share * one.mean[i];
    for (size_t i = 0; i < dim && covariance; ++i) {
      for (size_t j = 0; j < dim; ++j) {
        pooled.covariance[i * dim + j] += share * (one.covariance[i * dim + j] + one.mean[i] * one.mean[j]);
      }
    }
  }
  for (size_t i = 0; i < dim && covariance; ++i) {
    for (size_t j = 0; j < dim; ++j) pooled.covariance[i * dim + j] -= pooled.mean[i] * pooled.mean[j];
  }
  return pooled;
}

// z of every entry from `begin` on.
std::vector<float> Logits(const KvHeadView& kv, Gaussian queries, const MeanRotation& rotation, int64_t begin) {
  const size_t dim = queries.mean.size();
  rotation.Apply(queries.mean.data(), 1);
  if (!queries.covariance.empty()) {  // R C R^T: columns, then rows
    for (size_t i = 0; i < dim; ++i) rotation.Apply(queries.covariance.data() + i, dim);
    for (size_t i = 0; i < dim; ++i) rotation.Apply(queries.covariance.data() + i * dim, 1);
  }
  const LogExpectation z(queries.mean, queries.covariance);
  std::vector<float> logits(static_cast<size_t>(kv.length - begin));
  const int64_t groups = (kv.length - begin + kGaussianKeys - 1) / kGaussianKeys;
  ParallelForRanges(groups, 32, [&](int64_t from, int64_t to) {
    std::vector<double> key(dim);
    std::vector<float> keys = z.Keys();
    std::array<float, kGaussianKeys> out;
    for (int64_t group = from; group < to; ++group) {
      const int64_t first = begin + group * kGaussianKeys;
      const int64_t count = std::min(kGaussianKeys, kv.length - first);
      for (int64_t k = 0; k < count; ++k) {
        KeyRow(kv, first + k, static_cast<int64_t>(dim), key.data());
        for (size_t i = 0; i < dim; ++i) {
          keys[i * kGaussianKeys + static_cast<size_t>(k)] = static_cast<float>(key[i]);
        }
      }
      z.Run(keys, out.data());
      std::copy(out.begin(), out.begin() + count, logits.begin() + static_cast<std::ptrdiff_t>(first - begin));
    }
  });
  return logits;
}

// Adds softmax(logits) to the last logits.size() sums.
void AddSoftmax(const std::vector<float>& logits, std::vector<double>& sums) {
  if (logits.empty()) return;
  const auto most = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
  std::vector<double> weights;
  double total = 0;
  for (const float z : logits) {
    weights.push_back(std::exp(static_cast<double>(z) - most));
    total += weights.back();
  }
  const size_t first = sums.size() - logits.size();
  for (size_t j = 0; j < weights.size(); ++j) sums[first + j] += weights[j] / total;
}

}  // namespace

Scores ExpectedProbabilities(const LayerEntries& entries, std::span<const QueryStats* const> queries,
                             const Expectation& how) {
  PUREKV_CHECK(!queries.empty(), "no queries");
  int64_t last = 0;
  for (const Position& p : entries.positions) last = std::max<int64_t>({last, p.t, p.h, p.w});
  const MeanRotation rotation(entries.rope->inv_freq, entries.head_dim, last + 1, how.horizon);
  Scores expected;
  for (int64_t g = 0; g < entries.kv_heads(); ++g) {
    const KvHeadView& kv = entries.kv[static_cast<size_t>(g)];
    std::vector<double>& sums = expected.emplace_back(static_cast<size_t>(kv.length), 0.0);
    const int64_t begin = std::min(how.first, kv.length);
    if (queries.front()->count() == 0) {
      std::fill(sums.begin() + static_cast<std::ptrdiff_t>(begin), sums.end(),
                1 / static_cast<double>(kv.length - begin));
      continue;
    }
    std::vector<HeadOf> heads;
    for (const QueryStats* const of_layer : queries) {
      const int64_t group = of_layer->heads() / entries.kv_heads();
      for (int64_t h = g * group; h < (g + 1) * group; ++h) heads.push_back({of_layer, h});
    }
    if (how.pooled) {
      AddSoftmax(Logits(kv, OfGroup(heads, how.covariance), rotation, begin), sums);
      continue;
    }
    for (const auto& [of_layer, head] : heads) {
      AddSoftmax(Logits(kv, OfHead(*of_layer, head, how.covariance), rotation, begin), sums);
    }
    for (double& sum : sums) sum /= static_cast<double>(heads.size());
  }
  return expected;
}

}  // namespace purekv
