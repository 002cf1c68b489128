#include "kernels/onednn.h"

#include <dlfcn.h>

#include "base/cpu.h"
#include "base/error.h"

namespace purekv::onednn {

namespace {

// Where PUREKV_CPU asks for less than the machine has. Refused, and without effect, once oneDNN ran; tests that want
// another limit set it before.
void LimitInstructionSet() {
  if (Cpu() == BestCpuLevel()) return;
  switch (Cpu()) {
    case CpuLevel::kReference:
    case CpuLevel::kPortable:
      dnnl_set_max_cpu_isa(dnnl_cpu_isa_sse41);
      return;
    case CpuLevel::kAvx2:
      dnnl_set_max_cpu_isa(dnnl_cpu_isa_avx2);
      return;
    case CpuLevel::kAvx512:
      dnnl_set_max_cpu_isa(dnnl_cpu_isa_avx512_core);
      return;
    case CpuLevel::kAvx512Bf16:
      dnnl_set_max_cpu_isa(dnnl_cpu_isa_avx512_core_bf16);
      return;
    case CpuLevel::kAmxBf16:
      return;
  }
}

}  // namespace

dnnl::engine& Engine() {
  // never destroyed: threads may outlive statics
  static auto& engine = *[] {
    LimitInstructionSet();
    return new dnnl::engine(dnnl::engine::kind::cpu, 0);
  }();
  return engine;
}

dnnl::stream& Stream() {
  static thread_local dnnl::stream stream(Engine());
  return stream;
}

namespace {

// OpenMP's two calls, in the library that oneDNN brought along: nothing of ours is compiled for OpenMP, and a oneDNN
// built for another runtime has neither.
struct OpenMp {
  using Get = int();
  using Set = void(int);
  Get* max_threads = reinterpret_cast<Get*>(dlsym(RTLD_DEFAULT, "omp_get_max_threads"));
  Set* set_threads = reinterpret_cast<Set*>(dlsym(RTLD_DEFAULT, "omp_set_num_threads"));
};

const OpenMp& Calls() {
  static const OpenMp calls;
  return calls;
}

}  // namespace

OwnThreads::OwnThreads(int threads) {
  if (Calls().max_threads == nullptr || Calls().set_threads == nullptr) return;
  before_ = Calls().max_threads();
  Calls().set_threads(threads);
}

OwnThreads::~OwnThreads() {
  if (before_ > 0) Calls().set_threads(before_);
}

dnnl::memory::data_type DataType(Dtype dtype) {
  PUREKV_CHECK(dtype != Dtype::kF16, "f16 is converted before oneDNN sees it");
  return dtype == Dtype::kF32 ? dnnl::memory::data_type::f32 : dnnl::memory::data_type::bf16;
}

dnnl::memory::desc MatrixDesc(Dtype dtype, int64_t rows, int64_t cols, int64_t row_stride, int64_t col_stride) {
  return {{rows, cols}, DataType(dtype), dnnl::memory::dims{row_stride, col_stride}};
}

dnnl::memory::desc TaggedDesc(Dtype dtype, int64_t rows, int64_t cols, dnnl::memory::format_tag tag) {
  return {{rows, cols}, DataType(dtype), tag};
}

int64_t Cols(const dnnl::memory::desc& desc) {
#if DNNL_VERSION_MAJOR >= 3
  return desc.get_dims()[1];
#else
  return desc.data.dims[1];
#endif
}

int64_t PaddedRows(const dnnl::memory::desc& desc) {
#if DNNL_VERSION_MAJOR >= 3
  return desc.get_padded_dims()[0];
#else
  return desc.data.padded_dims[0];
#endif
}

dnnl::memory::desc AnyMatrixDesc(Dtype dtype, int64_t rows, int64_t cols) {
  return {{rows, cols}, DataType(dtype), dnnl::memory::format_tag::any};
}

dnnl::matmul::primitive_desc MatmulDesc(const dnnl::memory::desc& src, const dnnl::memory::desc& weights,
                                        const dnnl::memory::desc& dst) {
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  attr.set_fpmath_mode(dnnl::fpmath_mode::strict);
#if DNNL_VERSION_MAJOR >= 3
  return {Engine(), src, weights, dst, attr};
#else
  return {dnnl::matmul::desc(src, weights, dst), attr, Engine()};
#endif
}

}  // namespace purekv::onednn
