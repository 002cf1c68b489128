// A predictor of pages for tests: one of random numbers, its definition as plain loops, and its file.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kernels/page_convolution.h"

namespace purekv {

using PageRowsList = std::vector<std::vector<float>>;  // [64][pages]

inline PageConvolutionWeights RandomPredictor(uint32_t seed) {
  std::mt19937 random(seed);
  const auto draw = [&](size_t count, float scale) {
    std::uniform_real_distribution<float> unit(-scale, scale);
    std::vector<float> numbers(count);
    for (float& x : numbers) x = unit(random);
    return numbers;
  };
  PageConvolutionWeights weights;
  weights.conv1 = draw(16 * 9, 0.6F);
  weights.bias1 = draw(16, 0.3F);
  weights.conv2 = draw(32 * 16 * 9, 0.2F);
  weights.bias2 = draw(32, 0.2F);
  weights.conv3 = draw(32, 0.2F);
  weights.bias3 = draw(1, 0.2F)[0];
  return weights;
}

// The whole network, layer by layer.
inline std::vector<double> PlainScores(const PageConvolutionWeights& weights, const PageRowsList& rows) {
  const size_t height = rows.size(), width = rows[0].size();
  using Map = std::vector<std::vector<double>>;
  const auto convolve = [&](const std::vector<Map>& in, const std::vector<float>& kernel,
                            const std::vector<float>& bias) {
    std::vector<Map> out;
    for (size_t o = 0; o < bias.size(); ++o) {
      Map map(height, std::vector<double>(width, double(bias[o])));
      for (size_t r = 0; r < height; ++r) {
        for (size_t c = 0; c < width; ++c) {
          for (size_t i = 0; i < in.size(); ++i) {
            for (size_t tap = 0; tap < 9; ++tap) {
              const size_t row = r + tap / 3, column = c + tap % 3;  // one further in
              if (row < 1 || row > height || column < 1 || column > width) continue;
              map[r][c] += double(kernel[(o * in.size() + i) * 9 + tap]) * in[i][row - 1][column - 1];
            }
          }
          map[r][c] = std::max(map[r][c], 0.0);
        }
      }
      out.push_back(std::move(map));
    }
    return out;
  };
  Map first;
  for (const auto& row : rows) first.emplace_back(row.begin(), row.end());
  const auto last = convolve(convolve({first}, weights.conv1, weights.bias1), weights.conv2, weights.bias2);
  std::vector<double> scores(width, double(weights.bias3));
  for (size_t c = 0; c < width; ++c) {
    for (size_t o = 0; o < last.size(); ++o) {
      double mean = 0;
      for (size_t r = 0; r < height; ++r) mean += last[o][r][c] / double(height);
      scores[c] += double(weights.conv3[o]) * mean;
    }
  }
  return scores;
}

// A safetensors file of these tensors, in this order. shape and dtype as the header writes them.
struct FileTensor {
  std::string name, shape, dtype;
  std::vector<float> numbers;
};
inline std::vector<FileTensor> TensorsOf(const PageConvolutionWeights& weights) {
  return {{"conv1.weight", "[16,1,3,3]", "F32", weights.conv1},  {"conv1.bias", "[16]", "F32", weights.bias1},
          {"conv2.weight", "[32,16,3,3]", "F32", weights.conv2}, {"conv2.bias", "[32]", "F32", weights.bias2},
          {"conv3.weight", "[1,32,1]", "F32", weights.conv3},    {"conv3.bias", "[1]", "F32", {weights.bias3}}};
}
// metadata: a JSON object; empty: none.
inline std::string PredictorFile(const std::vector<FileTensor>& tensors, const std::string& metadata) {
  std::string header = "{", data;
  if (!metadata.empty()) header += "\"__metadata__\":" + metadata + (tensors.empty() ? "" : ",");
  for (size_t i = 0; i < tensors.size(); ++i) {
    const FileTensor& one = tensors[i];
    const std::string begin = std::to_string(data.size());
    data.append(reinterpret_cast<const char*>(one.numbers.data()), one.numbers.size() * sizeof(float));
    header += (i > 0 ? ",\"" : "\"") + one.name + "\":{\"dtype\":\"" + one.dtype + "\",\"shape\":" + one.shape +
              ",\"data_offsets\":[" + begin + "," + std::to_string(data.size()) + "]}";
  }
  header += "}";
  std::string length;
  for (int i = 0; i < 8; ++i) length.push_back(static_cast<char>(header.size() >> (8 * i)));
  return length + header + data;
}

}  // namespace purekv
