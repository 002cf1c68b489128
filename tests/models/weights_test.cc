#include "models/weights.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "base/any_matrix.h"
#include "base/bfloat16.h"
#include "base/matrix.h"

namespace purekv {
namespace {

// One matrix of bf16, which counts what it is given back.
class OneMatrix final : public TensorSource {
 public:
  OneMatrix(int64_t rows, int64_t in) : shape_({rows, in}), values_(static_cast<size_t>(rows * in)) {
    std::minstd_rand random(1);
    std::generate(values_.begin(), values_.end(), [&random] { return ToBF16(static_cast<float>(random()) / 4e9F); });
  }
  std::optional<TensorInfo> Find(const std::string&) const override { return TensorInfo{Dtype::kBF16, shape_}; }
  TensorData Read(const std::string&) const override {
    return {{Dtype::kBF16, shape_}, std::as_bytes(std::span(values_)), nullptr};
  }
  std::vector<std::string> Names() const override { return {"w"}; }
  void Release(const std::string&) const override { ++whole; }
  void ReleaseRows(const std::string&, int64_t first, int64_t count) const override {
    if (first < 0 || count < 0 || first + count > shape_[0]) outside = true;
    rows += count;
  }
  std::string Describe(const std::string&) const override { return "memory"; }

  mutable std::atomic<int64_t> rows = 0;
  mutable std::atomic<int> whole = 0;
  mutable std::atomic<bool> outside = false;

 private:
  Shape shape_;
  std::vector<BF16> values_;
};

NumberFormats Formats(WeightRequest request) {
  NumberFormats formats;
  formats.quantisation.request = request;
  return formats;
}

TEST(Weights, OfALargeTensorTheRowsAreGivenBackWhileItIsQuantised) {
  constexpr int64_t kIn = 64;
  constexpr int64_t kRows = (int64_t{64} << 20) / (kIn * 2) + 3;
  const std::vector<std::string> names = {"w"};
  const OneMatrix source(kRows, kIn);
  Matrix<float> x(1, kIn);
  for (int64_t i = 0; i < kIn; ++i) x.data()[i] = static_cast<float>(i % 7) - 3;
  const AnyMatrixView view{x.data(), Dtype::kF32, 1, kIn, kIn};
  for (const WeightRequest request : {WeightRequest::kInt8, WeightRequest::kInt4}) {
    source.rows = 0;
    source.whole = 0;
    const Linear linear = ReadLinear(source, names, {}, Formats(request), WeightRole::kProduct);
    EXPECT_EQ(source.whole, 1);
    EXPECT_FALSE(source.outside);
    // Once when they are looked at, once when they are quantised but for those in use at the end.
    EXPECT_LE(source.rows, 2 * kRows);
    EXPECT_GE(source.rows, 2 * kRows - 2048);
    const TensorData tensor = source.Read("w");
    const WeightRows rows{tensor.bytes.data(), Dtype::kBF16, kRows};
    const Linear direct({&rows, 1}, kIn, {}, FormatOf(Formats(request), WeightRole::kProduct), Dtype::kF32);
    Matrix<float> ours(1, kRows);
    Matrix<float> theirs(1, kRows);
    linear.Run(view, ours.View());
    direct.Run(view, theirs.View());
    EXPECT_EQ(std::memcmp(ours.data(), theirs.data(), sizeof(float) * static_cast<size_t>(kRows)), 0);
  }
}

TEST(Weights, ASmallTensorIsGivenBackWhole) {
  const OneMatrix source(512, 64);
  const std::vector<std::string> names = {"w"};
  ReadLinear(source, names, {}, Formats(WeightRequest::kInt8), WeightRole::kProduct);
  EXPECT_EQ(source.whole, 1);
  EXPECT_EQ(source.rows, 0);
}

}  // namespace
}  // namespace purekv
