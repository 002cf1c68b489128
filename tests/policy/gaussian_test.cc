// The vector loops of expected-attention against plain ones, on every instruction set of this machine.
#include "policy/gaussian.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "kernels/testing.h"

namespace purekv::testing {
namespace {

std::vector<float> Random(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values;
  for (int64_t i = 0; i < count; ++i) values.push_back(normal(random));
  return values;
}

TEST(Gaussian, OuterProducts) {
  for (const int64_t dim : {32, 96, 128}) {
    const auto x = Random(kGaussianRows * dim, 1), before = Random(dim * dim, 2);
    ForEachTarget([&] {
      std::vector<float> out = before;
      AddOuterProducts(x.data(), dim, out.data());
      for (int64_t i = 0; i < dim; ++i) {
        for (int64_t j = i; j < dim; ++j) {
          double sum = double(before[size_t(i * dim + j)]);
          for (int64_t r = 0; r < kGaussianRows; ++r)
            sum += double(x[size_t(r * dim + i)]) * double(x[size_t(r * dim + j)]);
          ASSERT_NEAR(out[size_t(i * dim + j)], sum, 1e-4) << i << " " << j;
        }
      }
    });
  }
}

TEST(Gaussian, QuadraticForms) {
  for (const int64_t dim : {32, 96, 128}) {
    const auto linear = Random(dim, 3), keys = Random(dim * kGaussianKeys, 4);
    auto quadratic = Random(dim * dim, 5);
    for (int64_t i = 0; i < dim; ++i) {
      for (int64_t j = 0; j < i; ++j) quadratic[size_t(i * dim + j)] = 0;
    }
    for (const bool squares : {true, false}) {
      ForEachTarget([&] {
        std::vector<float> z(kGaussianKeys, 7.0F);
        QuadraticForms(linear.data(), squares ? quadratic.data() : nullptr, dim, keys.data(), z.data());
        for (int64_t k = 0; k < kGaussianKeys; ++k) {
          double sum = 0;
          for (int64_t i = 0; i < dim; ++i) {
            double row = double(linear[size_t(i)]);
            for (int64_t j = 0; j < dim && squares; ++j)
              row += double(quadratic[size_t(i * dim + j)]) * double(keys[size_t(j * kGaussianKeys + k)]);
            sum += row * double(keys[size_t(i * kGaussianKeys + k)]);
          }
          ASSERT_NEAR(z[size_t(k)], sum, 1e-5 * double(dim)) << k;
        }
      });
    }
  }
}

}  // namespace
}  // namespace purekv::testing
