#include "policy/merging.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "base/any_matrix.h"
#include "base/error.h"
#include "base/threads.h"
#include "kernels/dense.h"
#include "policy/policy.h"
#include "policy/rotation.h"
#include "policy/scores.h"
#include "policy/selector.h"

namespace purekv {
namespace {

// Cosines so near to the highest are equal to it: where keys repeat, rounding does not choose.
constexpr double kEqualCosine = 1e-5;
constexpr int64_t kBlock = 256;  // evicted entries that are compared with all targets at a time

KeyTurn TurnOf(const LayerEntries& entries, int32_t token) {
  return {*entries.rope, entries.positions[static_cast<size_t>(token)]};
}

double SquaredNorm(const double* row, int64_t dim) {
  return std::inner_product(row, row + dim, row, 0.0);
}

// Rows of `keys` divided by their norms, rows of zeros left so.
Matrix<float> Directions(const Matrix<float>& keys, std::span<const int32_t> entries) {
  Matrix<float> directions(static_cast<int64_t>(entries.size()), keys.cols());
  ParallelForRanges(directions.rows(), kBlock, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* const key = keys.Row(entries[static_cast<size_t>(i)]);
      double square = 0;
      for (int64_t d = 0; d < keys.cols(); ++d) square += static_cast<double>(key[d]) * static_cast<double>(key[d]);
      const double factor = square > 0 ? 1 / std::sqrt(square) : 0;
      float* const out = directions.Row(i);
      for (int64_t d = 0; d < keys.cols(); ++d) out[d] = static_cast<float>(static_cast<double>(key[d]) * factor);
    }
  });
  return directions;
}

// One evicted entry and where it goes.
struct Choice {
  int32_t entry = 0;
  int32_t target = -1;  // -1: nowhere
  double cosine = 0;
};

class Targets {
 public:
  Targets(const LayerEntries& entries, int64_t head, std::vector<int32_t> targets, const MergeOptions& options)
      : entries_(entries), head_(static_cast<size_t>(head)), targets_(std::move(targets)), options_(options) {}

  bool empty() const { return targets_.empty(); }

  std::vector<Choice> Nearest(std::span<const int32_t> evicted) const {
    std::vector<Choice> choices;
    for (const int32_t entry : evicted) {
      Choice& choice = choices.emplace_back(Choice{entry});
      int64_t best = std::numeric_limits<int64_t>::max();
      const auto consider = [&](auto it) {
        const int64_t far = std::abs(static_cast<int64_t>(Token(*it)) - Token(entry));
        if (!May(entry, *it) || far >= best) return false;
        best = far;
        choice.target = *it;
        return true;
      };
      // Entry indices ascend with tokens: the nearest admitted one below, then a strictly nearer one above.
      const auto above = std::lower_bound(targets_.begin(), targets_.end(), entry);
      for (auto it = above; it != targets_.begin() && !consider(--it);) {
      }
      for (auto it = above; it != targets_.end() && !consider(it) && Token(*it) - Token(entry) < best; ++it) {
      }
    }
    return choices;
  }

  std::vector<Choice> MostAlike(std::span<const int32_t> evicted) const {
    const Matrix<float> keys = MergeKeys(entries_, static_cast<int64_t>(head_), options_.align);
    const Matrix<float> of_targets = Directions(keys, targets_);
    const WeightRows rows{of_targets.data(), Dtype::kF32, of_targets.rows()};
    const Linear compare({&rows, 1}, keys.cols(), {}, WeightFormat::kF32, Dtype::kF32);
    std::vector<Choice> choices;
    Matrix<float> cosines(kBlock, of_targets.rows());
    for (size_t first = 0; first < evicted.size(); first += kBlock) {
      const auto block = evicted.subspan(first, std::min(static_cast<size_t>(kBlock), evicted.size() - first));
      const auto count = static_cast<int64_t>(block.size());
      Matrix<float> of_block = Directions(keys, block);
      compare.Run({of_block.data(), Dtype::kF32, count, keys.cols(), keys.cols()}, cosines.View().Rows(0, count));
      choices.resize(first + block.size());
      ParallelFor(count, [&](int64_t i) {
        choices[first + static_cast<size_t>(i)] = Best(block[static_cast<size_t>(i)], cosines.Row(i));
      });
    }
    return choices;
  }

