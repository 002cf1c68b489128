// Orthonormal vectors out of any numbers.
#pragma once

#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include "kernels/kv_basis.h"

namespace purekv {

// [rank, dim], by Gram and Schmidt, in double.
inline std::vector<float> OrthonormalVectors(int64_t dim, int64_t rank, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  std::vector<std::vector<double>> vectors;
  while (static_cast<int64_t>(vectors.size()) < rank) {
    std::vector<double> one(static_cast<size_t>(dim));
    for (double& x : one) x = normal(random);
    for (int pass = 0; pass < 2; ++pass) {
      for (const auto& other : vectors) {
        double dot = 0;
        for (size_t d = 0; d < one.size(); ++d) dot += one[d] * other[d];
        for (size_t d = 0; d < one.size(); ++d) one[d] -= dot * other[d];
      }
    }
    double norm = 0;
    for (const double x : one) norm += x * x;
    for (double& x : one) x /= std::sqrt(norm);
    vectors.push_back(std::move(one));
  }
  std::vector<float> flat;
  for (const auto& one : vectors) {
    for (const double x : one) flat.push_back(static_cast<float>(x));
  }
  return flat;
}

inline std::shared_ptr<const KvBasis> RandomBasis(int64_t dim, int64_t rank, uint32_t seed, RopeSpec rope = {}) {
  auto basis = std::make_shared<KvBasis>();
  basis->head_dim = dim;
  basis->vectors = OrthonormalVectors(dim, rank, seed);
  basis->rope = std::move(rope);
  return basis;
}

}  // namespace purekv
