// Linear against its reference: odd sizes, stacked parts, strides, formats, threads.
#include "kernels/dense.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <random>
#include <thread>
#include <vector>

#include "kernels/reference.h"
#include "kernels/testing.h"

namespace purekv {
namespace {

using testing::ExpectNear;
using testing::ForEachCpuLevel;
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

// The layer once per level of this machine.
template <class Layer>
struct AtLevel {
  CpuLevel level;
  Layer layer;
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
  std::vector<AtLevel<Linear>> layers;
  ForEachCpuLevel([&](CpuLevel level) {
    layers.push_back({level, Linear(rows, c.in, bias, NumberFormats::Of(c.compute).weights, c.compute)});
    EXPECT_EQ(layers.back().layer.in(), c.in);
    EXPECT_EQ(layers.back().layer.out(), out);
    // Plain rows that are bf16 stay so under f32 arithmetic.
    const Dtype smallest = c.weights == Dtype::kBF16 && level <= CpuLevel::kAvx2 ? Dtype::kBF16 : c.compute;
    EXPECT_GE(layers.back().layer.packed_bytes(), static_cast<size_t>(c.in * out) * DtypeSize(smallest));
  });
  for (const int64_t n : rows_list) {
    for (const bool accumulate : {false, true}) {
      for (const int64_t extra : {0, 3}) {
        Guarded x(c.compute, n, c.in, extra);
        x.Fill(random);
        Guarded before(Dtype::kF32, n, out, 2 * extra);
        before.Fill(random);
        Guarded want = before;
        reference::Dense(rows, bias, c.compute, x.View(), want.Floats(), accumulate);
        for (const auto& [level, layer] : layers) {
          const testing::ScopedCpuLevel scope(level);
          SCOPED_TRACE(std::to_string(n) + " rows, " + std::to_string(c.in) + " -> " + std::to_string(out) +
                       ", weights " + DtypeName(c.weights) + ", compute " + DtypeName(c.compute) + ", " +
                       CpuLevelName(level) + ": " + layer.Implementation(n));
          Guarded got = before;
          layer.Run(x.View(), got.Floats(), accumulate);
          ExpectNear(got, want, 2e-6, 4e-6);
          EXPECT_TRUE(got.Intact());
        }
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

TEST(Linear, PanelEdges) {
  for (const Dtype compute : {Dtype::kF32, Dtype::kBF16}) {
    for (const int64_t in : {31, 32, 33, 255, 256, 257, 520}) {
      for (const int64_t out : {15, 31, 33, 64, 263}) {
        Check({.in = in, .parts = {out}, .weights = Dtype::kBF16, .compute = compute, .bias = true}, {1, 4, 8, 9, 33});
      }
    }
  }
}

TEST(Linear, EveryCountOfFewRows) {
  for (const Dtype compute : {Dtype::kF32, Dtype::kBF16}) {
    Check({.in = 331, .parts = {97}, .compute = compute, .bias = true}, {1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17});
  }
}

// Rows of different sequences: the bits of a row alone, whatever lies beside it.
TEST(Linear, FewRowsAsEachWouldBeAlone) {
  std::mt19937 random(5);
  for (const Dtype dtype : {Dtype::kF32, Dtype::kBF16}) {
    for (const auto& [in, out] : {std::pair<int64_t, int64_t>{7, 3}, {64, 130}, {515, 97}, {300, 32}, {1024, 257}}) {
      const Part part(random, dtype, out, in, 0);
      const WeightRows rows = part.Rows();
      Guarded x(dtype, 8, in, 3);
      x.Fill(random);
      ForEachCpuLevel([&, in = in, out = out](CpuLevel) {
        const Linear layer({&rows, 1}, in, {}, NumberFormats::Of(dtype).weights, dtype);
        Matrix<float> alone(8, out), together(8, out);
        for (int64_t i = 0; i < 8; ++i) layer.Run(x.View().Rows(i, 1), alone.View().Rows(i, 1));
        for (int64_t count = 1; count <= 8; ++count) {
          layer.Run(x.View().Rows(8 - count, count), together.View().Rows(0, count), false, RowSums::kAsAlone);
          for (int64_t i = 0; i < count; ++i) {
            ASSERT_EQ(0, std::memcmp(together.Row(i), alone.Row(8 - count + i), static_cast<size_t>(out) * 4))
                << DtypeName(dtype) << ", " << in << " -> " << out << ", row " << i << " of " << count;
          }
        }
      });
    }
  }
}

TEST(Linear, NeverFallsBackToTheSlowImplementation) {
  std::mt19937 random(1);
  const Part part(random, Dtype::kBF16, 640, 256, 0);
  const WeightRows rows = part.Rows();
  ForEachCpuLevel([&](CpuLevel level) {
    for (const Dtype compute : {Dtype::kF32, Dtype::kBF16}) {
      const Linear linear({&rows, 1}, 256, {}, NumberFormats::Of(compute).weights, compute);
      for (const int64_t n : {1, 2, 8, 63, 64, 256, 511, 2048}) {
        const std::string name = linear.Implementation(n);
        EXPECT_EQ(name.find("ref") != std::string::npos, level == CpuLevel::kReference) << n << " rows: " << name;
      }
    }
  });
}

TEST(Linear, SaysWhatRunsAndWhy) {
  std::mt19937 random(1);
  const Part part(random, Dtype::kBF16, 64, 64, 0);
  const WeightRows rows = part.Rows();
  if (Cpu() != CpuLevel::kAmxBf16) GTEST_SKIP() << "needs AMX";
  const Linear best({&rows, 1}, 64, {}, WeightFormat::kBF16, Dtype::kBF16);
  EXPECT_EQ(best.Implementation(9), "amx_bf16 (own)");
  EXPECT_EQ(best.Implementation(8), "avx512_bf16 matrix-vector (own)");
  EXPECT_TRUE(best.Refused().empty());
  const testing::ScopedCpuLevel level(CpuLevel::kAvx2);
  const Linear plain({&rows, 1}, 64, {}, WeightFormat::kBF16, Dtype::kBF16);
  EXPECT_EQ(plain.Implementation(1), "highway AVX2 matrix-vector (bf16 weights, widened)");
  EXPECT_EQ(plain.Refused(), (std::vector<std::string>{"amx_bf16: PUREKV_CPU=avx2", "onednn packed: PUREKV_CPU=avx2"}));
}

void CheckGated(int64_t in, int64_t out, Dtype compute, bool with_bias, const std::vector<int64_t>& rows_list) {
  std::mt19937 random(5);
  const Part gate(random, Dtype::kBF16, out, in, 0);
  const Part up(random, Dtype::kF32, out, in, 1);
  const std::vector<WeightRows> parts = {gate.Rows(), up.Rows()};
  std::vector<float> bias(with_bias ? static_cast<size_t>(2 * out) : 0);
  for (float& b : bias) b = std::normal_distribution<float>()(random);
  std::vector<AtLevel<GatedLinear>> gated;
  std::vector<AtLevel<Linear>> stacked;
  ForEachCpuLevel([&](CpuLevel level) {
    gated.push_back({level, GatedLinear(parts[0], parts[1], in, bias, NumberFormats::Of(compute).weights, compute)});
    stacked.push_back({level, Linear(parts, in, bias, NumberFormats::Of(compute).weights, compute)});
  });
  for (const int64_t n : rows_list) {
    for (const int64_t extra : {0, 5}) {
      Guarded x(compute, n, in, extra);
      x.Fill(random);
      Guarded sums(Dtype::kF32, n, 2 * out, 0);
      reference::Dense(parts, bias, compute, x.View(), sums.Floats(), false);
      for (const Activation activation : {Activation::kSilu, Activation::kGeluErf}) {
        for (const Dtype dtype : {Dtype::kF32, Dtype::kBF16}) {
          Guarded want(dtype, n, out, extra);
          reference::GatedActivate(activation, sums.Floats().Cols(0, out), sums.Floats().Cols(out, out), want.View());
          Guarded wide(dtype, n, 2 * out, extra);
          reference::Activate(activation, sums.Floats(), wide.View());
          for (size_t i = 0; i < gated.size(); ++i) {
            const testing::ScopedCpuLevel scope(gated[i].level);
            SCOPED_TRACE(std::to_string(n) + " rows, " + std::to_string(in) + " -> " + std::to_string(out) + ", " +
                         CpuLevelName(gated[i].level));
            Guarded got(dtype, n, out, extra);
            gated[i].layer.Run(activation, x.View(), got.View());
            ExpectNear(got, want, 1e-5, 1e-5);
            EXPECT_TRUE(got.Intact());
            Guarded activated(dtype, n, 2 * out, extra);
            stacked[i].layer.RunActivated(activation, x.View(), activated.View());
            ExpectNear(activated, wide, 1e-5, 1e-5);
            EXPECT_TRUE(activated.Intact());
          }
        }
      }
    }
  }
}

TEST(GatedLinear, MatchesReference) {
  for (const Dtype compute : {Dtype::kF32, Dtype::kBF16}) {
    for (const int64_t out : {1, 15, 16, 17, 95, 300}) CheckGated(67, out, compute, true, {0, 1, 3, 8, 9, 70});
    CheckGated(320, 683, compute, false, {1, 40});
  }
}

// oneDNN limited to what older processors have, which it fixes at its first use: in a process of its own.
TEST(Linear, WorksOnOlderProcessors) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  for (const CpuLevel level : {CpuLevel::kAvx512Bf16, CpuLevel::kAvx512, CpuLevel::kAvx2, CpuLevel::kPortable}) {
    if (level > Cpu()) continue;
    EXPECT_EXIT(
        {
          SetCpuForTest(level);
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
    const Linear linear({&rows, 1}, 190, {}, NumberFormats::Of(compute).weights, compute);
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

// oneDNN's cuts along the inputs depend on the number of threads (bf16, 3 threads: the last bit differs); own kernels'
// do not.
TEST(Linear, AgreesOnAnyNumberOfThreads) {
  std::mt19937 random(6);
  const Part part(random, Dtype::kF32, 700, 1283, 0);
  const WeightRows rows = part.Rows();
  ForEachCpuLevel([&](CpuLevel level) {
    if (level == CpuLevel::kReference) return;
    for (const Dtype compute : {Dtype::kF32, Dtype::kBF16}) {
      const Linear linear({&rows, 1}, 1283, {}, NumberFormats::Of(compute).weights, compute);
      for (const int64_t n : {1, 5, 9, 300, 520}) {
        const bool own = linear.Implementation(n).find("onednn") == std::string::npos;
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
          if (own) {
            EXPECT_TRUE(got.SameBits(first)) << n << " rows, " << count << " threads";
          } else {
            ExpectNear(got, first, 2e-6, 4e-6);
          }
        }
      }
    }
  });
}

}  // namespace
}  // namespace purekv
