// expected-attention: Expected Attention (arXiv 2510.00636) keeps what queries to come would attend to: queries as the
// part's were before rotation, a Gaussian, at the mean rotation of the next `horizon` positions, weighted by value
// norm. `epsilon` lets keys that nobody is expected to see compete by their values: with 0 the softmax is nearly
// one-hot in many layers, and the rest is ranked by the tail of a quadratic form.
#include <algorithm>
#include <array>
#include <cmath>

#include "base/threads.h"
#include "policy/gaussian.h"
#include "policy/policies.h"
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

class ExpectedAttention : public SinksAndRecentPolicy {
 public:
  explicit ExpectedAttention(const OptionValues& values)
      : SinksAndRecentPolicy(values),
        horizon_(values.Integer("horizon")),
        epsilon_(values.Real("epsilon")),
        covariance_(values.Is("covariance", "1")) {}

  Observer Observes(int64_t, int64_t base) const override {
    return {.kind = Observer::Kind::kQueries, .first_token = Protects(base).sinks};
  }

  std::vector<Scores> Score(const LayerEntries& entries, const Observation& observed) const override {
    int64_t last = 0;
    for (const Position& p : entries.positions) last = std::max<int64_t>({last, p.t, p.h, p.w});
    const MeanRotation rotation(entries.inv_freq, entries.head_dim, last + 1, horizon_);
    Scores scores = ValueNorms(entries);
    Scores expected(scores.size());
    for (size_t head = 0; head < scores.size(); ++head) expected[head].assign(scores[head].size(), 0.0);
    for (int64_t h = 0; h < entries.heads; ++h) {
      const auto head = static_cast<size_t>(h / entries.group());
      AddSoftmax(Logits(entries, *observed.queries, rotation, h), expected[head]);
    }
    for (size_t head = 0; head < scores.size(); ++head) {
      for (size_t j = 0; j < scores[head].size(); ++j) {
        scores[head][j] *= expected[head][j] / static_cast<double>(entries.group()) + epsilon_;
      }
    }
    return {scores};
  }

 private:
  // z of every entry behind the sinks for query head h.
  std::vector<float> Logits(const LayerEntries& entries, const QueryStats& queries, const MeanRotation& rotation,
                            int64_t h) const {
    const auto dim = static_cast<size_t>(entries.head_dim);
    std::vector<double> mean = queries.Mean(h), covariance;
    rotation.Apply(mean.data(), 1);
    if (covariance_) {  // R C R^T: columns, then rows
      covariance = queries.Covariance(h);
      for (size_t i = 0; i < dim; ++i) rotation.Apply(covariance.data() + i, dim);
      for (size_t i = 0; i < dim; ++i) rotation.Apply(covariance.data() + i * dim, 1);
    }
    const LogExpectation z(mean, covariance);
    const KvHeadView& kv = entries.kv[static_cast<size_t>(h / entries.group())];
    const int64_t begin = std::min(Protects(entries.base).sinks, kv.length);
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
          KeyRow(kv, first + k, entries.head_dim, key.data());
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
  static void AddSoftmax(const std::vector<float>& logits, std::vector<double>& sums) {
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

  int64_t horizon_;
  double epsilon_;
  bool covariance_;
};

}  // namespace

PolicyInfo ExpectedAttentionPolicy() {
  PolicyInfo info;
  info.name = "expected-attention";
  info.summary = "keeps what later queries are expected to attend to, by query statistics and value norm";
  info.paper = "Expected Attention, arXiv 2510.00636";
  info.options = SinksAndRecentPolicy::Options();
  info.options.insert(info.options.end(),
                      {IntegerOption("horizon", 512, 1, 100'000), RealOption("epsilon", "0.01", 0, 1'000'000),
                       WordOption("covariance", {"1", "0"})});
  info.ada = true;
  info.make = [](const OptionValues& values, const PolicyContext&) {
    return std::make_unique<const ExpectedAttention>(values);
  };
  return info;
}

}  // namespace purekv
