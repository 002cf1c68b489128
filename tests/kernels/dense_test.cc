// Linear against its reference: odd sizes, stacked parts, strides, formats, threads.
#include "kernels/dense.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <random>
#include <thread>
#include <vector>

#include "kernels/reference.h"
#include "kernels/testing.h"
#include "oneapi/dnnl/dnnl.hpp"

namespace purekv {
namespace {

using testing::ExpectNear;
using testing::Guarded;
using testing::ScopedThreads;

// Weight bytes of one part, at an address that is `shift` bytes off alignment.
class Part {
 public:
  Part(std::mt19937& random, Dtype dtype, int64_t rows, int64_t in, size_t shift)
      : bytes_(static_cast<size_t>(rows * in) * DtypeSize(dtype) + shift), dtype_(dtype), rows_(rows), shift_(shift) {
    std::normal_distribution<float> normal(0.0f, 1.0f / std::sqrt(static_cast<float>(in)));
    for (int64_t i = 0; i < rows * in; ++i) {
      const float value = normal(random);
      const auto k = static_cast<size_t>(i);
      if (dtype == Dtype::kF32) {
        std::memcpy(bytes_.data() + shift + 4 * k, &value, 4);
      } else {
        const uint16_t bits = dtype == Dtype::kBF16 ? ToBF16(value).bits : ToF16(value).bits;
        std::memcpy(bytes_.data() + shift + 2 * k, &bits, 2);
      }
    }
  }
  WeightRows Rows() const { return {bytes_.data() + shift_, dtype_, rows_}; }

