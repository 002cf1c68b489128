#include "policy/scores.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/bfloat16.h"
#include "base/error.h"
#include "base/threads.h"

namespace purekv {
namespace {

constexpr size_t kSums = 8;  // independent sums: the compiler may keep them in vector registers

template <class T>
double SquaredNorm(const T* row, size_t dim) {
  std::array<double, kSums> sums{};
  size_t i = 0;
  for (; i + kSums <= dim; i += kSums) {
    for (size_t lane = 0; lane < kSums; ++lane) {
      const auto x = static_cast<double>(ToFloat(row[i + lane]));
      sums[lane] += x * x;
    }
  }
  double total = 0;
  for (; i < dim; ++i) total += static_cast<double>(ToFloat(row[i])) * static_cast<double>(ToFloat(row[i]));
  for (const double sum : sums) total += sum;
  return total;
}

template <class T>
void Norms(const KvHeadView& head, bool keys, int64_t dim, std::vector<double>& norms) {
  for (int64_t i = 0; i < head.length; ++i) {
    const auto* const row = static_cast<const T*>(keys ? head.KeyRow(i) : head.ValueRow(i));
    norms[static_cast<size_t>(i)] = std::sqrt(SquaredNorm(row, static_cast<size_t>(dim)));
  }
}

Scores RowNorms(const LayerEntries& entries, bool keys) {
  Scores norms(entries.kv.size());
  ParallelFor(entries.kv_heads(), [&](int64_t g) {
    const KvHeadView& head = entries.kv[static_cast<size_t>(g)];
    auto& out = norms[static_cast<size_t>(g)];
    out.resize(static_cast<size_t>(head.length));
    if (head.format == KvFormat::kF32) {
      Norms<float>(head, keys, entries.head_dim, out);
    } else {
      Norms<BF16>(head, keys, entries.head_dim, out);
    }
  });
  return norms;
}

void ReadRow(const void* at, KvFormat format, int64_t dim, double* out) {
  if (format == KvFormat::kF32) {
    const float* const row = static_cast<const float*>(at);
    for (int64_t i = 0; i < dim; ++i) out[i] = static_cast<double>(row[i]);
  } else {
    const BF16* const row = static_cast<const BF16*>(at);
    for (int64_t i = 0; i < dim; ++i) out[i] = static_cast<double>(ToFloat(row[i]));
  }
}

}  // namespace

Scores KeyNorms(const LayerEntries& entries) {
  return RowNorms(entries, true);
}

Scores ValueNorms(const LayerEntries& entries) {
  return RowNorms(entries, false);
}

Scores KeyDifference(const LayerEntries& entries) {
  const Scores norms = KeyNorms(entries);
  Scores scores(norms.size());
  ParallelFor(entries.kv_heads(), [&](int64_t g) {
    const auto head = static_cast<size_t>(g);
    const auto dim = static_cast<size_t>(entries.head_dim);
    std::vector<double> key(dim), mean(dim, 0.0);
    for (size_t j = 0; j < norms[head].size(); ++j) {
      KeyRow(entries.kv[head], static_cast<int64_t>(j), entries.head_dim, key.data());
      for (size_t i = 0; i < dim; ++i) mean[i] += key[i] / norms[head][j];
    }
    double square = 0;
    for (const double x : mean) square += x * x;
    const double length = std::sqrt(square);  // a cosine does not ask for the division by the count
    for (size_t j = 0; j < norms[head].size(); ++j) {
      KeyRow(entries.kv[head], static_cast<int64_t>(j), entries.head_dim, key.data());
      double dot = 0;
      for (size_t i = 0; i < dim; ++i) dot += key[i] * mean[i];
      scores[head].push_back(-dot / (norms[head][j] * length));
    }
  });
  return scores;
}

Scores GroupMean(const LayerEntries& entries, const AttentionSums& sums, int64_t plane) {
  Scores scores(entries.kv.size());
  for (int64_t g = 0; g < entries.kv_heads(); ++g) {
    const auto from = sums.Plane(plane, g);
    auto& out = scores[static_cast<size_t>(g)];
    out.assign(from.begin(), from.end());
    for (double& score : out) score /= static_cast<double>(entries.group());
  }
  return scores;
}

Scores LayerMean(const LayerEntries& entries, const AttentionSums& sums) {
  std::vector<double> mean(static_cast<size_t>(entries.length(0)), 0.0);
  for (int64_t g = 0; g < entries.kv_heads(); ++g) {
    const auto plane = sums.Plane(0, g);
    PUREKV_CHECK(plane.size() == mean.size(), plane.size(), " entries beside ", mean.size());
    for (size_t j = 0; j < mean.size(); ++j) mean[j] += plane[j] / static_cast<double>(entries.heads);
  }
  return Scores(entries.kv.size(), mean);
}

Scores WindowMean(const LayerEntries& entries, const AttentionSums& sums) {
  Scores scores = GroupMean(entries, sums, 0);
  for (auto& head : scores) {
    for (double& score : head) score /= static_cast<double>(sums.queries());
  }
  return scores;
}

void PoolScores(Pool pool, int64_t kernel, int64_t length, std::vector<double>& scores) {
  if (pool == Pool::kNone) return;
  const int64_t side = kernel / 2;
  std::vector<double> pooled(static_cast<size_t>(length));
  for (int64_t j = 0; j < length; ++j) {
    const int64_t begin = std::max<int64_t>(0, j - side);
    const int64_t end = std::min(length, j + side + 1);
    double sum = 0, most = end - begin < kernel ? 0 : scores[static_cast<size_t>(begin)];
    for (int64_t i = begin; i < end; ++i) {
      sum += scores[static_cast<size_t>(i)];
      most = std::max(most, scores[static_cast<size_t>(i)]);
    }
    pooled[static_cast<size_t>(j)] = pool == Pool::kAverage ? sum / static_cast<double>(kernel) : most;
  }
  std::copy(pooled.begin(), pooled.end(), scores.begin());
}

void KeyRow(const KvHeadView& head, int64_t entry, int64_t head_dim, double* out) {
  ReadRow(head.KeyRow(entry), head.format, head_dim, out);
}

void ValueRow(const KvHeadView& head, int64_t entry, int64_t head_dim, double* out) {
  ReadRow(head.ValueRow(entry), head.format, head_dim, out);
}

void CheckScores(const std::string& policy, const LayerEntries& entries, const std::vector<Scores>& planes) {
  for (const Scores& plane : planes) {
    PUREKV_CHECK(plane.size() == entries.kv.size(), plane.size(), " heads of scores");
    for (size_t head = 0; head < plane.size(); ++head) {
      PUREKV_CHECK(static_cast<int64_t>(plane[head].size()) == entries.kv[head].length, plane[head].size(),
                   " scores of ", entries.kv[head].length, " entries");
      const auto bad =
          std::find_if_not(plane[head].begin(), plane[head].end(), [](double x) { return std::isfinite(x); });
      if (bad == plane[head].end()) continue;
      Fail("policy ", policy, ": layer ", entries.layer, ", KV head ", head, ": token ",
           entries.tokens[head][static_cast<size_t>(bad - plane[head].begin())],
           " has a score that is not a finite number (", *bad, ")");
    }
  }
}

}  // namespace purekv
