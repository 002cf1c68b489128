// Linear through oneDNN's matmul.
//
// oneDNN 2.6.3 chooses one blocked layout for the weights ([out/64][in/16][16][64], pairs of inputs innermost for
// bf16), the same for every number of rows, and takes it with its fast kernels ("brg:") as long as x and y are dense.
// With row strides it falls to "ref:any", a hundred times slower; so strided rows are copied.
#include "kernels/dense.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/bfloat16.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"
#include "kernels/elementwise.h"
#include "kernels/onednn.h"

namespace purekv {
namespace {

// A primitive is made for a fixed number of rows, and making one compiles code (0.2 to 9 ms). Rows are therefore cut
// into pieces of few different sizes: kPiece, multiples of kStep, and 1 .. kStep-1. At most kPiece/kStep + kStep
// primitives exist per layer shape, however ragged the prompts; oneDNN shares their code between layers of one shape.
constexpr int64_t kPiece = 512;
constexpr int64_t kStep = 64;
// Rows the weights' layout is chosen for.
constexpr int64_t kTypicalRows = 256;
// Output rows packed at a time, a multiple of every block size of oneDNN's layouts.
constexpr int64_t kPackRows = 512;
constexpr size_t kMaxPlans = 256;

int64_t PieceRows(int64_t rows) {
  if (rows >= kPiece) return kPiece;
  if (rows >= kStep) return rows / kStep * kStep;
  return rows;
}

bool IsReference(const std::string& implementation) {
  return implementation.find("ref") != std::string::npos;
}

// One primitive with what it needs to run.
struct Plan {
  dnnl::matmul primitive;
  dnnl::memory::desc src;
  dnnl::memory::desc dst;
  dnnl::memory::desc scratch;
  std::string implementation;
};

struct Packing {
  std::span<const WeightRows> parts;
  int64_t in = 0;
  Dtype compute = Dtype::kF32;
  Dtype packed = Dtype::kF32;
  // f32 storage of bf16 arithmetic: values are still rounded to bf16, so that every machine computes the same model.
  bool Rounds(Dtype dtype) const { return compute != packed && dtype != compute; }
};

// Copies `count` weights to `to` (dtype packed), from any alignment.
void ConvertWeights(const Packing& packing, const char* from, Dtype dtype, int64_t count, char* to) {
  if (packing.packed == Dtype::kF32) {
    float* floats = reinterpret_cast<float*>(to);
    ToFloats(from, dtype, count, floats);
    if (!packing.Rounds(dtype)) return;
    for (int64_t i = 0; i < count; ++i) floats[i] = ToFloat(ToBF16(floats[i]));
  } else if (dtype == packing.packed) {
    std::memcpy(to, from, static_cast<size_t>(count) * DtypeSize(dtype));
  } else {
    Matrix<float> floats(1, count);
    ToFloats(from, dtype, count, floats.data());
    Convert(floats.View(), {to, packing.packed, 1, count, count});
  }
}

// Rows [first, first + count) of the stacked parts as one dense block: a pointer into a part where dtype and alignment
// allow, else a copy in `block`.
const void* GatherRows(const Packing& packing, int64_t first, int64_t count, Buffer& block) {
  const size_t row_bytes = static_cast<size_t>(packing.in) * DtypeSize(packing.packed);
  int64_t part_begin = 0;
  for (const WeightRows& part : packing.parts) {
    const int64_t begin = std::max(first, part_begin);
    const int64_t end = std::min(first + count, part_begin + part.rows);
    if (begin < end) {
      const char* from = static_cast<const char*>(part.data) +
                         static_cast<size_t>((begin - part_begin) * packing.in) * DtypeSize(part.dtype);
      const bool aligned = reinterpret_cast<uintptr_t>(from) % DtypeSize(part.dtype) == 0;
      if (end - begin == count && part.dtype == packing.packed && aligned && !packing.Rounds(part.dtype)) return from;
      block.Resize(static_cast<size_t>(count) * row_bytes);
      char* to = static_cast<char*>(block.data()) + static_cast<size_t>(begin - first) * row_bytes;
      ParallelFor(end - begin, [&](int64_t i) {
        ConvertWeights(packing, from + static_cast<size_t>(i * packing.in) * DtypeSize(part.dtype), part.dtype,
                       packing.in, to + static_cast<size_t>(i) * row_bytes);
      });
    }
    part_begin += part.rows;
  }
  return block.data();
}

}  // namespace

struct Linear::Impl {
  int64_t in = 0;
  int64_t out = 0;
  Dtype compute = Dtype::kF32;
  Dtype packed = Dtype::kF32;  // f32 under compute bf16 where oneDNN has no bf16 kernels for this machine
  dnnl::memory::desc weights_desc;
  Buffer weights;
  std::vector<float> bias;
  mutable std::mutex mutex;
  mutable std::map<std::tuple<int64_t, bool, int>, std::shared_ptr<const Plan>> plans;

