#include "kernels/bf16_product.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"
#include "kernels/few_rows.h"

namespace purekv {
namespace {

constexpr int64_t kPanel = ExpandedWeights::kPanel;
constexpr int64_t kSumStride = 64;  // of AddCachedPanelBF16
constexpr int64_t kPieceRows = 512;
constexpr int64_t kTaskPanels = 8;  // of one thread: they follow each other in memory
constexpr int64_t kTasksPerThread = 4;

void* Reserve(Buffer& buffer, int64_t bytes) {
  if (buffer.size() < static_cast<size_t>(bytes)) buffer.Resize(static_cast<size_t>(bytes));
  return buffer.data();
}

// x in whole pairs, with zeros behind the last input up to a multiple of 32.
AnyMatrixView Padded(AnyMatrixView x, Buffer& buffer) {
  const int64_t in = (x.cols + 31) / 32 * 32;
  const bool pairs = x.stride % 2 == 0 && reinterpret_cast<uintptr_t>(x.data) % sizeof(uint32_t) == 0;
  if (in == x.cols && pairs) return x;
  auto* const to = static_cast<BF16*>(Reserve(buffer, x.rows * in * static_cast<int64_t>(sizeof(BF16))));
  for (int64_t r = 0; r < x.rows; ++r) {
    std::memcpy(to + r * in, x.Rows(r, 1).data, static_cast<size_t>(x.cols) * sizeof(BF16));
    std::fill(to + r * in + x.cols, to + (r + 1) * in, BF16());
  }
  return {to, Dtype::kBF16, x.rows, in, in};
}

void MultiplyPiece(AnyMatrixView x, const ExpandedWeights& weights, const Epilogue& epilogue) {
  constexpr int64_t kBlock = ExpandedWeights::kBlock;
  const auto* const pairs = static_cast<const uint32_t*>(x.data);
  const int64_t panels = (weights.out + kPanel - 1) / kPanel;
  const int64_t count = std::clamp<int64_t>(panels / (kTasksPerThread * Threads()), 1, kTaskPanels);
  ParallelForRanges(panels, count, [&](int64_t begin, int64_t end) {
    static thread_local Buffer buffer;
    alignas(64) char block[kBlock * kPanel * sizeof(BF16)];
    auto* const sums = static_cast<float*>(Reserve(buffer, x.rows * kSumStride * static_cast<int64_t>(sizeof(float))));
    for (int64_t panel = begin; panel < end; ++panel) {
      std::fill_n(sums, x.rows * kSumStride, 0.0F);
      for (int64_t in = 0; in < x.cols; in += kBlock) {
        weights.expand(weights.context, panel, in / kBlock, block);
        AddCachedPanelBF16(pairs + in / 2, x.stride / 2, x.rows, block, std::min(kBlock, x.cols - in) / 2, sums);
      }
      const int64_t out = panel * kPanel;
      for (int64_t i = 0; weights.row_scales != nullptr && i < x.rows * kPanel; ++i) {
        sums[i / kPanel * kSumStride + i % kPanel] *= weights.row_scales[out + i % kPanel];
      }
      Finish(sums, kSumStride, x.rows, std::min(kPanel, weights.out - out), 0, out, epilogue);
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
