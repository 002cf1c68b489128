// Random inputs, and the comparison of results with the reference twins.
#pragma once

#include <chrono>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "attention/attention.h"
#include "base/any_matrix.h"
#include "base/matrix.h"
#include "kernels/kv_view.h"

namespace purekv::bench {

// Values of mean 0 and the given deviation (sums of four uniform ones), in parallel; `round`: to bf16's grid.
void FillRandom(MatrixView<float> view, uint64_t seed, float deviation = 1, bool round = false);
void FillRandom(AnyMatrixView view, uint64_t seed, float deviation = 1);

// A cache of one layer: `heads` lists of `length` keys and values, rows one after another.
class RandomCache {
 public:
  RandomCache(int64_t heads, int64_t length, int64_t head_dim, Dtype dtype, uint64_t seed);
  // Of every head the entries [first, first + length).
  std::vector<KvHeadView> Heads(int64_t first, int64_t length) const;
  std::vector<KvHeadView> Heads() const { return Heads(0, length_); }
  // All keys and values as stretches of memory.
  std::vector<std::pair<const char*, int64_t>> Stretches();

 private:
  int64_t length_;
  int64_t head_dim_;
  Dtype dtype_;
  mutable std::vector<AnyMatrix> keys_, values_;
};

// Attention of these queries, causal, the logits scaled by 1 / sqrt(head_dim).
AttentionArgs ArgsOf(MatrixView<const float> q, int64_t heads, std::span<const KvHeadView> kv, AnyMatrixView out,
                     AttentionWorkspace* workspace = nullptr);

// Rows to look at: the ends, the edges of blocks of `block`, and some between.
std::vector<int64_t> SampleRows(int64_t rows, int64_t block, int64_t count);

// Throws Error with the numbers where a stretch of `width` columns of a row of `got` is further from `want` (f32) than
// `tolerance`, in the 2-norm, relative to the larger of want's norm and `floor` per column. bf16 results may be off by
// one rounding more.
void CheckClose(const std::string& what, int64_t row_name, AnyMatrixView got, MatrixView<const float> want,
                int64_t width, double tolerance, double floor = 0.5);
void CheckClose(const std::string& what, double got, double want, double tolerance);

// Largest relative error of bf16 and of f32 products (2-norm of a row of a head).
constexpr double kBf16Tolerance = 3e-3;
constexpr double kF32Tolerance = 1e-5;

// Seconds that a call takes.
template <class Body>
double Seconds(const Body& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace purekv::bench
