#include "matmul.h"

#include <cmath>
#include <map>
#include <string>
#include <utility>

#include "base/bfloat16.h"
#include "base/error.h"
#include "base/threads.h"
#include "inputs.h"

namespace purekv::bench {
namespace {

constexpr uint64_t kWeightSeed = 11;

}  // namespace

OneDnnMatmul::OneDnnMatmul(Dtype dtype, int64_t rows, int64_t in, int64_t out)
    : dtype_(dtype), rows_(rows), in_(in), out_(out), x_(dtype, rows, in), y_(Dtype::kF32, rows, out) {
  const onednn::OwnThreads threads(Threads());
  try {
    const auto x = onednn::MatrixDesc(dtype, rows, in, in, 1);
    const auto y = onednn::MatrixDesc(Dtype::kF32, rows, out, out, 1);
    const auto desc = onednn::MatmulDesc(x, onednn::AnyMatrixDesc(dtype, in, out), y);
    weights_desc_ = desc.weights_desc();
    weights_.Resize(weights_desc_.get_size());
    scratch_.Resize(desc.scratchpad_desc().get_size());
    matmul_ = dnnl::matmul(desc);
    FillRandom(x_.View(), 10);
    AnyMatrix plain(dtype, in, out);
    FillRandom(plain.View(), kWeightSeed);
    dnnl::memory from(onednn::MatrixDesc(dtype, in, out, out, 1), onednn::Engine(), plain.View().data);
    dnnl::memory to(weights_desc_, onednn::Engine(), weights_.data());
    dnnl::reorder(from, to).execute(onednn::Stream(), from, to);
    arguments_ = {{DNNL_ARG_SRC, dnnl::memory(x, onednn::Engine(), x_.View().data)},
                  {DNNL_ARG_WEIGHTS, to},
                  {DNNL_ARG_DST, dnnl::memory(y, onednn::Engine(), y_.View().data)},
                  {DNNL_ARG_SCRATCHPAD, dnnl::memory(desc.scratchpad_desc(), onednn::Engine(), scratch_.data())}};
  } catch (const dnnl::error& error) {
    Fail("oneDNN has no ", DtypeName(dtype), " product here: ", error.what());
  }
}

void OneDnnMatmul::Run() {
  const onednn::OwnThreads threads(Threads());
  matmul_.execute(onednn::Stream(), arguments_);
}

void OneDnnMatmul::Check() {
  Run();
  AnyMatrix weights(dtype_, in_, out_);
  FillRandom(weights.View(), kWeightSeed);
  const auto at = [](AnyMatrixView view, int64_t row, int64_t col) {
    const int64_t i = row * view.stride + col;
    return static_cast<double>(view.dtype == Dtype::kF32 ? static_cast<const float*>(view.data)[i]
                                                         : ToFloat(static_cast<const BF16*>(view.data)[i]));
  };
  for (const int64_t row : SampleRows(rows_, 16, 8)) {
    for (const int64_t col : SampleRows(out_, 16, 8)) {
      double sum = 0;
      double size = 0;  // of the terms: sums of both signs nearly cancel at times
      for (int64_t i = 0; i < in_; ++i) {
        const double term = at(x_.View(), row, i) * at(weights.View(), i, col);
        sum += term;
        size += term * term;
      }
      const double got = at(y_.View(), row, col);
      if (std::abs(got - sum) > 1e-5 * std::sqrt(size) * std::sqrt(static_cast<double>(in_))) {
        Fail("oneDNN ", DtypeName(dtype_), " product ", rows_, " x ", in_, " x ", out_, ": element ", row, ", ", col,
             " is ", got, ", reference ", sum);
      }
    }
  }
}

std::shared_ptr<OneDnnMatmul> CubeMatmul(Dtype dtype, int64_t size) {
  static auto& kept = *new std::map<std::pair<Dtype, int64_t>, std::shared_ptr<OneDnnMatmul>>();
  auto& cube = kept[{dtype, size}];
  if (cube == nullptr) {
    cube = std::make_shared<OneDnnMatmul>(dtype, size, size, size);
    cube->Check();
  }
  return cube;
}

}  // namespace purekv::bench
