// Reading .npy files of reference data and dumps in tests, and comparing arrays.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "media/npy.h"

namespace purekv {

template <class T>
struct Array {
  std::vector<int64_t> shape;
  std::vector<T> data;
  int64_t rows() const { return shape.empty() ? 0 : shape[0]; }
  int64_t cols() const { return rows() == 0 ? 0 : static_cast<int64_t>(data.size()) / rows(); }
  std::span<const T> Row(int64_t i) const { return {data.data() + i * cols(), static_cast<size_t>(cols())}; }
};

// A C-order array of T ("<f4", "<i4", "|u1"); fails the test when the file holds anything else.
template <class T>
Array<T> ReadArray(const std::string& path, const std::string& descr) {
  const std::string bytes = ReadFile(path, int64_t{1} << 30);
  const NpyHeader header = ParseNpyHeader(std::as_bytes(std::span(bytes)), path);
  EXPECT_EQ(header.descr, descr) << path;
  Array<T> array{header.shape, {}};
  size_t count = 1;
  for (const int64_t dim : header.shape) count *= static_cast<size_t>(dim);
  if (bytes.size() != header.data_offset + count * sizeof(T)) {
    ADD_FAILURE() << path << ": " << bytes.size() << " bytes";
    return array;
  }
  array.data.resize(count);
  std::memcpy(array.data.data(), bytes.data() + header.data_offset, count * sizeof(T));
  return array;
}
inline Array<float> ReadFloatArray(const std::string& path) {
  return ReadArray<float>(path, "<f4");
}
inline Array<int32_t> ReadIntArray(const std::string& path) {
  return ReadArray<int32_t>(path, "<i4");
}

inline double Norm(std::span<const float> x) {
  double sum = 0;
  for (const float value : x) sum += static_cast<double>(value) * static_cast<double>(value);
  return std::sqrt(sum);
}

inline double Distance(std::span<const float> x, std::span<const float> y) {
  EXPECT_EQ(x.size(), y.size());
  double sum = 0;
  for (size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
    const double difference = static_cast<double>(x[i]) - static_cast<double>(y[i]);
    sum += difference * difference;
  }
  return std::sqrt(sum);
}

// KL(p || q) of the softmax distributions of two rows of logits, in nats.
inline double KlDivergence(std::span<const float> p, std::span<const float> q) {
  const auto log_sum = [](std::span<const float> x) {
    double largest = -1e300;
    for (const float value : x) largest = std::max(largest, static_cast<double>(value));
    double sum = 0;
    for (const float value : x) sum += std::exp(static_cast<double>(value) - largest);
    return largest + std::log(sum);
  };
  const double lp = log_sum(p);
  const double lq = log_sum(q);
  double kl = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const double log_p = static_cast<double>(p[i]) - lp;
    kl += std::exp(log_p) * (log_p - (static_cast<double>(q[i]) - lq));
  }
  return kl;
}

}  // namespace purekv
