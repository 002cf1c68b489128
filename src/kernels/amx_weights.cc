// bf16 weights in AMX's panels: own tile products for many rows, matrix-vector products for few.
#include <algorithm>

#include "base/error.h"
#include "base/threads.h"
#include "kernels/amx_matmul.h"
#include "kernels/few_rows.h"
#include "kernels/packed_weights.h"
#include "kernels/simd_target.h"

namespace purekv {
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

class AmxWeights : public PackedWeights {
 public:
  explicit AmxWeights(const LayerSource& source)
      : in_(source.in()), out_(source.rows()), panels_(amx::Panels(source.rows())) {
    packed_.Resize(static_cast<size_t>(amx::PackedBytes(panels_, in_)));
    constexpr int64_t kPackPanels = 16;
    Buffer block;
    for (int64_t first = 0; first < panels_; first += kPackPanels) {
      const int64_t count = std::min(kPackPanels, panels_ - first);
      const int64_t first_row = first * amx::kPanel;
      const int64_t rows = std::min(count * amx::kPanel, out_ - first_row);
      const auto* w = static_cast<const BF16*>(source.Rows(first_row, rows, Dtype::kBF16, block));
      ParallelFor(count, [&](int64_t i) {
        amx::PackWeightPanel(w + i * amx::kPanel * in_, std::min(amx::kPanel, rows - i * amx::kPanel), in_, first + i,
                             panels_, static_cast<char*>(packed_.data()));
      });
    }
  }

  void Run(AnyMatrixView x, const Epilogue& epilogue) const override {
    if (x.rows <= kMatrixVectorRows) {
      const int64_t in = amx::RoundUp(in_, amx::kPanel);
      return MultiplyFewRows(x, {packed_.data(), Dtype::kBF16, in, out_, amx::kPanel, amx::kBlockIn}, epilogue);
    }
    // Pieces of equal size: a last piece of few rows would read all weights for little.
    const int64_t pieces = (x.rows + kPieceRows - 1) / kPieceRows;
    const int64_t piece = amx::RoundUp((x.rows + pieces - 1) / pieces, amx::kPanel);
    for (int64_t row = 0; row < x.rows; row += piece) {
      const int64_t count = std::min(piece, x.rows - row);
      RunPiece(x.Rows(row, count), epilogue.Rows(row, count));
    }
  }

  const char* storage() const override { return "bf16"; }
  size_t bytes() const override { return packed_.allocated(); }
  std::string Name(int64_t rows) const override {
    return rows <= kMatrixVectorRows ? "avx512_bf16 matrix-vector (own)" : "amx_bf16 (own)";
  }

 private:
  struct Context {
    const Epilogue* epilogue;
    int64_t rows;
    int64_t out;
  };
  static void Done(const void* context, int64_t row_panel, int64_t weight_panel, const float* sums) {
    const auto& c = *static_cast<const Context*>(context);
    const int64_t row = row_panel * amx::kPanel;
    const int64_t col = weight_panel * amx::kPanel;
    Finish(sums, amx::kPanel, std::min(amx::kPanel, c.rows - row), std::min(amx::kPanel, c.out - col), row, col,
           *c.epilogue);
  }

  void RunPiece(AnyMatrixView x, const Epilogue& epilogue) const {
    const int64_t row_panels = amx::Panels(x.rows);
    static thread_local Buffer packed_x;
    Reserve(packed_x, std::max<int64_t>(kHugeScratch, amx::PackedBytes(row_panels, in_)));
    char* const rows = static_cast<char*>(packed_x.data());
    ParallelFor(row_panels, [&](int64_t panel) {
      amx::PackRowPanel(static_cast<const BF16*>(x.data), x.rows, x.stride, in_, panel, row_panels, rows);
    });
    const Context context{&epilogue, x.rows, out_};
    const int64_t count = std::clamp<int64_t>(panels_ / (kTasksPerThread * Threads()), 1, kTaskPanels);
    ParallelForRanges(panels_, count, [&](int64_t begin, int64_t end) {
      static thread_local Buffer sums;
      Reserve(sums, row_panels * (end - begin) * amx::kPanel * amx::kPanel * static_cast<int64_t>(sizeof(float)));
      amx::Task task;
      task.x = rows;
      task.weights = static_cast<const char*>(packed_.data());
      task.row_panels = row_panels;
      task.weight_panels = panels_;
      task.in = in_;
      task.first = begin;
      task.count = end - begin;
      task.sums = static_cast<float*>(sums.data());
      amx::Multiply(task, Done, &context);
    });
  }

  int64_t in_;
  int64_t out_;
  int64_t panels_;
  Buffer packed_;
};

}  // namespace

std::unique_ptr<PackedWeights> PackForAmx(const LayerSource& source, std::string* why) {
  *why = source.format() == WeightFormat::kBF16 ? WhyNot(CpuLevel::kAmxBf16) : "f32 weights";
  if (!why->empty()) return nullptr;
  return std::make_unique<AmxWeights>(source);
}

}  // namespace purekv