  dnnl::matmul::primitive_desc Desc(int64_t rows, const dnnl::memory::desc& weights_layout, bool accumulate) const {
    const auto src = onednn::MatrixDesc(packed, rows, in, in, 1);
    const auto dst = onednn::MatrixDesc(Dtype::kF32, rows, out, out, 1);
    const auto bias_desc = onednn::MatrixDesc(Dtype::kF32, 1, out, out, 1);
    return onednn::MatmulDesc(src, weights_layout, bias.empty() ? nullptr : &bias_desc, dst, accumulate);
  }

  // Whether oneDNN has a fast matmul of this dtype here; if so, fixes the weights' layout.
  bool ChooseLayout(Dtype dtype) {
    packed = dtype;
    try {
      const auto desc = Desc(kTypicalRows, onednn::AnyMatrixDesc(dtype, in, out), false);
      if (IsReference(desc.impl_info_str())) return false;
      weights_desc = desc.weights_desc();
      return true;
    } catch (const dnnl::error&) {
      return false;  // refused: e.g. bf16 without AVX-512
    }
  }

  void Pack(std::span<const WeightRows> parts) {
    weights.Resize(weights_desc.get_size());
    // Padding inside the blocks must be zero; page memory is already.
    if (weights.size() < 4096) std::memset(weights.data(), 0, weights.size());
    const Packing packing{parts, in, compute, packed};
    Buffer block;
    for (int64_t first = 0; first < out; first += kPackRows) {
      const int64_t count = std::min(kPackRows, out - first);
      const void* rows = GatherRows(packing, first, count, block);
      // W^T as oneDNN names it: [in, count], a column of it is a row of W.
      const auto from = onednn::MatrixDesc(packed, in, count, 1, in);
      const auto to = weights_desc.submemory_desc({in, count}, {0, first});
      dnnl::memory source(from, onednn::Engine(), const_cast<void*>(rows));
      dnnl::memory target(to, onednn::Engine(), weights.data());
      dnnl::reorder(source, target).execute(onednn::Stream(), source, target);
    }
    onednn::Stream().wait();
  }

  std::shared_ptr<const Plan> PlanFor(int64_t rows, bool accumulate) const {
    const auto key = std::make_tuple(rows, accumulate, Threads());
    std::lock_guard<std::mutex> lock(mutex);
    auto& plan = plans[key];
    if (!plan) {
      const auto desc = Desc(rows, weights_desc, accumulate);
      plan = std::make_shared<const Plan>(
          Plan{dnnl::matmul(desc), desc.src_desc(), desc.dst_desc(), desc.scratchpad_desc(), desc.impl_info_str()});
      if (plans.size() > kMaxPlans) {  // many thread counts in one process: start afresh
        auto keep = plan;
        plans.clear();
        plans[key] = keep;
        return keep;
      }
    }
    return plan;
  }

