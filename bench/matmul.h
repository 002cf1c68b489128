// The baseline of everything that computes: oneDNN's matrix product, called directly.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>

#include "base/any_matrix.h"
#include "base/memory.h"
#include "kernels/onednn.h"

namespace purekv::bench {

// y [rows, out] f32 = x [rows, in] w [in, out]; x plain, w packed once in the layout that oneDNN likes best. Random
// values.
class OneDnnMatmul {
 public:
  OneDnnMatmul(Dtype dtype, int64_t rows, int64_t in, int64_t out);
  void Run();
  double flops() const {
    return 2.0 * static_cast<double>(rows_) * static_cast<double>(in_) * static_cast<double>(out_);
  }
  // Runs, and compares sampled sums with plain ones in double.
  void Check();

 private:
  Dtype dtype_;
  int64_t rows_, in_, out_;
  AnyMatrix x_, y_;
  Buffer weights_, scratch_;
  dnnl::memory::desc weights_desc_;
  dnnl::matmul matmul_;
  std::unordered_map<int, dnnl::memory> arguments_;
};

// 4096 x 4096 x 4096 (or `size`^3); one for all lines of a type.
std::shared_ptr<OneDnnMatmul> CubeMatmul(Dtype dtype, int64_t size);

}  // namespace purekv::bench
