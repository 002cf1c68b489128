// keydiff: KeyDiff (arXiv 2504.15364) keeps the keys that point away from the mean direction of all keys. Needs no
// attention scores.
#include <cmath>

#include "base/threads.h"
#include "policy/policies.h"
#include "policy/scores.h"

namespace purekv {
namespace {

class Keydiff : public SinksAndRecentPolicy {
 public:
  using SinksAndRecentPolicy::SinksAndRecentPolicy;

  // -cos(k_j, mean_j k_j / ||k_j||), the mean over all entries, protected ones included.
  std::vector<Scores> Score(const LayerEntries& entries, const Observation&) const override {
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
    return {scores};
  }
};

}  // namespace

PolicyInfo KeydiffPolicy() {
  PolicyInfo info;
  info.name = "keydiff";
  info.summary = "keeps the keys that differ most from the mean key";
  info.paper = "KeyDiff, arXiv 2504.15364";
  info.options = SinksAndRecentPolicy::Options();
  info.ada = true;
  info.make = [](const OptionValues& values, const KvCacheSpec&) { return std::make_unique<const Keydiff>(values); };
  return info;
}

}  // namespace purekv
