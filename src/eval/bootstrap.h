// Confidence intervals of means over questions. Questions about one video are not independent, so whole videos are
// drawn.
#pragma once

#include <cstdint>
#include <vector>

namespace purekv {

// What one video adds to a mean: the sum of its questions' values, and how many.
struct Cluster {
  double sum = 0;
  int64_t count = 0;
};

struct Interval {
  double mean = 0;
  double low = 0, high = 0;  // the central 95 % of the bootstrap's means
  int64_t count = 0;         // values
};

constexpr int64_t kBootstrapDraws = 1000;

// The mean of all values and the percentile bootstrap over clusters (Efron 1979): `draws` samples of as many clusters,
// with replacement, from a generator of our own with a fixed seed, so that the same values give the same interval on
// any machine. Clusters without values are left out. No values: count 0.
Interval BootstrapMean(const std::vector<Cluster>& clusters, int64_t draws = kBootstrapDraws, uint64_t seed = 1);

}  // namespace purekv
