// Rows of x in 8 bits times codes: integers that must be exact, and layers that are asked for such rows.
#include "kernels/int8_product.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/code_kernels.h"
#include "kernels/dense.h"
#include "kernels/packed_weights.h"
#include "kernels/random_codes.h"
#include "kernels/testing.h"

namespace purekv {
namespace {

using testing::ForEachCpuLevel;
using testing::Guarded;
using testing::Layouts;
using testing::RandomCodes;
using testing::ScopedThreads;

// Codes and rows at their ends give the largest sums.
TEST(Int8Product, SumsAreExact) {
  std::mt19937 random(31);
  for (const int64_t in : {32, 64, 96, 512, 1056, 18944}) {
    for (const int64_t n : {1, 2, 3, 7, 8, 31, 33}) {
      const bool ends = n == 7;
      constexpr int64_t kPanels = 2, kPanel = CodePanels::kPanel;
      const int64_t padded = (in + 63) / 64 * 64;
      std::vector<int8_t> codes(static_cast<size_t>(kPanels * padded * kPanel));
      for (int8_t& code : codes) code = static_cast<int8_t>(ends ? (random() % 2 == 0 ? -128 : 127) : random());
      Matrix<float> x(n, in);
      for (int64_t r = 0; r < n; ++r) {
        for (int64_t i = 0; i < in; ++i) {
          x.Row(r)[i] = static_cast<float>(static_cast<int>(random() % 255) - 127);
          if (ends) x.Row(r)[i] = r % 2 == 0 ? 127 : -127;
        }
        x.Row(r)[random() % static_cast<uint64_t>(in)] = 127;  // the scale is 1
      }
      ForEachCpuLevel([&](CpuLevel level) {
        if (level == CpuLevel::kReference) return;
        SCOPED_TRACE(std::to_string(n) + " rows of " + std::to_string(in) + ", " + Int8ProductName());
        Buffer scratch;
        const ByteRows rows({x.data(), Dtype::kF32, n, in, in}, {}, scratch);
        const int8_t* panels[kPanels] = {codes.data(), codes.data() + padded * kPanel};
        std::vector<int32_t> sums(static_cast<size_t>(kPanels * rows.padded_rows() * kPanel), -7);
        Int8Product(panels, rows, sums.data());
        for (int64_t p = 0; p < kPanels; ++p) {
          for (int64_t r = 0; r < n; ++r) {
            ASSERT_EQ(rows.scale(r), 1.0F);
            for (const int64_t o : {0, 1, 15, 16, 31}) {
              int64_t want = 0;
              for (int64_t i = 0; i < in; ++i) {
                want += panels[p][(i / 4 * kPanel + o) * 4 + i % 4] * static_cast<int64_t>(x.Row(r)[i]);
              }
              ASSERT_EQ(sums[static_cast<size_t>((p * rows.padded_rows() + r) * kPanel + o)], want) << p << r << o;
            }
          }
        }
      });
    }
  }
}

// What a layer must give: x rounded as the layer rounds it, times the weights; and x itself times the weights.
class Twin {
 public:
  Twin(Guarded& x, const std::vector<float>& w, bool channels, int64_t out)
      : want_(x.rows(), out), bound_(x.rows(), out), exact_(x.rows(), out), spread_(x.rows(), out) {
    const int64_t in = x.cols();
    for (int64_t r = 0; r < x.rows(); ++r) {
      float most = 0;
      for (int64_t i = 0; i < in; ++i) most = std::max(most, std::abs(x.At(r, i)));
      const float factor = 127 / most;  // in f32, as the layer: ties would fall otherwise
      const double step = static_cast<double>(most) / 127;
      for (int64_t o = 0; o < out; ++o) {
        const float* const row = w.data() + o * in;
        double largest = 0, want = 0, size = 0, of_x = 0, exact = 0;
        for (int64_t i = 0; i < in; ++i) {
          const auto weight = static_cast<double>(row[i]);
          const double rounded = static_cast<double>(std::nearbyint(x.At(r, i) * factor)) * step;
          largest = std::max(largest, std::abs(weight));
          want += rounded * weight;
          size += std::abs(rounded * weight);
          of_x += std::abs(rounded);
          exact += static_cast<double>(x.At(r, i)) * weight;
        }
        want_.Row(r)[o] = want;
        exact_.Row(r)[o] = exact;
        // Codes that are not bytes yet are rounded to half a 127th of the largest.
        bound_.Row(r)[o] = 1e-6 * size + (channels ? 0 : of_x * largest / 254);
        // Random roundings.
        const double steps = step + (channels ? 0 : largest / 127);
        spread_.Row(r)[o] = 1.5 * std::sqrt(static_cast<double>(in)) * largest * steps;
      }
    }
  }
  void Expect(Guarded& got) const {
    for (int64_t r = 0; r < want_.rows(); ++r) {
      for (int64_t o = 0; o < want_.cols(); ++o) {
        ASSERT_NEAR(got.At(r, o), want_.Row(r)[o], bound_.Row(r)[o]) << "row " << r << ", output " << o;
        ASSERT_NEAR(got.At(r, o), exact_.Row(r)[o], spread_.Row(r)[o]) << "row " << r << ", output " << o;
      }
    }
  }