  // x [rows, in] of dtype packed and y [rows, out], both dense.
  void RunPiece(int64_t rows, const void* x, float* y, bool accumulate) const {
    const auto plan = PlanFor(rows, accumulate);
    static thread_local Buffer scratch;
    if (scratch.size() < plan->scratch.get_size()) scratch.Resize(plan->scratch.get_size());
    auto& engine = onednn::Engine();
    std::unordered_map<int, dnnl::memory> args = {
        {DNNL_ARG_SRC, dnnl::memory(plan->src, engine, const_cast<void*>(x))},
        {DNNL_ARG_WEIGHTS, dnnl::memory(weights_desc, engine, const_cast<void*>(weights.data()))},
        {DNNL_ARG_DST, dnnl::memory(plan->dst, engine, y)},
        {DNNL_ARG_SCRATCHPAD, dnnl::memory(plan->scratch, engine, scratch.data())}};
    if (!bias.empty()) {
      args.emplace(DNNL_ARG_BIAS, dnnl::memory(onednn::MatrixDesc(Dtype::kF32, 1, out, out, 1), engine,
                                               const_cast<float*>(bias.data())));
    }
    plan->primitive.execute(onednn::Stream(), args);
    onednn::Stream().wait();
  }
};

Linear::Linear() = default;
Linear::~Linear() = default;
Linear::Linear(Linear&&) noexcept = default;
Linear& Linear::operator=(Linear&&) noexcept = default;

Linear::Linear(std::span<const WeightRows> parts, int64_t in, std::span<const float> bias, Dtype compute)
    : impl_(std::make_unique<Impl>()) {
  PUREKV_CHECK(compute != Dtype::kF16, "compute is f32 or bf16");
  impl_->in = in;
  impl_->compute = compute;
  for (const WeightRows& part : parts) impl_->out += part.rows;
  PUREKV_CHECK(in > 0 && impl_->out > 0, in, " -> ", impl_->out);
  PUREKV_CHECK(bias.empty() || static_cast<int64_t>(bias.size()) == impl_->out, bias.size(), " biases for ",
               impl_->out);
  impl_->bias.assign(bias.begin(), bias.end());
  Threads();  // sets oneDNN's thread count for this thread if nothing has yet
  try {
    if (!impl_->ChooseLayout(compute) && !impl_->ChooseLayout(Dtype::kF32)) {
      Fail("kernels: oneDNN has no fast matmul for ", in, " -> ", impl_->out, " on this processor");
    }
    impl_->Pack(parts);
  } catch (const dnnl::error& error) {
    Fail("kernels: oneDNN could not pack a layer ", in, " -> ", impl_->out, ": ", error.what());
  }
}

void Linear::Run(AnyMatrixView x, MatrixView<float> y, bool accumulate) const {
  const Impl& impl = *impl_;
  PUREKV_CHECK(x.rows == y.rows && x.cols == impl.in && y.cols == impl.out, x.rows, " x ", x.cols, " into ", y.rows,
               " x ", y.cols, " by a layer ", impl.in, " -> ", impl.out);
  PUREKV_CHECK(x.dtype == impl.compute, DtypeName(x.dtype), " rows for a ", DtypeName(impl.compute), " layer");
  Matrix<float> widened;
  AnyMatrix dense_x;
  Matrix<float> dense_y;
  for (int64_t begin = 0, count = 0; begin < x.rows; begin += count) {
    count = PieceRows(x.rows - begin);
    const AnyMatrixView from = x.Rows(begin, count);
    const MatrixView<float> to = y.Rows(begin, count);
    const void* rows = from.data;
    if (impl.packed != impl.compute) {
      if (widened.rows() < count) widened = Matrix<float>(count, impl.in);
      ParallelFor(count, [&](int64_t i) { ToFloats(from.Rows(i, 1).data, from.dtype, impl.in, widened.Row(i)); });
      rows = widened.data();
    } else if (count > 1 && from.stride != from.cols) {
      if (dense_x.View().rows < count) dense_x = AnyMatrix(impl.packed, count, impl.in);
      const size_t bytes = static_cast<size_t>(impl.in) * DtypeSize(impl.packed);
      ParallelFor(count, [&](int64_t i) { std::memcpy(dense_x.View().Rows(i, 1).data, from.Rows(i, 1).data, bytes); });
      rows = dense_x.View().data;
    }
    const bool copy_y = count > 1 && to.stride != to.cols;
    if (!copy_y) {
      impl.RunPiece(count, rows, to.data, accumulate);
      continue;
    }
    if (dense_y.rows() < count) dense_y = Matrix<float>(count, impl.out);
    const size_t bytes = static_cast<size_t>(impl.out) * sizeof(float);
    if (accumulate) ParallelFor(count, [&](int64_t i) { std::memcpy(dense_y.Row(i), to.Row(i), bytes); });
    impl.RunPiece(count, rows, dense_y.data(), accumulate);
    ParallelFor(count, [&](int64_t i) { std::memcpy(to.Row(i), dense_y.Row(i), bytes); });
  }
}

int64_t Linear::in() const {
  return impl_->in;
}
int64_t Linear::out() const {
  return impl_->out;
}
Dtype Linear::compute() const {
  return impl_->compute;
}
size_t Linear::packed_bytes() const {
  return impl_->weights.allocated() + impl_->bias.capacity() * sizeof(float);
}

std::string Linear::Implementation(int64_t rows) const {
  const auto plan = impl_->PlanFor(PieceRows(std::max<int64_t>(1, rows)), false);
  return "onednn " + plan->implementation + (impl_->packed == impl_->compute ? "" : " f32 weights (no bf16 here)");
}

}  // namespace purekv
