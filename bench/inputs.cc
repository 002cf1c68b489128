#include "inputs.h"

#include <algorithm>
#include <cmath>

#include "base/bfloat16.h"
#include "base/error.h"
#include "base/threads.h"

namespace purekv::bench {
namespace {

uint64_t Mix(uint64_t z) {
  z += 0x9E3779B97F4A7C15U;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
  return z ^ (z >> 31);
}

// Deviation 1.
float Value(uint64_t seed, int64_t i) {
  const uint64_t z = Mix(seed * 0x632BE59BD9B4E019U + static_cast<uint64_t>(i));
  const auto sum = static_cast<float>((z & 0xffff) + ((z >> 16) & 0xffff) + ((z >> 32) & 0xffff) + (z >> 48));
  return (sum - 131070.0F) * (1.7320508F / 65536.0F);
}

double At(const AnyMatrixView& view, int64_t row, int64_t col) {
  const int64_t i = row * view.stride + col;
  if (view.dtype == Dtype::kF32) return static_cast<double>(static_cast<const float*>(view.data)[i]);
  return static_cast<double>(ToFloat(static_cast<const BF16*>(view.data)[i]));
}

}  // namespace

void FillRandom(MatrixView<float> view, uint64_t seed, float deviation, bool round) {
  ParallelFor(view.rows, [&](int64_t row) {
    for (int64_t col = 0; col < view.cols; ++col) {
      const float x = deviation * Value(seed, row * view.cols + col);
      view.Row(row)[col] = round ? ToFloat(ToBF16(x)) : x;
    }
  });
}

void FillRandom(AnyMatrixView view, uint64_t seed, float deviation) {
  if (view.dtype == Dtype::kF32) {
    FillRandom(MatrixView<float>{static_cast<float*>(view.data), view.rows, view.cols, view.stride}, seed, deviation);
    return;
  }
  ParallelFor(view.rows, [&](int64_t row) {
    BF16* const to = static_cast<BF16*>(view.data) + row * view.stride;
    for (int64_t col = 0; col < view.cols; ++col) to[col] = ToBF16(deviation * Value(seed, row * view.cols + col));
  });
}

RandomCache::RandomCache(int64_t heads, int64_t length, int64_t head_dim, Dtype dtype, uint64_t seed)
    : length_(length), head_dim_(head_dim), dtype_(dtype) {
  for (int64_t head = 0; head < heads; ++head) {
    keys_.emplace_back(dtype, length, head_dim);
    values_.emplace_back(dtype, length, head_dim);
    FillRandom(keys_.back().View(), seed + 2 * static_cast<uint64_t>(head));
    FillRandom(values_.back().View(), seed + 2 * static_cast<uint64_t>(head) + 1);
  }
}

std::vector<KvHeadView> RandomCache::Heads(int64_t first, int64_t length) const {
  std::vector<KvHeadView> heads;
  for (size_t head = 0; head < keys_.size(); ++head) {
    heads.push_back({keys_[head].View().Rows(first, length).data, values_[head].View().Rows(first, length).data, length,
                     head_dim_, head_dim_, FormatOf(dtype_)});
  }
  return heads;
}

std::vector<std::pair<const char*, int64_t>> RandomCache::Stretches() {
  std::vector<std::pair<const char*, int64_t>> stretches;
  const int64_t bytes = length_ * head_dim_ * static_cast<int64_t>(DtypeSize(dtype_));
  for (auto* side : {&keys_, &values_}) {
    for (AnyMatrix& matrix : *side) stretches.emplace_back(static_cast<const char*>(matrix.View().data), bytes);
  }
  return stretches;
}

AttentionArgs ArgsOf(MatrixView<const float> q, int64_t heads, std::span<const KvHeadView> kv, AnyMatrixView out,
                     AttentionWorkspace* workspace) {
  AttentionArgs args;
  args.q = q;
  args.kv = kv;
  args.heads = heads;
  args.head_dim = q.cols / heads;
  args.scale = 1.0F / std::sqrt(static_cast<float>(args.head_dim));
  args.out = out;
  args.workspace = workspace;
  return args;
}

std::vector<int64_t> SampleRows(int64_t rows, int64_t block, int64_t count) {
  std::vector<int64_t> sample = {0, 1, block - 1, block, rows - 2, rows - 1};
  for (uint64_t i = 0; static_cast<int64_t>(sample.size()) < count; ++i) {
    sample.push_back(static_cast<int64_t>(Mix(i) % static_cast<uint64_t>(rows)));
  }
  std::erase_if(sample, [&](int64_t row) { return row < 0 || row >= rows; });
  std::sort(sample.begin(), sample.end());
  sample.erase(std::unique(sample.begin(), sample.end()), sample.end());
  return sample;
}

void CheckClose(const std::string& what, int64_t row_name, AnyMatrixView got, MatrixView<const float> want,
                int64_t width, double tolerance, double floor) {
  PUREKV_CHECK(got.rows == want.rows && got.cols == want.cols && want.cols % width == 0, got.cols, " ", want.cols);
  const double allowed = tolerance + (got.dtype == Dtype::kBF16 ? 1.0 / 256 : 0.0);
  for (int64_t row = 0; row < want.rows; ++row) {
    for (int64_t first = 0; first < want.cols; first += width) {
      double error = 0;
      double norm = 0;
      for (int64_t col = first; col < first + width; ++col) {
        const double expected = static_cast<double>(want.Row(row)[col]);
        const double difference = At(got, row, col) - expected;
        error += difference * difference;
        norm += expected * expected;
      }
      const double scale = std::max(std::sqrt(norm), floor * std::sqrt(static_cast<double>(width)));
      if (std::sqrt(error) <= allowed * scale) continue;
      Fail(what, ": row ", row_name + row, ", columns ", first, " .. ", first + width - 1, ": relative error ",
           std::sqrt(error) / scale, ", allowed ", allowed, "; first value ", At(got, row, first), ", reference ",
           want.Row(row)[first]);
    }
  }
}

void CheckClose(const std::string& what, double got, double want, double tolerance) {
  if (std::abs(got - want) <= tolerance * std::max(1e-30, std::abs(want))) return;
  Fail(what, ": ", got, ", reference ", want, ", allowed relative error ", tolerance);
}

}  // namespace purekv::bench