 private:
  Matrix<double> want_, bound_, exact_, spread_;
};

TEST(Int8Rows, EqualATwinThatRoundsAlike) {
  std::mt19937 random(32);
  for (const QuantLayout& layout : Layouts()) {
    for (const auto& [in, out] : {std::pair<int64_t, int64_t>{128, 1}, {256, 33}, {384, 31}, {768, 97}}) {
      QuantLayout of = layout;
      if (!testing::For(in, &of)) continue;
      const RandomCodes codes(random, out, in, of, out == 33);
      const WeightRows rows = codes.Rows();
      std::vector<float> w(static_cast<size_t>(in * out));
      codes.Read(0, out, w.data());
      for (const Dtype dtype : {Dtype::kF32, Dtype::kBF16}) {
        for (const int64_t n : {9, 33, 70}) {
          Guarded x(dtype, n, in, 3);
          x.Fill(random);
          const Twin twin(x, w, of.storage == QuantStorage::kW8C, out);
          ForEachCpuLevel([&, in = in, out = out](CpuLevel level) {
            if (level == CpuLevel::kReference) return;
            LayerFormat format(NumberFormats::Of(dtype).weights);
            format.int8_rows = true;
            const Linear layer({&rows, 1}, in, {}, format, dtype);
            SCOPED_TRACE(testing::Describe(of) + ", " + std::to_string(n) + " rows, " + std::to_string(in) + " -> " +
                         std::to_string(out) + ": " + layer.Implementation(n));
            EXPECT_NE(layer.Implementation(n).find("int8 rows"), std::string::npos);
            EXPECT_EQ(layer.Implementation(8).find("int8 rows"), std::string::npos);
            Guarded y(Dtype::kF32, n, out, 5);
            layer.Run(x.View(), y.Floats());
            EXPECT_TRUE(y.Intact());
            twin.Expect(y);
          });
        }
      }
    }
  }
}

TEST(Int8Rows, SameBitsForAnyThreadsAndPieces) {
  std::mt19937 random(33);
  for (const QuantLayout& layout :
       {QuantLayout{QuantStorage::kW8C, 768, Dtype::kF32}, QuantLayout{QuantStorage::kW4G, 64, Dtype::kF16}}) {
    const RandomCodes codes(random, 200, 768, layout);
    const WeightRows rows = codes.Rows();
    ForEachCpuLevel([&](CpuLevel level) {
      if (level == CpuLevel::kReference) return;
      LayerFormat format(WeightFormat::kF32);
      format.int8_rows = true;
      const Linear layer({&rows, 1}, 768, {}, format, Dtype::kF32);
      Guarded x(Dtype::kF32, 700, 768, 1);
      x.Fill(random);
      Matrix<float> parts(700, 200), all(700, 200);
      for (const auto& [first, count] : {std::pair<int64_t, int64_t>{0, 9}, {9, 41}, {50, 650}}) {
        layer.Run(x.View().Rows(first, count), parts.View().Rows(first, count));
      }
      for (const int threads : {1, 2, 3}) {
        const ScopedThreads scope(threads);
        layer.Run(x.View(), all.View());
        ASSERT_EQ(0, std::memcmp(all.data(), parts.data(), 700 * 200 * sizeof(float))) << threads << " threads";
      }
    });
  }
}

TEST(Int8Rows, WhatIsNotFiniteShowsInItsRow) {
  std::mt19937 random(34);
  const RandomCodes codes(random, 32, 256, {QuantStorage::kW8C, 256, Dtype::kF32});
  const WeightRows rows = codes.Rows();
  ForEachCpuLevel([&](CpuLevel level) {
    if (level == CpuLevel::kReference) return;
    LayerFormat format(WeightFormat::kF32);
    format.int8_rows = true;
    const Linear layer({&rows, 1}, 256, {}, format, Dtype::kF32);
    for (const float bad : {INFINITY, -INFINITY, NAN}) {
      Guarded x(Dtype::kF32, 12, 256, 0), y(Dtype::kF32, 12, 32, 0);
      x.Fill(random);
      x.Set(5, 200, bad);
      for (int64_t i = 0; i < 256; ++i) x.Set(7, i, 0);
      layer.Run(x.View(), y.Floats());
      for (int64_t o = 0; o < 32; ++o) {
        for (int64_t r = 0; r < 12; ++r) EXPECT_EQ(std::isfinite(y.At(r, o)), r != 5) << r;
        EXPECT_EQ(y.At(7, o), 0.0F);
      }
    }
  });
}

TEST(Int8Rows, GatesAndBiasesComeBehindTheSums) {
  std::mt19937 random(35);
  const QuantLayout layout{QuantStorage::kW8C, 256, Dtype::kF32};
  const RandomCodes gate(random, 75, 256, layout), up(random, 75, 256, layout);
  const WeightRows parts[] = {gate.Rows(), up.Rows()};
  std::vector<float> bias(150);
  for (float& one : bias) one = std::normal_distribution<float>()(random);
  ForEachCpuLevel([&](CpuLevel level) {
    if (level == CpuLevel::kReference) return;
    LayerFormat format(WeightFormat::kF32);
    format.int8_rows = true;
    const GatedLinear gated(parts[0], parts[1], 256, bias, format, Dtype::kF32);
    const Linear stacked(parts, 256, bias, format, Dtype::kF32);
    Guarded x(Dtype::kF32, 20, 256, 0), y(Dtype::kF32, 20, 75, 2), all(Dtype::kF32, 20, 150, 2);
    x.Fill(random);
    gated.Run(Activation::kSilu, x.View(), y.View());
    stacked.Run(x.View(), all.Floats());
    EXPECT_TRUE(y.Intact());
    for (int64_t r = 0; r < 20; ++r) {
      for (int64_t o = 0; o < 75; ++o) {
        const double g = static_cast<double>(all.At(r, o)), u = static_cast<double>(all.At(r, 75 + o));
        ASSERT_NEAR(y.At(r, o), g / (1 + std::exp(-g)) * u, 1e-5 * (1 + std::abs(g * u)));
      }
    }
  });
}

}  // namespace
}  // namespace purekv
