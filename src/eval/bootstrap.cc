#include "eval/bootstrap.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace purekv {
namespace {

// SplitMix64.
uint64_t Next(uint64_t* state) {
  uint64_t z = (*state += 0x9e3779b97f4a7c15U);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
  return z ^ (z >> 31);
}

// Linear between the two nearest of the sorted values.
double Quantile(const std::vector<double>& sorted, double share) {
  const double at = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(at);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  const double part = at - static_cast<double>(below);
  return sorted[below] * (1 - part) + sorted[above] * part;
}

}  // namespace

Interval BootstrapMean(const std::vector<Cluster>& clusters, int64_t draws, uint64_t seed) {
  PUREKV_CHECK(draws >= 1, draws);
  std::vector<Cluster> used;
  for (const Cluster& one : clusters) {
    if (one.count > 0) used.push_back(one);
  }
  Interval interval;
  double sum = 0;
  for (const Cluster& one : used) {
    sum += one.sum;
    interval.count += one.count;
  }
  if (interval.count == 0) return interval;
  interval.mean = sum / static_cast<double>(interval.count);
  std::vector<double> means;
  uint64_t state = seed;
  for (int64_t draw = 0; draw < draws; ++draw) {
    double drawn = 0;
    int64_t count = 0;
    for (size_t i = 0; i < used.size(); ++i) {
      // The high half of a product in place of a remainder: no video is favoured.
      const uint64_t high = Next(&state) >> 32;
      const Cluster& one = used[static_cast<size_t>((high * used.size()) >> 32)];
      drawn += one.sum;
      count += one.count;
    }
    means.push_back(drawn / static_cast<double>(count));
  }
  std::sort(means.begin(), means.end());
  interval.low = Quantile(means, 0.025);
  interval.high = Quantile(means, 0.975);
  return interval;
}

}  // namespace purekv