 private:
  int32_t Token(int32_t entry) const { return entries_.tokens[head_][static_cast<size_t>(entry)]; }
  bool Visual(int32_t entry) const { return IsVisual(entries_.layout[static_cast<size_t>(Token(entry))]); }
  bool May(int32_t from, int32_t to) const {
    if (options_.same_kind && Visual(from) != Visual(to)) return false;
    return options_.window == 0 || std::abs(static_cast<int64_t>(Token(from)) - Token(to)) <= options_.window;
  }

  Choice Best(int32_t entry, const float* cosines) const {
    Choice choice{entry};
    double highest = -std::numeric_limits<double>::infinity();
    const bool any = options_.same_kind || options_.window > 0;
    for (size_t t = 0; t < targets_.size(); ++t) {
      if (!any || May(entry, targets_[t])) highest = std::max(highest, static_cast<double>(cosines[t]));
    }
    for (size_t t = 0; t < targets_.size(); ++t) {
      if (static_cast<double>(cosines[t]) < highest - kEqualCosine || (any && !May(entry, targets_[t]))) continue;
      choice.target = targets_[t];
      choice.cosine = std::clamp(static_cast<double>(cosines[t]), -1.0, 1.0);
      break;
    }
    return choice;
  }

  const LayerEntries& entries_;
  size_t head_;
  std::vector<int32_t> targets_;
  const MergeOptions& options_;
};

double ValueNorm(const LayerEntries& entries, int64_t head, int32_t entry, std::vector<double>& row) {
  ValueRow(entries.kv[static_cast<size_t>(head)], entry, entries.head_dim, row.data());
  return std::sqrt(SquaredNorm(row.data(), entries.head_dim));
}

}  // namespace

Matrix<float> MergeKeys(const LayerEntries& entries, int64_t head, bool align) {
  const KvHeadView& kv = entries.kv[static_cast<size_t>(head)];
  Matrix<float> keys(kv.length, entries.head_dim);
  ParallelForRanges(kv.length, kBlock, [&](int64_t begin, int64_t end) {
    std::vector<double> row(static_cast<size_t>(entries.head_dim));
    for (int64_t j = begin; j < end; ++j) {
      KeyRow(kv, j, entries.head_dim, row.data());
      const int32_t token = entries.tokens[static_cast<size_t>(head)][static_cast<size_t>(j)];
      if (align) TurnOf(entries, token).Back(row.data(), entries.head_dim);
      std::transform(row.begin(), row.end(), keys.Row(j), [](double x) { return static_cast<float>(x); });
    }
  });
  return keys;
}

std::vector<MergedEntry> MergeInto(const LayerEntries& entries, int64_t head, std::span<const int32_t> kept,
                                   const Protection& spans, const MergeOptions& options) {
  const int64_t length = entries.length(head);
  std::vector<int32_t> evicted, targets;
  size_t next = 0;
  for (int32_t j = 0; j < length; ++j) {
    if (next < kept.size() && kept[next] == j) {
      ++next;
      if (j >= spans.sinks && j < length - spans.recent) targets.push_back(j);
    } else {
      evicted.push_back(j);
    }
  }
  if (targets.empty() || evicted.empty()) return {};
  const Targets all(entries, head, std::move(targets), options);
  std::vector<Choice> choices = options.rule == MergeRule::kNearest ? all.Nearest(evicted) : all.MostAlike(evicted);
  std::erase_if(choices, [](const Choice& one) { return one.target < 0; });
  std::optional<double> threshold = options.threshold;
  if (options.mean_threshold && !choices.empty()) {
    double sum = 0;
    for (const Choice& one : choices) sum += one.cosine;
    threshold = sum / static_cast<double>(choices.size());
  }
  if (threshold) std::erase_if(choices, [&](const Choice& one) { return one.cosine < *threshold; });
  std::stable_sort(choices.begin(), choices.end(),
                   [](const Choice& a, const Choice& b) { return a.target < b.target; });
  std::vector<MergedEntry> merged;
  std::vector<double> row(static_cast<size_t>(entries.head_dim));
  for (const Choice& one : choices) {
    if (merged.empty() || merged.back().target != one.target) merged.push_back({one.target, {}, {}});
    double weight = 1;
    if (options.rule == MergeRule::kWeighted) weight = (1 + one.cosine) / 2;
    if (options.rule == MergeRule::kValues) {
      const double source = ValueNorm(entries, head, one.entry, row);
      const double both = source + ValueNorm(entries, head, one.target, row);
      weight = both > 0 ? std::max(one.cosine, 0.0) * source / both : 0;
    }
    merged.back().sources.push_back(one.entry);
    merged.back().weights.push_back(weight);
  }
  return merged;
}

