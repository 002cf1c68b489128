// The one place that knows which major version of oneDNN is compiled against: 2.x builds an operation descriptor first,
// 3.x does not.
#pragma once

#include <cstddef>
#include <string>

#include "oneapi/dnnl/dnnl.hpp"
#include "purekv/dtype.h"

namespace purekv::onednn {

// The processor as an engine; one for the program. Its first use fixes the instruction sets oneDNN may use, as the
// level in use (base/cpu.h) then says.
dnnl::engine& Engine();
// The calling thread's queue; what is executed on it is done when execute() returns.
dnnl::stream& Stream();

// While one lives, what oneDNN makes and runs on this thread takes `threads` of its own threads (OpenMP's, in Debian's
// and Ubuntu's packages); 1: this thread alone. The engine uses no other number: its loops run on the team of
// base/threads.h, and a second team on the same cores, one that spins while it waits, would slow both.
class OwnThreads {
 public:
  explicit OwnThreads(int threads);
  ~OwnThreads();
  OwnThreads(const OwnThreads&) = delete;
  OwnThreads& operator=(const OwnThreads&) = delete;

 private:
  int before_ = 0;  // 0: this oneDNN has no threads of OpenMP
};

// f32 or bf16; f16 never reaches oneDNN here.
dnnl::memory::data_type DataType(Dtype dtype);

// [rows, cols] with the given strides, in elements.
dnnl::memory::desc MatrixDesc(Dtype dtype, int64_t rows, int64_t cols, int64_t row_stride, int64_t col_stride);
// [rows, cols] in a named (blocked) layout.
dnnl::memory::desc TaggedDesc(Dtype dtype, int64_t rows, int64_t cols, dnnl::memory::format_tag tag);
int64_t Cols(const dnnl::memory::desc& desc);
// Rows of a blocked layout with those that pad the last block.
int64_t PaddedRows(const dnnl::memory::desc& desc);
// [rows, cols] in whatever layout oneDNN likes best.
dnnl::memory::desc AnyMatrixDesc(Dtype dtype, int64_t rows, int64_t cols);

// dst = src weights. The caller gives scratch memory at each execution (several threads may run one primitive); f32
// stays f32 (no quiet bf16 or tf32). Throws dnnl::error when no implementation takes it.
dnnl::matmul::primitive_desc MatmulDesc(const dnnl::memory::desc& src, const dnnl::memory::desc& weights,
                                        const dnnl::memory::desc& dst);

}  // namespace purekv::onednn
