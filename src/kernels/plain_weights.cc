// Weights as plain rows: what the reference reads, and what processors without fast bf16 products keep. bf16 rows take
// half the memory of f32 ones and are widened where they are used: by the matrix-vector kernels in registers, for many
// rows a chunk at a time. So numbers that are bf16 in the file stay so under f32 arithmetic, too: the same results, bit
// for bit, and decoding reads half the bytes.
#include <algorithm>
#include <cstring>

#include "base/cpu.h"
#include "base/error.h"
#include "kernels/expanded_product.h"
#include "kernels/few_rows.h"
#include "kernels/packed_weights.h"
#include "kernels/reference.h"
#include "kernels/simd_target.h"

namespace purekv {
namespace {

constexpr int64_t kRows = 512;  // copied at a time

class PlainWeights : public PackedWeights {
 public:
  explicit PlainWeights(const LayerSource& source)
      : in_(source.in()),
        out_(source.rows()),
        dtype_(source.Stores(Dtype::kBF16) ? Dtype::kBF16 : ElementDtype(source.format())),
        product_(in_, out_, Dtype::kF32) {
    const size_t row_bytes = static_cast<size_t>(in_) * DtypeSize(dtype_);
    rows_.Resize(static_cast<size_t>(out_) * row_bytes);
    Buffer block;
    for (int64_t first = 0; first < out_; first += kRows) {
      const int64_t count = std::min(kRows, out_ - first);
      const void* const rows =
          dtype_ == Dtype::kBF16 ? source.StoredBF16(first, count, block) : source.Rows(first, count, dtype_, block);
      std::memcpy(Row(first), rows, static_cast<size_t>(count) * row_bytes);
    }
  }

  void Run(AnyMatrixView x, const Epilogue& epilogue) const override {
    if (Cpu() == CpuLevel::kReference) return RunReference(x, epilogue);
    if (x.rows <= kMatrixVectorRows) return MultiplyFewRows(x, rows_.data(), dtype_, out_, epilogue);
    const auto expand = [this](int64_t first, int64_t count, Buffer& block) -> const void* {
      if (dtype_ == Dtype::kF32) return Row(first);
      const size_t bytes = static_cast<size_t>(count * in_) * sizeof(float);
      if (block.size() < bytes) block.Resize(bytes);
      ToFloats(Row(first), dtype_, count * in_, static_cast<float*>(block.data()));
      return block.data();
    };
    product_.Run(x, expand, nullptr, epilogue);
  }

  const char* storage() const override { return DtypeName(dtype_); }
  size_t bytes() const override { return rows_.allocated(); }
  std::string Name(int64_t rows) const override {
    const std::string widened = dtype_ == Dtype::kBF16 ? " (bf16 weights, widened)" : "";
    if (Cpu() == CpuLevel::kReference) return "reference";
    if (rows <= kMatrixVectorRows) return "highway " + SimdTarget() + " matrix-vector" + widened;
    return "onednn " + product_.Name(rows) + widened;
  }

 private:
  char* Row(int64_t row) const {
    return static_cast<char*>(const_cast<void*>(rows_.data())) + static_cast<size_t>(row * in_) * DtypeSize(dtype_);
  }

  void RunReference(AnyMatrixView x, const Epilogue& epilogue) const {
    const WeightRows all{rows_.data(), dtype_, out_};
    Matrix<float> sums(1, out_);
    for (int64_t row = 0; row < x.rows; ++row) {
      reference::Dense({&all, 1}, {}, dtype_, x.Rows(row, 1), sums.View(), false);
      Finish(sums.data(), out_, 1, out_, 0, 0, epilogue.Rows(row, 1));
    }
  }

  int64_t in_;
  int64_t out_;
  Dtype dtype_;
  ExpandedProduct product_;
  Buffer rows_;
};

}  // namespace

std::unique_ptr<PackedWeights> PackPlain(const LayerSource& source) {
  return std::make_unique<PlainWeights>(source);
}

}  // namespace purekv
