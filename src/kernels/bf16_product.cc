#include "kernels/bf16_product.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"

#if defined(__x86_64__)

#include <immintrin.h>

// See amx_matmul.cc: the instruction set is for this code only, not for inline functions of the headers above.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512bf16")
#endif

namespace purekv {
namespace {

constexpr int64_t kPanel = ExpandedWeights::kPanel;

// sums[r * 32 + o] += x w for kRows rows and the 32 outputs of a block of `pairs` pairs of inputs. x: row stride in
// elements.
template <int kRows>
void AddRows(const BF16* x, int64_t stride, const char* w, int64_t pairs, float* sums) {
  __m512 acc[kRows][2];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < 2; ++v) acc[r][v] = _mm512_loadu_ps(sums + r * kPanel + v * 16);
  }
  for (int64_t p = 0; p < pairs; ++p) {
    const auto left = (__m512bh)_mm512_loadu_si512(w + p * kPanel * 4);
    const auto right = (__m512bh)_mm512_loadu_si512(w + p * kPanel * 4 + 64);
    for (int r = 0; r < kRows; ++r) {
      int32_t bits;
      std::memcpy(&bits, x + r * stride + 2 * p, sizeof(bits));
      const auto pair = (__m512bh)_mm512_set1_epi32(bits);
      acc[r][0] = _mm512_dpbf16_ps(acc[r][0], pair, left);
      acc[r][1] = _mm512_dpbf16_ps(acc[r][1], pair, right);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < 2; ++v) _mm512_storeu_ps(sums + r * kPanel + v * 16, acc[r][v]);
  }
}

constexpr int64_t kTile = 8;  // rows that share a load of the weights: with them 18 of 32 registers are taken

void AddBlock(const BF16* x, int64_t stride, int64_t rows, const char* w, int64_t pairs, float* sums) {
  for (; rows >= kTile; rows -= kTile, x += kTile * stride, sums += kTile * kPanel) {
    AddRows<kTile>(x, stride, w, pairs, sums);
  }
  switch (rows) {
    case 1:
      return AddRows<1>(x, stride, w, pairs, sums);
    case 2:
      return AddRows<2>(x, stride, w, pairs, sums);
    case 3:
      return AddRows<3>(x, stride, w, pairs, sums);
    case 4:
      return AddRows<4>(x, stride, w, pairs, sums);
    case 5:
      return AddRows<5>(x, stride, w, pairs, sums);
    case 6:
      return AddRows<6>(x, stride, w, pairs, sums);
    case 7:
      return AddRows<7>(x, stride, w, pairs, sums);
    default:
      return;
  }
}

}  // namespace
}  // namespace purekv

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#else

namespace purekv {
namespace {
void AddBlock(const BF16*, int64_t, int64_t, const char*, int64_t, float*) {
  PUREKV_CHECK(false, "no AVX512-BF16");
}
}  // namespace
}  // namespace purekv

#endif

namespace purekv {
namespace {

constexpr int64_t kPieceRows = 512;
constexpr int64_t kTaskPanels = 8;  // of one thread: they follow each other in memory
constexpr int64_t kTasksPerThread = 4;

void* Reserve(Buffer& buffer, int64_t bytes) {
  if (buffer.size() < static_cast<size_t>(bytes)) buffer.Resize(static_cast<size_t>(bytes));
  return buffer.data();
}

// x with zeros behind the last input, up to a multiple of 32.
AnyMatrixView Padded(AnyMatrixView x, Buffer& buffer) {
  const int64_t in = (x.cols + 31) / 32 * 32;
  if (in == x.cols) return x;
  auto* const to = static_cast<BF16*>(Reserve(buffer, x.rows * in * static_cast<int64_t>(sizeof(BF16))));
  for (int64_t r = 0; r < x.rows; ++r) {
    std::memcpy(to + r * in, x.Rows(r, 1).data, static_cast<size_t>(x.cols) * sizeof(BF16));
    std::fill(to + r * in + x.cols, to + (r + 1) * in, BF16());
  }
  return {to, Dtype::kBF16, x.rows, in, in};
}

void MultiplyPiece(AnyMatrixView x, const ExpandedWeights& weights, const Epilogue& epilogue) {
  constexpr int64_t kBlock = ExpandedWeights::kBlock;
  const auto* const first_row = static_cast<const BF16*>(x.data);
  const int64_t panels = (weights.out + kPanel - 1) / kPanel;
  const int64_t count = std::clamp<int64_t>(panels / (kTasksPerThread * Threads()), 1, kTaskPanels);
  ParallelForRanges(panels, count, [&](int64_t begin, int64_t end) {
    static thread_local Buffer buffer;
    alignas(64) char block[kBlock * kPanel * sizeof(BF16)];
    auto* const sums = static_cast<float*>(Reserve(buffer, x.rows * kPanel * static_cast<int64_t>(sizeof(float))));
    for (int64_t panel = begin; panel < end; ++panel) {
      std::fill_n(sums, x.rows * kPanel, 0.0F);
      for (int64_t in = 0; in < x.cols; in += kBlock) {
        weights.expand(weights.context, panel, in / kBlock, block);
        AddBlock(first_row + in, x.stride, x.rows, block, std::min(kBlock, x.cols - in) / 2, sums);
      }
      const int64_t out = panel * kPanel;
      for (int64_t i = 0; weights.row_scales != nullptr && i < x.rows * kPanel; ++i) {
        sums[i] *= weights.row_scales[out + i % kPanel];
      }
      Finish(sums, kPanel, x.rows, std::min(kPanel, weights.out - out), 0, out, epilogue);
    }
  });
}

}  // namespace

void MultiplyRowsBF16(AnyMatrixView x, const ExpandedWeights& weights, const Epilogue& epilogue) {
  PUREKV_CHECK(x.dtype == Dtype::kBF16 && x.cols == weights.in, DtypeName(x.dtype), " rows of ", x.cols,
               " inputs, not bf16 of ", weights.in);
  static thread_local Buffer padded;
  const AnyMatrixView rows = Padded(x, padded);
  for (int64_t row = 0; row < rows.rows; row += kPieceRows) {
    const int64_t count = std::min(kPieceRows, rows.rows - row);
    MultiplyPiece(rows.Rows(row, count), weights, epilogue.Rows(row, count));
  }
}

}  // namespace purekv
