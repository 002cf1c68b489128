// Weights as plain rows in the compute dtype: what the reference reads, and what processors without fast bf16 products
// keep. bf16 rows take half the memory of f32 ones and are widened where they are used: by the matrix-vector kernels in
// registers, for many rows a chunk at a time (one conversion per kPiece products).
#include <algorithm>
#include <cstring>

#include "base/cpu.h"
#include "base/error.h"
#include "base/threads.h"
#include "kernels/few_rows.h"
#include "kernels/onednn.h"
#include "kernels/packed_weights.h"
#include "kernels/reference.h"
#include "kernels/simd_target.h"

namespace purekv {
namespace {

constexpr int64_t kPiece = 512;  // rows of x
constexpr int64_t kChunk = 256;  // outputs, of one thread at a time; fewer where threads would be idle
constexpr int64_t kSmallestChunk = 64;
constexpr int64_t kChunksPerThread = 4;

class PlainWeights : public PackedWeights {
 public:
  explicit PlainWeights(const LayerSource& source)
      : in_(source.in()), out_(source.rows()), dtype_(ElementDtype(source.format())) {
    const size_t row_bytes = static_cast<size_t>(in_) * DtypeSize(dtype_);
    rows_.Resize(static_cast<size_t>(out_) * row_bytes);
    Buffer block;
    for (int64_t first = 0; first < out_; first += kPiece) {
      const int64_t count = std::min(kPiece, out_ - first);
      std::memcpy(Row(first), source.Rows(first, count, dtype_, block), static_cast<size_t>(count) * row_bytes);
    }
  }

  void Run(AnyMatrixView x, const Epilogue& epilogue) const override {
    if (Cpu() == CpuLevel::kReference) return RunReference(x, epilogue);
    if (x.rows <= kMatrixVectorRows) return MultiplyFewRows(x, rows_.data(), dtype_, out_, epilogue);
    static thread_local Buffer floats_of_x;
    for (int64_t row = 0; row < x.rows; row += kPiece) {
      const int64_t count = std::min(kPiece, x.rows - row);
      const AnyMatrixView part = x.Rows(row, count);
      const Epilogue part_epilogue = epilogue.Rows(row, count);
      const bool dense = part.dtype == Dtype::kF32 && part.stride == part.cols;
      const float* const from = dense ? static_cast<const float*>(part.data) : Widen(part, floats_of_x);
      // A thread widens, multiplies and finishes its outputs while they are in its cache.
      int64_t chunk = kChunk;
      while (out_ < chunk * kChunksPerThread * Threads() && chunk > kSmallestChunk) chunk /= 2;
      ParallelForRanges(out_, chunk, [&](int64_t begin, int64_t end) {
        static thread_local Buffer floats_of_w, sums;
        const int64_t cols = end - begin;
        const AnyMatrixView w{Row(begin), dtype_, cols, in_, in_};
        const float* const weights = dtype_ == Dtype::kF32 ? static_cast<const float*>(w.data) : Widen(w, floats_of_w);
        float* const y = Floats(sums, count * cols);
        Multiply(count, from, cols, weights, y);
        Finish(y, cols, count, cols, 0, begin, part_epilogue);
      });
    }
  }

  size_t bytes() const override { return rows_.allocated(); }
  std::string Name(int64_t rows) const override {
    const std::string widened = dtype_ == Dtype::kBF16 ? " (bf16 weights, widened)" : "";
    if (Cpu() == CpuLevel::kReference) return "reference";
    if (rows <= kMatrixVectorRows) return "highway " + SimdTarget() + " matrix-vector" + widened;
    const onednn::OwnThreads one(1);
    try {
      return "onednn " + std::string(Desc(std::min(rows, kPiece), std::min(out_, kChunk)).impl_info_str()) + widened;
    } catch (const dnnl::error& error) {
      return std::string("onednn: ") + error.what();
    }
  }

 private:
  char* Row(int64_t row) const {
    return static_cast<char*>(const_cast<void*>(rows_.data())) + static_cast<size_t>(row * in_) * DtypeSize(dtype_);
  }

  static float* Floats(Buffer& buffer, int64_t count) {
    const size_t bytes = static_cast<size_t>(count) * sizeof(float) + 64;  // Finish reads whole vectors
    if (buffer.size() < bytes) buffer.Resize(bytes);
    return static_cast<float*>(buffer.data());
  }

  static const float* Widen(AnyMatrixView rows, Buffer& buffer) {
    float* const to = Floats(buffer, rows.rows * rows.cols);
    ParallelForRanges(rows.rows, 8, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        ToFloats(rows.Rows(r, 1).data, rows.dtype, rows.cols, to + r * rows.cols);
      }
    });
    return to;
  }

  dnnl::matmul::primitive_desc Desc(int64_t rows, int64_t cols) const {
    return onednn::MatmulDesc(onednn::MatrixDesc(Dtype::kF32, rows, in_, in_, 1),
                              onednn::MatrixDesc(Dtype::kF32, in_, cols, 1, in_),
                              onednn::MatrixDesc(Dtype::kF32, rows, cols, cols, 1));
  }

  void Multiply(int64_t rows, const float* x, int64_t cols, const float* weights, float* y) const {
    const onednn::OwnThreads one(1);
    try {
      const auto desc = Desc(rows, cols);  // oneDNN keeps the code of recent ones
      Buffer scratch(desc.scratchpad_desc().get_size());
      auto& engine = onednn::Engine();
      dnnl::matmul(desc).execute(
          onednn::Stream(), {{DNNL_ARG_SRC, dnnl::memory(desc.src_desc(), engine, const_cast<float*>(x))},
                             {DNNL_ARG_WEIGHTS, dnnl::memory(desc.weights_desc(), engine, const_cast<float*>(weights))},
                             {DNNL_ARG_DST, dnnl::memory(desc.dst_desc(), engine, y)},
                             {DNNL_ARG_SCRATCHPAD, dnnl::memory(desc.scratchpad_desc(), engine, scratch.data())}});
      onednn::Stream().wait();
    } catch (const dnnl::error& error) {
      Fail("kernels: oneDNN could not multiply ", rows, " x ", in_, " by ", in_, " x ", cols, ": ", error.what());
    }
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
  Buffer rows_;
};

}  // namespace

std::unique_ptr<PackedWeights> PackPlain(const LayerSource& source) {
  return std::make_unique<PlainWeights>(source);
}

}  // namespace purekv
