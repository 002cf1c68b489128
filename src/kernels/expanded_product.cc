#include "kernels/expanded_product.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/threads.h"
#include "kernels/onednn.h"

namespace purekv {
namespace {

constexpr int64_t kPiece = 512;  // rows of x
constexpr int64_t kChunk = 256;  // outputs, of one thread at a time; fewer where threads would be idle
constexpr int64_t kSmallestChunk = 64;
constexpr int64_t kChunksPerThread = 4;

float* Floats(Buffer& buffer, int64_t count) {
  const size_t bytes = static_cast<size_t>(count) * sizeof(float) + 64;  // Finish reads whole vectors
  if (buffer.size() < bytes) buffer.Resize(bytes);
  return static_cast<float*>(buffer.data());
}

// Rows of x of `dtype`, one behind the other.
const void* DenseRows(AnyMatrixView x, Dtype dtype, Buffer& buffer) {
  if (x.dtype == dtype && x.stride == x.cols) return x.data;
  PUREKV_CHECK(x.dtype == dtype || dtype == Dtype::kF32, DtypeName(x.dtype), " rows for ", DtypeName(dtype));
  const size_t row_bytes = static_cast<size_t>(x.cols) * DtypeSize(dtype);
  if (buffer.size() < static_cast<size_t>(x.rows) * row_bytes) buffer.Resize(static_cast<size_t>(x.rows) * row_bytes);
  ParallelForRanges(x.rows, 8, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      char* const to = static_cast<char*>(buffer.data()) + static_cast<size_t>(r) * row_bytes;
      if (x.dtype == dtype) {
        std::memcpy(to, x.Rows(r, 1).data, row_bytes);
      } else {
        ToFloats(x.Rows(r, 1).data, x.dtype, x.cols, reinterpret_cast<float*>(to));
      }
    }
  });
  return buffer.data();
}

dnnl::matmul::primitive_desc Desc(Dtype dtype, int64_t in, int64_t rows, int64_t cols) {
  return onednn::MatmulDesc(onednn::MatrixDesc(dtype, rows, in, in, 1), onednn::MatrixDesc(dtype, in, cols, 1, in),
                            onednn::MatrixDesc(Dtype::kF32, rows, cols, cols, 1));
}

void Multiply(Dtype dtype, int64_t in, int64_t rows, const void* x, int64_t cols, const void* weights, float* y) {
  const onednn::OwnThreads one(1);
  try {
    const auto desc = Desc(dtype, in, rows, cols);  // oneDNN keeps the code of recent ones
    Buffer scratch(desc.scratchpad_desc().get_size());
    auto& engine = onednn::Engine();
    dnnl::matmul(desc).execute(
        onednn::Stream(), {{DNNL_ARG_SRC, dnnl::memory(desc.src_desc(), engine, const_cast<void*>(x))},
                           {DNNL_ARG_WEIGHTS, dnnl::memory(desc.weights_desc(), engine, const_cast<void*>(weights))},
                           {DNNL_ARG_DST, dnnl::memory(desc.dst_desc(), engine, y)},
                           {DNNL_ARG_SCRATCHPAD, dnnl::memory(desc.scratchpad_desc(), engine, scratch.data())}});
    onednn::Stream().wait();
  } catch (const dnnl::error& error) {
    Fail("kernels: oneDNN could not multiply ", rows, " x ", in, " by ", in, " x ", cols, ": ", error.what());
  }
}

}  // namespace

void ExpandedProduct::Run(AnyMatrixView x, const Expand& expand, const float* row_scales,
                          const Epilogue& epilogue) const {
  static thread_local Buffer dense_x;
  for (int64_t row = 0; row < x.rows; row += kPiece) {
    const int64_t count = std::min(kPiece, x.rows - row);
    const Epilogue part_epilogue = epilogue.Rows(row, count);
    const void* const from = DenseRows(x.Rows(row, count), dtype_, dense_x);
    // A thread expands, multiplies and finishes its outputs while they are in its cache.
    int64_t chunk = kChunk;
    while (out_ < chunk * kChunksPerThread * Threads() && chunk > kSmallestChunk) chunk /= 2;
    ParallelForRanges(out_, chunk, [&](int64_t begin, int64_t end) {
      static thread_local Buffer expanded, sums;
      const int64_t cols = end - begin;
      float* const y = Floats(sums, count * cols);
      Multiply(dtype_, in_, count, from, cols, expand(begin, cols, expanded), y);
      for (int64_t i = 0; row_scales != nullptr && i < count * cols; i += cols) {
        for (int64_t c = 0; c < cols; ++c) y[i + c] *= row_scales[begin + c];
      }
      Finish(y, cols, count, cols, 0, begin, part_epilogue);
    });
  }
}

std::string ExpandedProduct::Name(int64_t rows) const {
  const onednn::OwnThreads one(1);
  try {
    return Desc(dtype_, in_, std::min(rows, kPiece), std::min(out_, kChunk)).impl_info_str();
  } catch (const dnnl::error& error) {
    return error.what();
  }
}

}  // namespace purekv
