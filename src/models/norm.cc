#include "models/norm.h"

#include "kernels/elementwise.h"
#include "models/weights.h"

namespace purekv {

Norm Norm::Read(const TensorSource& source, const std::string& name, bool with_bias) {
  Norm norm;
  norm.weight = ReadFloats(source, name + ".weight");
  if (with_bias) norm.bias = ReadFloats(source, name + ".bias");
  return norm;
}

void Norm::AddSpecs(const std::string& name, int64_t d, bool with_bias, std::vector<TensorSpec>* specs) {
  specs->push_back({name + ".weight", {d}});
  if (with_bias) specs->push_back({name + ".bias", {d}});
}

void Norm::Apply(MatrixView<const float> x, float eps, AnyMatrixView out) const {
  if (bias.empty()) {
    RmsNorm(x, weight, eps, out);
  } else {
    LayerNorm(x, weight, bias, eps, out);
  }
}

}  // namespace purekv
