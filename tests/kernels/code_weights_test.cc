// Layers whose weights are integer codes, against double sums over the numbers that the codes stand for.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <vector>

#include "base/quant_matrix.h"
#include "kernels/code_kernels.h"
#include "kernels/code_panels.h"
#include "kernels/dense.h"
#include "kernels/packed_weights.h"
#include "kernels/random_codes.h"
#include "kernels/testing.h"

namespace purekv {
namespace {

using testing::Describe;
using testing::For;
using testing::ForEachCpuLevel;
using testing::Guarded;
using testing::Layouts;
using testing::RandomCodes;
using testing::ScopedThreads;

// Rows of floats as the parts have them.
std::vector<float> Floats(const std::vector<const RandomCodes*>& parts) {
  std::vector<float> all;
  for (const RandomCodes* part : parts) {
    std::vector<float> rows(static_cast<size_t>(part->rows() * part->in()));
    part->Read(0, part->rows(), rows.data());
    all.insert(all.end(), rows.begin(), rows.end());
  }
  return all;
}

// Sums over x and rows of w in double, and of |x| |w|.
class Sums {
 public:
  Sums(Guarded& x, const std::vector<float>& w, int64_t out) : want_(x.rows(), out), size_(x.rows(), out) {
    const int64_t in = x.cols();
    for (int64_t r = 0; r < x.rows(); ++r) {
      for (int64_t o = 0; o < out; ++o) {
        double want = 0, size = 0;
        for (int64_t i = 0; i < in; ++i) {
          const double product =
              static_cast<double>(x.At(r, i)) * static_cast<double>(w[static_cast<size_t>(o * in + i)]);
          want += product;
          size += std::abs(product);
        }
        want_.Row(r)[o] = want;
        size_.Row(r)[o] = size;
      }
    }
  }
  // |got - sum| <= bound * sum of |x| |w|, for every output.
  void Expect(Guarded& got, double bound) const {
    for (int64_t r = 0; r < want_.rows(); ++r) {
      for (int64_t o = 0; o < want_.cols(); ++o) {
        ASSERT_NEAR(got.At(r, o), want_.Row(r)[o], bound * size_.Row(r)[o] + 1e-30) << "row " << r << ", output " << o;
      }
    }
  }

