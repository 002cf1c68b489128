// The norms of towers and connectors: LayerNorm where there is a bias, else RMSNorm.
#pragma once

#include <string>
#include <vector>

#include "base/any_matrix.h"
#include "base/matrix.h"
#include "checkpoint/random_tensors.h"
#include "checkpoint/tensor_source.h"

namespace purekv {

struct Norm {
  std::vector<float> weight, bias;  // [d]; bias empty: RMSNorm

  // `name`.weight, and `name`.bias where asked for. Throws Error.
  static Norm Read(const TensorSource& source, const std::string& name, bool with_bias);
  static void AddSpecs(const std::string& name, int64_t d, bool with_bias, std::vector<TensorSpec>* specs);
  // x [n, d], out [n, d].
  void Apply(MatrixView<const float> x, float eps, AnyMatrixView out) const;
};

}  // namespace purekv