 private:
  std::vector<char> bytes_;
  Dtype dtype_;
  int64_t rows_;
  size_t shift_;
};

struct Case {
  int64_t in = 0;
  std::vector<int64_t> parts;
  Dtype weights = Dtype::kF32;
  Dtype compute = Dtype::kF32;
  bool bias = false;
  size_t shift = 0;
};

void Check(const Case& c, const std::vector<int64_t>& rows_list) {
  std::mt19937 random(17);
  std::vector<Part> parts;
  int64_t out = 0;
  for (const int64_t rows : c.parts) {
    parts.emplace_back(random, c.weights, rows, c.in, c.shift);
    out += rows;
  }
  std::vector<WeightRows> rows;
  for (const Part& part : parts) rows.push_back(part.Rows());
  std::vector<float> bias(c.bias ? static_cast<size_t>(out) : 0);
  for (float& b : bias) b = std::normal_distribution<float>()(random);
  const Linear linear(rows, c.in, bias, c.compute);
  EXPECT_EQ(linear.in(), c.in);
  EXPECT_EQ(linear.out(), out);
  EXPECT_GE(linear.packed_bytes(), static_cast<size_t>(c.in * out) * DtypeSize(c.compute));
  for (const int64_t n : rows_list) {
    for (const bool accumulate : {false, true}) {
      for (const int64_t extra : {0, 3}) {
        SCOPED_TRACE(std::to_string(n) + " rows, " + std::to_string(c.in) + " -> " + std::to_string(out) +
                     ", weights " + DtypeName(c.weights) + ", compute " + DtypeName(c.compute));
        Guarded x(c.compute, n, c.in, extra);
        x.Fill(random);
        Guarded got(Dtype::kF32, n, out, 2 * extra);
        got.Fill(random);
        Guarded want = got;
        reference::Dense(rows, bias, c.compute, x.View(), want.Floats(), accumulate);
        linear.Run(x.View(), got.Floats(), accumulate);
        ExpectNear(got, want, 2e-6, 4e-6);
        EXPECT_TRUE(got.Intact());
      }
    }
  }
}

TEST(Linear, OddSizes) {
  for (const Dtype compute : {Dtype::kF32, Dtype::kBF16}) {
    Check({.in = 1, .parts = {1}, .compute = compute, .bias = true}, {0, 1, 2, 65});
    Check({.in = 97, .parts = {1}, .compute = compute}, {1, 3});
    Check({.in = 1, .parts = {97}, .compute = compute, .bias = true}, {1, 5});
    Check({.in = 220, .parts = {131}, .compute = compute, .bias = true}, {1, 2, 7, 63, 64, 65});
    Check({.in = 64, .parts = {64}, .compute = compute}, {1, 8, 64, 129, 511, 513});
  }
}

TEST(Linear, StackedPartsOfEveryFormat) {
  for (const Dtype compute : {Dtype::kF32, Dtype::kBF16}) {
    for (const Dtype weights : {Dtype::kF32, Dtype::kBF16, Dtype::kF16}) {
      for (const size_t shift : {size_t{0}, size_t{1}}) {
        Check({.in = 77, .parts = {65, 3, 500}, .weights = weights, .compute = compute, .bias = true, .shift = shift},
              {1, 19});
      }
    }
  }
}

TEST(Linear, VisionMlpSizes) {
  for (const Dtype compute : {Dtype::kF32, Dtype::kBF16}) {
    Check({.in = 320, .parts = {3420}, .weights = Dtype::kBF16, .compute = compute, .bias = true}, {1, 4});
    Check({.in = 3420, .parts = {320}, .weights = Dtype::kBF16, .compute = compute}, {3});
  }
}

TEST(Linear, NeverFallsBackToTheSlowImplementation) {
  std::mt19937 random(1);
  const Part part(random, Dtype::kBF16, 640, 256, 0);
  const WeightRows rows = part.Rows();
  for (const Dtype compute : {Dtype::kF32, Dtype::kBF16}) {
    const Linear linear({&rows, 1}, 256, {}, compute);
    for (const int64_t n : {1, 2, 8, 63, 64, 256, 511, 2048}) {
      const std::string name = linear.Implementation(n);
      EXPECT_EQ(name.rfind("onednn ", 0), 0u) << name;
      EXPECT_EQ(name.find("ref"), std::string::npos) << n << " rows: " << name;
    }
  }
}

// Processors without AVX-512: oneDNN 2.6 has no bf16 there, layers are kept in f32 and give the same results. In a
// process of its own, as oneDNN fixes the instruction set at its first use.
TEST(Linear, WorksOnOlderProcessors) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  for (const dnnl::cpu_isa isa : {dnnl::cpu_isa::avx2, dnnl::cpu_isa::sse41}) {
    EXPECT_EXIT(
        {
          dnnl::set_max_cpu_isa(isa);
          for (const Dtype compute : {Dtype::kF32, Dtype::kBF16}) {
            for (const Dtype weights : {Dtype::kF32, Dtype::kBF16, Dtype::kF16}) {
              Check({.in = 77, .parts = {65, 3, 500}, .weights = weights, .compute = compute, .bias = true}, {1, 19});
            }
          }
          std::exit(HasFailure() ? 1 : 0);
        },
        ::testing::ExitedWithCode(0), "");
  }
}

TEST(Linear, ManyThreadsShareOne) {
  std::mt19937 random(8);
  const Part part(random, Dtype::kF32, 333, 190, 0);
  const WeightRows rows = part.Rows();
  for (const Dtype compute : {Dtype::kF32, Dtype::kBF16}) {
    const Linear linear({&rows, 1}, 190, {}, compute);
    Guarded x(compute, 70, 190, 0);
    x.Fill(random);
    Guarded want(Dtype::kF32, 70, 333, 0);
    linear.Run(x.View(), want.Floats());
    std::vector<Guarded> results(4, Guarded(Dtype::kF32, 70, 333, 0));
    std::vector<std::thread> threads;
    for (size_t t = 0; t < results.size(); ++t) {
      threads.emplace_back([&, t] {
        SetThreads(static_cast<int>(t % 2) + 1);
        for (int repeat = 0; repeat < 20; ++repeat) linear.Run(x.View(), results[t].Floats());
      });
    }
    for (auto& thread : threads) thread.join();
    for (Guarded& result : results) ExpectNear(result, want, 1e-6, 1e-6);
  }
}

// Equal up to the order of sums only: oneDNN's cuts along the inputs depend on the number of threads (bf16, 3 threads:
// the last bit differs).
TEST(Linear, AgreesOnAnyNumberOfThreads) {
  std::mt19937 random(6);
  const Part part(random, Dtype::kF32, 700, 1283, 0);
  const WeightRows rows = part.Rows();
  for (const Dtype compute : {Dtype::kF32, Dtype::kBF16}) {
    const Linear linear({&rows, 1}, 1283, {}, compute);
    for (const int64_t n : {1, 9, 300}) {
      Guarded x(compute, n, 1283, 0);
      x.Fill(random);
      Guarded first(Dtype::kF32, n, 700, 0);
      {
        ScopedThreads threads(1);
        linear.Run(x.View(), first.Floats());
      }
      for (const int count : {2, 3}) {
        ScopedThreads threads(count);
        Guarded got(Dtype::kF32, n, 700, 0);
        linear.Run(x.View(), got.Floats());
        ExpectNear(got, first, 2e-6, 4e-6);
      }
    }
  }
}

}  // namespace
}  // namespace purekv
