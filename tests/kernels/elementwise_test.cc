// Row-wise kernels against their references on every instruction set.
#include "kernels/elementwise.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <random>
#include <vector>

#include "kernels/reference.h"
#include "kernels/simd_target.h"
#include "kernels/testing.h"

namespace purekv {
namespace {

using testing::ExpectNear;
using testing::ForEachTarget;
using testing::Guarded;
using testing::ScopedThreads;

const std::vector<int64_t> kWidths = {1, 2, 3, 5, 7, 15, 16, 17, 31, 33, 63, 64, 97, 128, 511, 513, 1280, 3421};
const std::vector<Activation> kActivations = {Activation::kSilu, Activation::kGeluErf, Activation::kGeluTanh,
                                              Activation::kQuickGelu};

std::vector<float> RandomVector(std::mt19937& random, int64_t n) {
  std::normal_distribution<float> normal;
  std::vector<float> v(static_cast<size_t>(n));
  for (float& x : v) x = normal(random);
  return v;
}

// Runs both twins over many shapes, strides and output formats.
using Kernel = std::function<void(MatrixView<const float> x, AnyMatrixView out)>;
void CheckRowKernel(int64_t d, float deviation, double relative, double absolute, const Kernel& fast,
                    const Kernel& reference) {
  std::mt19937 random(static_cast<uint32_t>(d));
  for (const int64_t rows : {0, 1, 3, 20}) {
    for (const int64_t extra : {0, 5}) {
      Guarded x(Dtype::kF32, rows, d, extra);
      x.Fill(random, deviation);
      for (const Dtype dtype : {Dtype::kF32, Dtype::kBF16}) {
        Guarded want(dtype, rows, d, 2 * extra);
        reference(x.Floats(), want.View());
        ForEachTarget([&] {
          Guarded got(dtype, rows, d, 2 * extra);
          fast(x.Floats(), got.View());
          ExpectNear(got, want, relative, absolute);
          EXPECT_TRUE(got.Intact());
        });
      }
      if (extra != 0) continue;
      ForEachTarget([&] {  // in place
        Guarded want(Dtype::kF32, rows, d, 0);
        reference(x.Floats(), want.View());
        Guarded got = x;
        fast(got.Floats(), got.View());
        ExpectNear(got, want, relative, absolute);
      });
    }
  }
}

TEST(Norm, MatchesReference) {
  for (const int64_t d : kWidths) {
    std::mt19937 random(1);
    const auto weight = RandomVector(random, d);
    const auto bias = RandomVector(random, d);
    for (const float deviation : {1.0f, 1e4f, 1e-6f}) {
      CheckRowKernel(
          d, deviation, 1e-6, 1e-7,
          [&](MatrixView<const float> x, AnyMatrixView out) { RmsNorm(x, weight, 1e-6f, out); },
          [&](MatrixView<const float> x, AnyMatrixView out) { reference::RmsNorm(x, weight, 1e-6f, out); });
      // The subtraction of the mean cancels where x is near it, hence the absolute part.
      CheckRowKernel(
          d, deviation, 2e-6, 2e-6,
          [&](MatrixView<const float> x, AnyMatrixView out) { LayerNorm(x, weight, bias, 1e-5f, out); },
          [&](MatrixView<const float> x, AnyMatrixView out) { reference::LayerNorm(x, weight, bias, 1e-5f, out); });
    }
  }
}

TEST(Norm, ZerosAndDenormals) {
  for (const float value : {0.0f, 1e-40f, -1e-40f}) {
    Guarded x(Dtype::kF32, 2, 37, 0);
    for (int64_t i = 0; i < 74; ++i) x.Set(i / 37, i % 37, value);
    const std::vector<float> ones(37, 1.0f);
    const std::vector<float> bias(37, 0.5f);
    ForEachTarget([&] {
      Guarded out(Dtype::kF32, 2, 37, 0);
      RmsNorm(x.Floats(), ones, 1e-6f, out.View());
      for (int64_t i = 0; i < 37; ++i) EXPECT_NEAR(out.At(1, i), value * 1e3f, 1e-42);
      LayerNorm(x.Floats(), ones, bias, 1e-6f, out.View());
      for (int64_t i = 0; i < 37; ++i) EXPECT_NEAR(out.At(1, i), 0.5f, 1e-6f);
    });
  }
}

TEST(Activation, MatchesReference) {
  for (const Activation activation : kActivations) {
    for (const int64_t d : kWidths) {
      CheckRowKernel(
          d, 3.0f, 2e-6, 1e-9, [&](MatrixView<const float> x, AnyMatrixView out) { Activate(activation, x, out); },
          [&](MatrixView<const float> x, AnyMatrixView out) { reference::Activate(activation, x, out); });
    }
  }
}

TEST(Activation, IsAccurateOverTheWholeRange) {
  constexpr int64_t kCount = 40001;
  Guarded x(Dtype::kF32, 1, kCount, 0);
  for (int64_t i = 0; i < kCount; ++i) x.Set(0, i, static_cast<float>(i - kCount / 2) * 0.001f);  // -20 .. 20
  for (const Activation activation : kActivations) {
    ForEachTarget([&] {
      Guarded got(Dtype::kF32, 1, kCount, 0);
      Activate(activation, x.Floats(), got.View());
      double worst = 0;
      double worst_absolute = 0;
      for (int64_t i = 0; i < kCount; ++i) {
        const double want = reference::Activate(activation, static_cast<double>(x.At(0, i)));
        const double error = std::abs(static_cast<double>(got.At(0, i)) - want);
        worst_absolute = std::max(worst_absolute, error / std::max(1.0, std::abs(want)));
        if (std::abs(want) > 1e-7) worst = std::max(worst, error / std::abs(want));
      }
      EXPECT_LT(worst, 3e-6);
      EXPECT_LT(worst_absolute, 3e-7);
    });
  }
}

TEST(Activation, ExtremeValues) {
  const std::vector<float> values = {0.0f,  -0.0f,  1e-40f, -1e-40f, 1e4f,   -1e4f,
                                     1e30f, -1e30f, 88.0f,  -88.0f,  104.0f, -200.0f};
  Guarded x(Dtype::kF32, 1, static_cast<int64_t>(values.size()), 0);
  for (size_t i = 0; i < values.size(); ++i) x.Set(0, static_cast<int64_t>(i), values[i]);
  for (const Activation activation : kActivations) {
    ForEachTarget([&] {
      Guarded got(Dtype::kF32, 1, x.cols(), 0);
      Guarded want(Dtype::kF32, 1, x.cols(), 0);
      reference::Activate(activation, x.Floats(), want.View());
      Activate(activation, x.Floats(), got.View());
      ExpectNear(got, want, 1e-6, 1e-35);
    });
  }
}

TEST(GatedActivation, MatchesReference) {
  for (const Activation activation : kActivations) {
    for (const int64_t d : {1, 5, 64, 97, 3420}) {
      std::mt19937 random(3);
      Guarded up(Dtype::kF32, 20, d, 7);
      up.Fill(random);
      CheckRowKernel(
          d, 2.0f, 2e-6, 1e-12,
          [&](MatrixView<const float> x, AnyMatrixView out) {
            GatedActivate(activation, x, up.Floats().Rows(0, x.rows), out);
          },
          [&](MatrixView<const float> x, AnyMatrixView out) {
            reference::GatedActivate(activation, x, up.Floats().Rows(0, x.rows), out);
          });
    }
  }
}

TEST(Rope, MatchesReference) {
  std::mt19937 random(9);
  struct Shape {
    int64_t rows, heads, head_dim, half;
  };
  for (const Shape& s : std::vector<Shape>{{1, 1, 2, 1},
                                           {3, 2, 64, 32},
                                           {50, 5, 80, 40},
                                           {7, 3, 128, 64},
                                           {5, 2, 40, 13},
                                           {9, 2, 20, 0},
                                           {0, 2, 64, 32},
                                           {40, 16, 72, 18}}) {
    Guarded cos(Dtype::kF32, s.rows, s.half, 3);
    Guarded sin(Dtype::kF32, s.rows, s.half, 0);
    cos.Fill(random, 0.7f);
    sin.Fill(random, 0.7f);
    for (const int64_t extra : {0, 6}) {
      Guarded x(Dtype::kF32, s.rows, s.heads * s.head_dim, extra);
      x.Fill(random);
      Guarded want = x;
      reference::ApplyRope(x.Floats(), s.heads, s.head_dim, cos.Floats(), sin.Floats(), want.View());
      Guarded rounded(Dtype::kBF16, s.rows, s.heads * s.head_dim, extra);
      reference::ApplyRope(x.Floats(), s.heads, s.head_dim, cos.Floats(), sin.Floats(), rounded.View());
      ForEachTarget([&] {
        Guarded got = x;
        ApplyRope(got.Floats(), s.heads, s.head_dim, cos.Floats(), sin.Floats());
        ExpectNear(got, want, 1e-6, 1e-6);
        EXPECT_TRUE(got.Intact());
        for (Guarded* out : {&want, &rounded}) {  // into other memory
          Guarded other(out->View().dtype, s.rows, s.heads * s.head_dim, extra);
          ApplyRope(x.Floats(), s.heads, s.head_dim, cos.Floats(), sin.Floats(), other.View());
          if (out == &want) {
            EXPECT_TRUE(other.SameBits(got));
          } else {
            ExpectNear(other, rounded, 1e-6, 0.008);  // a rounding may fall to the other side
          }
          EXPECT_TRUE(other.Intact());
        }
      });
    }
  }
}

TEST(CosSin, MatchesReference) {
  std::mt19937 random(10);
  std::uniform_real_distribution<float> uniform(-1, 1);
  for (const float largest : {1.0f, 100.0f, 32768.0f, 1e6f}) {
    for (const int64_t d : {1, 3, 16, 40, 64}) {
      Guarded angles(Dtype::kF32, 21, d, 2);
      for (int64_t r = 0; r < 21; ++r) {
        for (int64_t c = 0; c < d; ++c) angles.Set(r, c, largest * uniform(random));
      }
      Guarded cos(Dtype::kF32, 21, d, 1);
      Guarded sin(Dtype::kF32, 21, d, 0);
      reference::CosSin(angles.Floats(), cos.Floats(), sin.Floats());
      ForEachTarget([&] {
        Guarded got_cos = angles;
        Guarded got_sin(Dtype::kF32, 21, d, 0);
        CosSin(got_cos.Floats(), got_cos.Floats(), got_sin.Floats());
        ExpectNear(got_cos, cos, 0, 3e-7);
        ExpectNear(got_sin, sin, 0, 3e-7);
        EXPECT_TRUE(got_cos.Intact());
        EXPECT_TRUE(got_sin.Intact());
      });
    }
  }
}

TEST(Convert, RoundsAsTheScalarDoes) {
  // Every bf16 neighbourhood: 16 upper bits times some lower ones; infinities, NaN and denormals among them.
  constexpr int64_t kCols = 65536;
  for (const uint32_t low : {0x0000u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
    Guarded x(Dtype::kF32, 1, kCols, 0);
    for (int64_t i = 0; i < kCols; ++i)
      x.Floats().Row(0)[i] = std::bit_cast<float>((static_cast<uint32_t>(i) << 16) | low);
    Guarded want(Dtype::kBF16, 1, kCols, 0);
    for (int64_t i = 0; i < kCols; ++i) static_cast<BF16*>(want.View().data)[i] = ToBF16(x.Floats().Row(0)[i]);
    ForEachTarget([&] {
      Guarded got(Dtype::kBF16, 1, kCols, 0);
      Convert(x.Floats(), got.View());
      EXPECT_TRUE(got.SameBits(want));
    });
  }
}

TEST(Convert, OddShapesStayInside) {
  std::mt19937 random(2);
  for (const int64_t d : kWidths) {
    Guarded x(Dtype::kF32, 5, d, 1);
    x.Fill(random);
    for (const Dtype dtype : {Dtype::kF32, Dtype::kBF16}) {
      Guarded want(dtype, 5, d, 3);
      reference::Convert(x.Floats(), want.View());
      ForEachTarget([&] {
        Guarded got(dtype, 5, d, 3);
        Convert(x.Floats(), got.View());
        EXPECT_TRUE(got.SameBits(want));
      });
    }
  }
}

TEST(ToFloats, EveryHalfFromAnyAlignment) {
  for (const Dtype dtype : {Dtype::kBF16, Dtype::kF16, Dtype::kF32}) {
    for (const size_t shift : {size_t{0}, size_t{1}, size_t{3}}) {
      constexpr int64_t kCount = 65536;
      std::vector<char> bytes(kCount * 4 + 8);
      for (uint32_t i = 0; i < kCount; ++i) {
        const uint32_t bits = dtype == Dtype::kF32 ? i * 65537u : i;
        std::memcpy(bytes.data() + shift + i * DtypeSize(dtype), &bits, DtypeSize(dtype));
      }
      std::vector<float> want(kCount);
      reference::ToFloats(bytes.data() + shift, dtype, kCount, want.data());
      ForEachTarget([&] {
        std::vector<float> got(kCount + 1, 7.0f);
        ToFloats(bytes.data() + shift, dtype, kCount - 1, got.data());
        EXPECT_EQ(got[kCount - 1], 7.0f);
        int64_t wrong = 0;
        for (size_t i = 0; i + 1 < kCount; ++i) {
          const bool nan = std::isnan(got[i]) && std::isnan(want[i]);
          if (!nan && std::bit_cast<uint32_t>(got[i]) != std::bit_cast<uint32_t>(want[i])) ++wrong;
        }
        EXPECT_EQ(wrong, 0) << DtypeName(dtype);
      });
    }
  }
}

// The level in use chooses the instruction set, the slow twins at the lowest.
TEST(Elementwise, FollowsTheLevelInUse) {
  std::mt19937 random(12);
  Guarded x(Dtype::kF32, 7, 133, 1);
  x.Fill(random);
  Guarded want(Dtype::kF32, 7, 133, 0);
  reference::Activate(Activation::kGeluErf, x.Floats(), want.View());
  std::vector<std::string> names;
  testing::ForEachCpuLevel([&](CpuLevel level) {
    Guarded got(Dtype::kF32, 7, 133, 0);
    Activate(Activation::kGeluErf, x.Floats(), got.View());
    ExpectNear(got, want, 2e-6, 1e-9);
    EXPECT_EQ(got.SameBits(want), level == CpuLevel::kReference);
    names.push_back(SimdTarget());
  });
  EXPECT_EQ(names.back(), "reference");
  if (BestCpuLevel() >= CpuLevel::kAvx512 && Cpu() == BestCpuLevel()) {
    EXPECT_EQ(names[names.size() - 3], "AVX2");
    EXPECT_THAT(names.front(), ::testing::StartsWith("AVX3"));
  }
}

TEST(Elementwise, SameBitsOnAnyNumberOfThreads) {
  std::mt19937 random(4);
  Guarded x(Dtype::kF32, 101, 1283, 0);
  x.Fill(random);
  const auto weight = RandomVector(random, 1283);
  Guarded norm(Dtype::kF32, 101, 1283, 0);
  Guarded activated(Dtype::kF32, 101, 1283, 0);
  {
    ScopedThreads threads(1);
    RmsNorm(x.Floats(), weight, 1e-6f, norm.View());
    Activate(Activation::kSilu, x.Floats(), activated.View());
  }
  for (const int count : {2, 3}) {
    ScopedThreads threads(count);
    Guarded got(Dtype::kF32, 101, 1283, 0);
    RmsNorm(x.Floats(), weight, 1e-6f, got.View());
    EXPECT_TRUE(got.SameBits(norm));
    Activate(Activation::kSilu, x.Floats(), got.View());
    EXPECT_TRUE(got.SameBits(activated));
  }
}

}  // namespace
}  // namespace purekv