 private:
  Matrix<double> want_, size_;
};

TEST(CodeWeights, EqualSumsOverTheNumbersTheyStandFor) {
  std::mt19937 random(11);
  for (const QuantLayout& layout : Layouts()) {
    for (const auto& [in, out] : {std::pair<int64_t, int64_t>{128, 1}, {256, 33}, {384, 31}, {768, 96}, {1280, 97}}) {
      QuantLayout of = layout;
      if (!For(in, &of)) continue;
      const RandomCodes codes(random, out, in, of, out == 33);
      const WeightRows rows = codes.Rows();
      const std::vector<float> w = Floats({&codes});
      for (const Dtype dtype : {Dtype::kF32, Dtype::kBF16}) {
        for (const int64_t n : {1, 2, 3, 5, 8, 9, 33}) {
          Guarded x(dtype, n, in, 3);
          x.Fill(random);
          const Sums sums(x, w, out);
          ForEachCpuLevel([&, in = in, out = out](CpuLevel) {
            const Linear layer({&rows, 1}, in, {}, NumberFormats::Of(dtype).weights, dtype);
            EXPECT_STREQ(layer.storage(), StorageName(of.storage));
            SCOPED_TRACE(Describe(of) + ", " + std::to_string(n) + " rows, " + std::to_string(in) + " -> " +
                         std::to_string(out) + ": " + layer.Implementation(n));
            Guarded y(Dtype::kF32, n, out, 5);
            layer.Run(x.View(), y.Floats());
            EXPECT_TRUE(y.Intact());
            const bool few = layer.Implementation(n).find("matrix-vector") != std::string::npos;
            // Few rows: 15 bits of x. Many: weights as bf16 where x is.
            sums.Expect(y, few ? 5e-5 : dtype == Dtype::kBF16 ? 3e-3 : 1e-6);
          });
        }
      }
    }
  }
}

// The inputs beside it are rounded to steps of a thirty-second: no result may be off by more than half a step of each
// of them, and over all outputs the errors stay small beside the results.
TEST(CodeWeights, OneInputAThousandTimesTheOthers) {
  std::mt19937 random(12);
  constexpr int64_t kIn = 3584, kOut = 64, kSpike = 77, kShared = IntegerRows::kGroup;
  for (const QuantLayout& layout : Layouts()) {
    QuantLayout of = layout;
    ASSERT_TRUE(For(kIn, &of));
    const RandomCodes codes(random, kOut, kIn, of);
    const WeightRows rows = codes.Rows();
    const std::vector<float> w = Floats({&codes});
    ForEachCpuLevel([&](CpuLevel) {
      const Linear layer({&rows, 1}, kIn, {}, WeightFormat::kF32, Dtype::kF32);
      Guarded x(Dtype::kF32, 1, kIn, 0), y(Dtype::kF32, 1, kOut, 0);
      x.Fill(random);
      x.Set(0, kSpike, 1000);
      layer.Run(x.View(), y.Floats());
      double errors = 0, sizes = 0;
      for (int64_t o = 0; o < kOut; ++o) {
        double want = 0, size = 0, beside = 0;
        for (int64_t i = 0; i < kIn; ++i) {
          const auto weight = static_cast<double>(w[static_cast<size_t>(o * kIn + i)]);
          want += static_cast<double>(x.At(0, i)) * weight;
          size += std::abs(static_cast<double>(x.At(0, i)) * weight);
          if (i < kShared) beside += std::abs(weight);
        }
        const double error = std::abs(static_cast<double>(y.At(0, o)) - want);
        ASSERT_LE(error, 1000.0 / 65024 * beside + 2e-5 * size) << Describe(of) << ", output " << o;
        errors += error;
        sizes += size;
      }
      EXPECT_LT(errors / sizes, 1e-4) << Describe(of);
    });
  }
}

TEST(CodeWeights, WhatIsNotFiniteShows) {
  std::mt19937 random(13);
  for (const QuantLayout& layout : Layouts()) {
    QuantLayout of = layout;
    ASSERT_TRUE(For(256, &of));
    const RandomCodes codes(random, 32, 256, of);
    const WeightRows rows = codes.Rows();
    ForEachCpuLevel([&](CpuLevel) {
      const Linear layer({&rows, 1}, 256, {}, WeightFormat::kF32, Dtype::kF32);
      for (const float bad : {INFINITY, -INFINITY, NAN}) {
        Guarded x(Dtype::kF32, 2, 256, 0), y(Dtype::kF32, 2, 32, 0);
        x.Fill(random);
        x.Set(1, 200, bad);
        layer.Run(x.View(), y.Floats());
        for (int64_t o = 0; o < 32; ++o) {
          EXPECT_TRUE(std::isfinite(y.At(0, o)));
          EXPECT_FALSE(std::isfinite(y.At(1, o)) && y.At(1, o) != 0) << y.At(1, o);
        }
      }
    });
  }
}

// The order in memory and back: what is expanded is what was put in, bit for bit.
TEST(CodeWeights, PanelsGiveBackWhatTheyWereGiven) {
  std::mt19937 random(14);
  for (const QuantLayout& layout : Layouts()) {
    for (const auto& [in, out] : {std::pair<int64_t, int64_t>{512, 96}, {384, 33}, {128, 1}}) {
      QuantLayout of = layout;
      if (!For(in, &of)) continue;
      const RandomCodes codes(random, out, in, of);
      CodePanels panels(out, in, of);
      std::vector<uint8_t> row(static_cast<size_t>(in)), bytes(static_cast<size_t>(in));
      std::vector<float> numbers(static_cast<size_t>(in));
      for (int64_t o = 0; o < out; ++o) {
        codes.ReadCodes(o, row.data(), numbers.data(), bytes.data());
        panels.SetRow(o, row.data(), numbers.data(), bytes.data());
      }
      const std::vector<float> want = Floats({&codes});
      ForEachCpuLevel([&, in = in, out = out](CpuLevel) {
        std::vector<float> got(want.size());
        ExpandRows(panels, 0, out, Dtype::kF32, got.data());
        std::vector<BF16> rounded(want.size());
        ExpandRows(panels, 0, out, Dtype::kBF16, rounded.data());
        for (size_t i = 0; i < got.size(); ++i) {
          const bool channels = of.storage == QuantStorage::kW8C;
          const float scale = channels ? panels.row_scales()[i / static_cast<size_t>(in)] : 1.0F;
          ASSERT_EQ(got[i] * scale, want[i]) << Describe(of) << " " << i;
          ASSERT_EQ(rounded[i].bits, ToBF16(channels ? got[i] : want[i]).bits) << Describe(of) << " " << i;
        }
      });
    }
  }
}

// Tiles of bf16 hold the bits of expanded rows, zeros where rows or inputs end.
TEST(CodeWeights, BlocksBecomeTilesOfTheSameBits) {
  std::mt19937 random(20);
  constexpr int64_t kPanel = CodePanels::kPanel, kBlock = CodePanels::kBlock;
  for (const QuantLayout& layout : Layouts()) {
    for (const auto& [in, out] : {std::pair<int64_t, int64_t>{512, 64}, {384, 33}, {128, 1}, {416, 40}}) {
      QuantLayout of = layout;
      if (!For(in, &of)) continue;
      const RandomCodes codes(random, out, in, of);
      CodePanels panels(out, in, of);
      std::vector<uint8_t> row(static_cast<size_t>(in)), bytes(static_cast<size_t>(in));
      std::vector<float> numbers(static_cast<size_t>(in));
      for (int64_t o = 0; o < out; ++o) {
        codes.ReadCodes(o, row.data(), numbers.data(), bytes.data());
        panels.SetRow(o, row.data(), numbers.data(), bytes.data());
      }
      ForEachCpuLevel([&, in = in, out = out](CpuLevel level) {
        if (level < CpuLevel::kAvx2) return;
        std::vector<BF16> want(static_cast<size_t>(in * out));
        ExpandRows(panels, 0, out, Dtype::kBF16, want.data());
        for (int64_t panel = 0; panel < panels.panels(); ++panel) {
          for (int64_t block = 0; block < panels.blocks(); ++block) {
            std::vector<BF16> got(static_cast<size_t>(panels.inputs(block) * kPanel), BF16{0x7FC0});
            ExpandBlockBF16(panels, panel, block, reinterpret_cast<char*>(got.data()));
            for (int64_t i = 0; i < panels.inputs(block); ++i) {
              for (int64_t o = 0; o < kPanel; ++o) {
                const int64_t input = block * kBlock + i, output = panel * kPanel + o;
                const bool inside = input < in && output < out;
                const uint16_t expected = inside ? want[static_cast<size_t>(output * in + input)].bits : 0;
                const uint16_t found = got[static_cast<size_t>((i / 2 * kPanel + o) * 2 + i % 2)].bits;
                ASSERT_EQ(found & (inside ? 0xFFFF : 0x7FFF), expected)
                    << Describe(of) << ", input " << input << ", output " << output;
              }
            }
          }
        }
      });
    }
  }
}

TEST(CodeWeights, SameBitsForAnyThreadsAndBesideAnyRows) {
  std::mt19937 random(15);
  for (const QuantLayout& layout : Layouts()) {
    QuantLayout of = layout;
    ASSERT_TRUE(For(768, &of));
    const RandomCodes codes(random, 200, 768, of);
    const WeightRows rows = codes.Rows();
    ForEachCpuLevel([&](CpuLevel level) {
      if (level == CpuLevel::kReference) return;
      const Linear layer({&rows, 1}, 768, {}, WeightFormat::kF32, Dtype::kF32);
      Guarded x(Dtype::kF32, 8, 768, 1);
      x.Fill(random);
      Matrix<float> alone(8, 200), together(8, 200);
      for (int64_t r = 0; r < 8; ++r) layer.Run(x.View().Rows(r, 1), alone.View().Rows(r, 1));
      for (const int threads : {1, 2, 3}) {
        const ScopedThreads scope(threads);
        layer.Run(x.View(), together.View(), false, RowSums::kAsAlone);
        ASSERT_EQ(0, std::memcmp(together.data(), alone.data(), 8 * 200 * sizeof(float))) << threads << " threads";
      }
    });
  }
}

TEST(CodeWeights, GatesAlternateAndPartsAreStacked) {
  std::mt19937 random(16);
  const QuantLayout layout{QuantStorage::kW4G, 64, Dtype::kF16};
  const RandomCodes gate(random, 75, 256, layout), up(random, 75, 256, layout);
  const WeightRows parts[] = {gate.Rows(), up.Rows()};
  std::vector<float> bias(150);
  for (float& one : bias) one = std::normal_distribution<float>()(random);
  const std::vector<float> w = Floats({&gate, &up});
  ForEachCpuLevel([&](CpuLevel level) {
    const GatedLinear gated(parts[0], parts[1], 256, bias, WeightFormat::kF32, Dtype::kF32);
    const Linear stacked(parts, 256, bias, WeightFormat::kF32, Dtype::kF32);
    EXPECT_STREQ(gated.storage(), "w4g");
    for (const int64_t n : {1, 4, 20}) {
      Guarded x(Dtype::kF32, n, 256, 0), y(Dtype::kF32, n, 75, 2), all(Dtype::kF32, n, 150, 2);
      x.Fill(random);
      gated.Run(Activation::kSilu, x.View(), y.View());
      stacked.Run(x.View(), all.Floats());
      EXPECT_TRUE(y.Intact());
      for (int64_t r = 0; r < n; ++r) {
        for (int64_t o = 0; o < 75; ++o) {
          const double g = static_cast<double>(all.At(r, o)), u = static_cast<double>(all.At(r, 75 + o));
          ASSERT_NEAR(y.At(r, o), g / (1 + std::exp(-g)) * u, 2e-4 * (1 + std::abs(g * u))) << CpuLevelName(level);
        }
      }
    }
  });
}

TEST(CodeWeights, MadeOnLoadFromPlainNumbers) {
  std::mt19937 random(17);
  std::vector<float> w(96 * 320);
  for (float& one : w) one = std::normal_distribution<float>(0, 0.05F)(random);
  const WeightRows rows{w.data(), Dtype::kF32, 96};
  ForEachCpuLevel([&](CpuLevel) {
    for (const auto& [request, group, storage, error] :
         {std::tuple<WeightRequest, int64_t, const char*, double>{WeightRequest::kInt8, 64, "w8c", 0.02},
          {WeightRequest::kInt4, 64, "w4g", 0.15},
          {WeightRequest::kInt4, 32, "w4g", 0.13}}) {
      const Linear plain({&rows, 1}, 320, {}, WeightFormat::kF32, Dtype::kF32);
      const Linear layer({&rows, 1}, 320, {}, LayerFormat(WeightFormat::kF32, request, group), Dtype::kF32);
      EXPECT_STREQ(layer.storage(), storage);
      EXPECT_LT(layer.packed_bytes(), plain.packed_bytes() / 2);
      for (const int64_t n : {2, 40}) {
        Guarded x(Dtype::kF32, n, 320, 0), y(Dtype::kF32, n, 96, 0), want(Dtype::kF32, n, 96, 0);
        x.Fill(random);
        layer.Run(x.View(), y.Floats());
        plain.Run(x.View(), want.Floats());
        double far = 0, size = 0;
        for (int64_t r = 0; r < n; ++r) {
          for (int64_t o = 0; o < 96; ++o) {
            far += std::pow(static_cast<double>(y.At(r, o)) - static_cast<double>(want.At(r, o)), 2);
            size += std::pow(static_cast<double>(want.At(r, o)), 2);
          }
        }
        EXPECT_LT(std::sqrt(far / size), error);
        EXPECT_GT(far, 0);
      }
    }
  });
  // 320 is no multiple of 128: the layer stays plain and says why.
  const Linear stays({&rows, 1}, 320, {}, LayerFormat(WeightFormat::kF32, WeightRequest::kInt4, 128), Dtype::kF32);
  EXPECT_STREQ(stays.storage(), "f32");
  ASSERT_FALSE(stays.Refused().empty());
  EXPECT_EQ(stays.Refused()[0], "codes: 320 inputs are no multiple of groups of 128");
}

TEST(CodeWeights, PartsOfUnlikeStorageAreMultipliedApart) {
  std::mt19937 random(18);
  const RandomCodes four(random, 50, 256, {QuantStorage::kW4G, 64, Dtype::kF16});
  const RandomCodes eight(random, 33, 256, {QuantStorage::kW8K, 16, Dtype::kF16});
  const RandomCodes moved(random, 32, 256, {QuantStorage::kW4G, 64, Dtype::kF16}, true);
  std::vector<float> plain(40 * 256);
  for (float& one : plain) one = std::normal_distribution<float>(0, 0.05F)(random);
  const WeightRows parts[] = {four.Rows(), eight.Rows(), {plain.data(), Dtype::kF32, 40}, moved.Rows()};
  std::vector<float> w = Floats({&four, &eight});
  w.insert(w.end(), plain.begin(), plain.end());
  const std::vector<float> last = Floats({&moved});
  w.insert(w.end(), last.begin(), last.end());
  std::vector<float> bias(155);
  for (float& one : bias) one = std::normal_distribution<float>()(random);
  ForEachCpuLevel([&](CpuLevel) {
    const Linear layer(parts, 256, bias, WeightFormat::kF32, Dtype::kF32);
    EXPECT_STREQ(layer.storage(), "mixed");
    std::map<std::string, int64_t> bytes;
    layer.AddStorage(&bytes);
    EXPECT_EQ(bytes.size(), 3u);
    for (const char* const form : {"w4g", "w8k", "f32"}) EXPECT_GT(bytes[form], 0) << form;
    for (const int64_t n : {3, 20}) {
      Guarded x(Dtype::kF32, n, 256, 0), y(Dtype::kF32, n, 155, 2);
      x.Fill(random);
      layer.Run(x.View(), y.Floats());
      EXPECT_TRUE(y.Intact());
      for (int64_t r = 0; r < n; ++r) {
        for (int64_t o = 0; o < 155; ++o) y.Set(r, o, y.At(r, o) - bias[static_cast<size_t>(o)]);
      }
      Sums(x, w, 155).Expect(y, 6e-5);
    }
  });
}

TEST(CodeWeights, GatesOfUnlikeStorageAreExpanded) {
  std::mt19937 random(19);
  const RandomCodes four(random, 32, 256, {QuantStorage::kW4G, 64, Dtype::kF16});
  const RandomCodes eight(random, 32, 256, {QuantStorage::kW8G, 64, Dtype::kF16});
  const RandomCodes moved(random, 32, 256, {QuantStorage::kW4G, 64, Dtype::kF16}, true);
  for (const auto& [second, why] : {std::pair<const RandomCodes*, std::string>{&eight, "stored differently"},
                                    {&moved, "inputs in different orders"}}) {
    const GatedLinear layer(four.Rows(), second->Rows(), 256, {}, WeightFormat::kF32, Dtype::kF32);
    EXPECT_STREQ(layer.storage(), "f32");
    ASSERT_FALSE(layer.Refused().empty());
    EXPECT_NE(layer.Refused()[0].find(why), std::string::npos) << layer.Refused()[0];
  }
}

}  // namespace
}  // namespace purekv
