#include "kernels/amx_product.h"

#include <algorithm>

#include "base/memory.h"
#include "base/threads.h"

namespace purekv::amx {
namespace {

// Rows of x multiplied at a time, and panels of outputs of one task at most: 512 x 256 sums are 512 KB and stay in the
// L2 cache (2 MB) beside a block of x (256 KB) and the weights (128 KB, and as much coming). 1024 rows, or twice the
// outputs, need less from memory but push the sums out: the same speed at 4096^3, slower on narrow layers.
constexpr int64_t kPieceRows = 512;
constexpr int64_t kTaskPanels = 8;
constexpr int64_t kTasksPerThread = 4;
// Scratch of this size comes in huge pages.
constexpr size_t kHugeScratch = size_t{16} << 20;

void Reserve(Buffer& buffer, int64_t bytes) {
  if (buffer.size() < static_cast<size_t>(bytes)) buffer.Resize(static_cast<size_t>(bytes));
}

struct Context {
  const Epilogue* epilogue;
  const float* row_scales;
  int64_t rows;
  int64_t out;
};

void FinishBlock(const void* context, int64_t row_panel, int64_t weight_panel, const float* sums) {
  const auto& c = *static_cast<const Context*>(context);
  const int64_t row = row_panel * kPanel, col = weight_panel * kPanel;
  float scaled[kPanel * kPanel];
  if (c.row_scales != nullptr) {
    for (int64_t i = 0; i < kPanel * kPanel; ++i) scaled[i] = sums[i] * c.row_scales[col + i % kPanel];
    sums = scaled;
  }
  Finish(sums, kPanel, std::min(kPanel, c.rows - row), std::min(kPanel, c.out - col), row, col, *c.epilogue);
}

void MultiplyPiece(AnyMatrixView x, const Weights& weights, const Epilogue& epilogue) {
  const int64_t row_panels = Panels(x.rows), panels = Panels(weights.out);
  static thread_local Buffer packed_x;
  Reserve(packed_x, std::max<int64_t>(kHugeScratch, PackedBytes(row_panels, weights.in)));
  char* const rows = static_cast<char*>(packed_x.data());
  ParallelFor(row_panels, [&](int64_t panel) {
    PackRowPanel(static_cast<const BF16*>(x.data), x.rows, x.stride, weights.in, panel, row_panels, rows);
  });
  const Context context{&epilogue, weights.row_scales, x.rows, weights.out};
  const int64_t count = std::clamp<int64_t>(panels / (kTasksPerThread * Threads()), 1, kTaskPanels);
  ParallelForRanges(panels, count, [&](int64_t begin, int64_t end) {
    static thread_local Buffer sums;
    Reserve(sums, row_panels * (end - begin) * kPanel * kPanel * static_cast<int64_t>(sizeof(float)));
    Task task;
    task.x = rows;
    task.weights = weights.packed;
    task.expand = weights.expand;
    task.expand_context = weights.expand_context;
    task.row_panels = row_panels;
    task.weight_panels = panels;
    task.in = weights.in;
    task.first = begin;
    task.count = end - begin;
    task.sums = static_cast<float*>(sums.data());
    Multiply(task, FinishBlock, &context);
  });
}

}  // namespace

void MultiplyRows(AnyMatrixView x, const Weights& weights, const Epilogue& epilogue) {
  // Pieces of equal size: a last piece of few rows would read all weights for little.
  const int64_t pieces = (x.rows + kPieceRows - 1) / kPieceRows;
  const int64_t piece = RoundUp((x.rows + pieces - 1) / pieces, kPanel);
  for (int64_t row = 0; row < x.rows; row += piece) {
    const int64_t count = std::min(piece, x.rows - row);
    MultiplyPiece(x.Rows(row, count), weights, epilogue.Rows(row, count));
  }
}

}  // namespace purekv::amx