MergedRows Merge(const LayerEntries& entries, int64_t head, std::span<const MergedEntry> merged,
                 const MergeOptions& options) {
  const auto at = static_cast<size_t>(head);
  const KvHeadView& kv = entries.kv[at];
  const auto dim = static_cast<size_t>(entries.head_dim);
  const auto count_of = [&](int32_t entry) {
    return entries.counts.empty() || entries.counts[at].empty() ? 1 : entries.counts[at][static_cast<size_t>(entry)];
  };
  const bool values_only = options.rule == MergeRule::kValues;
  MergedRows rows;
  rows.keys = Matrix<float>(static_cast<int64_t>(merged.size()), entries.head_dim);
  rows.values = Matrix<float>(rows.keys.rows(), entries.head_dim);
  rows.counts.resize(merged.size());
  ParallelForRanges(rows.keys.rows(), 16, [&](int64_t begin, int64_t end) {
    std::vector<double> target_key(dim), target_value(dim), key(dim), value(dim), keys(dim), values(dim);
    const auto read = [&](int32_t entry, std::vector<double>& k, std::vector<double>& v) {
      KeyRow(kv, entry, entries.head_dim, k.data());
      ValueRow(kv, entry, entries.head_dim, v.data());
      if (options.align && !values_only)
        TurnOf(entries, entries.tokens[at][static_cast<size_t>(entry)]).Back(k.data(), entries.head_dim);
    };
    for (int64_t i = begin; i < end; ++i) {
      const MergedEntry& one = merged[static_cast<size_t>(i)];
      read(one.target, target_key, target_value);
      int32_t count = count_of(one.target);
      double total = values_only ? 1 : count;
      for (size_t d = 0; d < dim; ++d) {
        keys[d] = total * target_key[d];
        values[d] = total * target_value[d];
      }
      for (size_t s = 0; s < one.sources.size(); ++s) {
        read(one.sources[s], key, value);
        const int32_t counts = count_of(one.sources[s]);
        const double weight = one.weights[s] * (values_only ? 1 : counts);
        for (size_t d = 0; d < dim; ++d) {
          const bool halfway = options.rule == MergeRule::kPivotal;
          keys[d] += weight * (halfway ? (key[d] + target_key[d]) / 2 : key[d]);
          values[d] += weight * (halfway ? (value[d] + target_value[d]) / 2 : value[d]);
        }
        total += weight;
        count += counts;
      }
      for (size_t d = 0; d < dim; ++d) {
        keys[d] = values_only ? target_key[d] : keys[d] / total;
        values[d] /= total;
      }
      if (options.align && !values_only) {
        TurnOf(entries, entries.tokens[at][static_cast<size_t>(one.target)]).To(keys.data(), entries.head_dim);
      }
      std::transform(keys.begin(), keys.end(), rows.keys.Row(i), [](double x) { return static_cast<float>(x); });
      std::transform(values.begin(), values.end(), rows.values.Row(i), [](double x) { return static_cast<float>(x); });
      rows.counts[static_cast<size_t>(i)] = count;
    }
  });
  return rows;
}

}  // namespace purekv
