// The quantisers: vectors, the scalar twin, and weights that are hard on a scale.
#include "kernels/quantise.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <vector>

#include "base/quant_matrix.h"
#include "kernels/testing.h"

namespace purekv {
namespace {

using testing::ForEachCpuLevel;
using Json = nlohmann::json;

float Int4Value(uint8_t code, const Int4Group& group) {
  float value = 0;
  QuantValues({QuantStorage::kW4G, 1, Dtype::kF16}, 1, &code, &group.scale, &group.zero, &value);
  return value;
}

float Int8Value(uint8_t code, float scale) {
  float value = 0;
  QuantValues({QuantStorage::kW8C, 1, Dtype::kF32}, 1, &code, &scale, nullptr, &value);
  return value;
}

std::vector<Json> OwnVectors() {
  std::ifstream file(PUREKV_TEST_DATA "/weights/weights_vectors.json");
  EXPECT_TRUE(file) << "no vectors";
  std::vector<Json> own;
  const Json all = Json::parse(file);
  for (const Json& one : all.at("vectors")) {
    if (one.at("format") == "own") own.push_back(one);
  }
  return own;
}

TEST(Quantise, Vectors) {
  const std::vector<Json> vectors = OwnVectors();
  ASSERT_EQ(vectors.size(), 3u);
  for (const Json& v : vectors) {
    SCOPED_TRACE(v.at("name").get<std::string>());
    const auto w = v.at("w").get<std::vector<float>>();
    const auto want = v.at("codes").get<std::vector<int>>();
    const auto values = v.at("W").at(0).get<std::vector<float>>();
    ForEachCpuLevel([&](CpuLevel) {
      std::vector<uint8_t> codes(w.size());
      Int4Group group;
      const bool bytes = v.at("storage") == "W8C";
      if (bytes) {
        group.scale = QuantiseInt8(w, codes.data());
      } else {
        group = QuantiseInt4(w, codes.data());
        EXPECT_EQ(int{group.zero}, v.at("zero16").get<int>());
      }
      EXPECT_EQ(group.scale, v.at("scale").get<float>());
      for (size_t i = 0; i < w.size(); ++i) {
        EXPECT_EQ(bytes ? int{static_cast<int8_t>(codes[i])} : int{codes[i]}, want[i]) << i;
        EXPECT_EQ(bytes ? Int8Value(codes[i], group.scale) : Int4Value(codes[i], group), values[i]) << i;
      }
    });
  }
}

double SquaredError(const std::vector<float>& w, const std::vector<uint8_t>& codes, const Int4Group& group) {
  double sum = 0;
  for (size_t i = 0; i < w.size(); ++i) {
    const double far = static_cast<double>(w[i]) - static_cast<double>(Int4Value(codes[i], group));
    sum += far * far;
  }
  return sum;
}

TEST(Quantise, Int4IsAsGoodAsTheScalarTwin) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0, 0.02F);
  std::student_t_distribution<float> heavy(4);
  for (const size_t size : {32u, 64u, 128u}) {
    for (const bool tails : {false, true}) {
      ForEachCpuLevel([&](CpuLevel) {
        double error = 0, twin_error = 0, energy = 0;
        std::vector<float> w(size);
        std::vector<uint8_t> codes(size), twin(size);
        for (int trial = 0; trial < 200; ++trial) {
          for (float& one : w) one = tails ? 0.02F * heavy(random) : normal(random);
          const Int4Group group = QuantiseInt4(w, codes.data());
          error += SquaredError(w, codes, group);
          const Int4Group twin_group = reference::QuantiseInt4(w, twin.data());
          twin_error += SquaredError(w, twin, twin_group);
          for (const float one : w) energy += static_cast<double>(one) * static_cast<double>(one);
        }
        EXPECT_NEAR(error / twin_error, 1, 1e-3) << size;
        if (!tails) {
          EXPECT_NEAR(error / energy, size == 32 ? 5.2e-3 : size == 64 ? 7.0e-3 : 8.7e-3, 3e-4) << size;
        }
      });
    }
  }
}

TEST(Quantise, HardGroups) {
  ForEachCpuLevel([](CpuLevel) {
    std::vector<uint8_t> codes(64, 255);
    // Zeros, and a negative zero.
    std::vector<float> w(64, 0.0F);
    w[5] = -0.0F;
    EXPECT_EQ(QuantiseInt4(w, codes.data()).scale, 0.0F);
    EXPECT_EQ(codes, std::vector<uint8_t>(64, 0));
    EXPECT_EQ(QuantiseInt8(w, codes.data()), 0.0F);
    EXPECT_EQ(codes, std::vector<uint8_t>(64, 0));
    // One outlier: it is kept, whatever becomes of the others.
    std::ranges::fill(w, 0.01F);
    w[17] = 1e4F;
    Int4Group group = QuantiseInt4(w, codes.data());
    EXPECT_NEAR(Int4Value(codes[17], group), 1e4F, 400);
    // A constant group is (nearly) exact, either sign.
    for (const float value : {0.37F, -0.37F}) {
      std::ranges::fill(w, value);
      group = QuantiseInt4(w, codes.data());
      for (const uint8_t code : codes) {
        EXPECT_NEAR(Int4Value(code, group), value, 4e-4);
      }
    }
    // Subnormal and huge values: no infinity, no NaN.
    for (const float size : {1e-40F, 3e38F}) {
      for (size_t i = 0; i < w.size(); ++i) w[i] = size * (i % 2 == 0 ? 1.0F : -1.0F);
      group = QuantiseInt4(w, codes.data());
      EXPECT_TRUE(std::isfinite(group.scale));
      EXPECT_LE(*std::ranges::max_element(codes), 15);
      EXPECT_TRUE(std::isfinite(QuantiseInt8(w, codes.data())));
    }
  });
}

TEST(Quantise, Int8RoundsToEven) {
  ForEachCpuLevel([](CpuLevel) {
    const std::vector<float> w = {127, -127, 0.5F, 1.5F, 2.5F, -0.5F, -1.5F, 126.6F, 3};
    std::vector<uint8_t> codes(w.size());
    EXPECT_EQ(QuantiseInt8(w, codes.data()), 1.0F);
    const std::vector<int> want = {127, -127, 0, 2, 2, 0, -2, 127, 3};
    for (size_t i = 0; i < w.size(); ++i) EXPECT_EQ(int{static_cast<int8_t>(codes[i])}, want[i]);
  });
}

}  // namespace
}  // namespace purekv
