#include "kernels/dense.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "kernels/packed_weights.h"

namespace purekv {

struct Linear::Impl {
  int64_t in = 0;
  int64_t out = 0;
  Dtype input = Dtype::kF32;
  bool gated = false;
  std::unique_ptr<PackedWeights> weights;
  std::vector<float> bias;
  std::vector<std::string> refused;

  Impl(std::span<const WeightRows> parts, int64_t in_features, std::span<const float> given_bias,
       const LayerFormat& format, Dtype of_input, bool is_gated)
      : in(in_features), input(of_input), gated(is_gated) {
    PUREKV_CHECK(input == ElementDtype(format.plain), DtypeName(input), " rows by weights of ",
                 FormatName(format.plain));
    int64_t rows = 0;
    for (const WeightRows& part : parts) rows += part.rows;
    out = gated ? rows / 2 : rows;
    PUREKV_CHECK(in > 0 && out > 0, in, " -> ", out);
    PUREKV_CHECK(given_bias.empty() || static_cast<int64_t>(given_bias.size()) == rows, given_bias.size(),
                 " biases for ", rows);
    const LayerSource source(parts, in, format, gated);
    // A part that is multiplied by itself reads whole panels from its own first bias on, hence one padding more.
    bias = source.Bias(given_bias, (source.rows() + kBiasPadding - 1) / kBiasPadding * kBiasPadding + kBiasPadding);
    weights = PackWeights(source, &refused);
  }

  void Run(AnyMatrixView x, Epilogue epilogue) const {
    PUREKV_CHECK(x.rows == epilogue.out.rows && x.cols == in && epilogue.out.cols == out, x.rows, " x ", x.cols,
                 " into ", epilogue.out.rows, " x ", epilogue.out.cols, " by a layer ", in, " -> ", out);
    PUREKV_CHECK(x.dtype == input, DtypeName(x.dtype), " rows for a ", DtypeName(input), " layer");
    PUREKV_CHECK(epilogue.out.dtype != Dtype::kF16, "results are f32 or bf16");
    epilogue.bias = bias.empty() ? nullptr : bias.data();
    epilogue.gated = gated;
    if (x.rows > 0) weights->Run(x, epilogue);
  }
};

Linear::Linear() = default;
Linear::~Linear() = default;
Linear::Linear(Linear&&) noexcept = default;
Linear& Linear::operator=(Linear&&) noexcept = default;

Linear::Linear(std::span<const WeightRows> parts, int64_t in, std::span<const float> bias, const LayerFormat& format,
               Dtype input)
    : impl_(std::make_unique<Impl>(parts, in, bias, format, input, false)) {}

Linear::Linear(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

void Linear::Run(AnyMatrixView x, MatrixView<float> y, bool accumulate, RowSums sums) const {
  Epilogue epilogue;
  epilogue.sums = sums;
  epilogue.out = {y.data, Dtype::kF32, y.rows, y.cols, y.stride};
  epilogue.accumulate = accumulate;
  impl_->Run(x, epilogue);
}

void Linear::RunActivated(Activation activation, AnyMatrixView x, AnyMatrixView y, RowSums sums) const {
  Epilogue epilogue;
  epilogue.sums = sums;
  epilogue.out = y;
  epilogue.activate = true;
  epilogue.activation = activation;
  impl_->Run(x, epilogue);
}

int64_t Linear::in() const {
  return impl_->in;
}
int64_t Linear::out() const {
  return impl_->out;
}
Dtype Linear::input() const {
  return impl_->input;
}
size_t Linear::packed_bytes() const {
  return impl_->weights->bytes() + bias_bytes();
}
size_t Linear::bias_bytes() const {
  return impl_->bias.capacity() * sizeof(float);
}

void Linear::AddStorage(std::map<std::string, int64_t>* bytes) const {
  impl_->weights->AddStorage(bytes);
}

const char* Linear::storage() const {
  return impl_->weights->storage();
}

std::string Linear::Implementation(int64_t rows) const {
  return impl_->weights->Name(std::max<int64_t>(1, rows));
}

const std::vector<std::string>& Linear::Refused() const {
  return impl_->refused;
}

GatedLinear::GatedLinear() = default;

GatedLinear::GatedLinear(const WeightRows& gate, const WeightRows& up, int64_t in, std::span<const float> bias,
                         const LayerFormat& format, Dtype input) {
  const WeightRows parts[] = {gate, up};
  layer_ = Linear(std::make_unique<Linear::Impl>(parts, in, bias, format, input, true));
}

void GatedLinear::Run(Activation activation, AnyMatrixView x, AnyMatrixView out, RowSums sums) const {
  layer_.RunActivated(activation, x, out, sums);
}

}  // namespace purekv
