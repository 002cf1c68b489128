// Slow twins of the kernels: plain loops with sums in double, what the tests compare every implementation with.
#pragma once

#include <span>

#include "base/any_matrix.h"
#include "base/matrix.h"
#include "kernels/dense.h"
#include "kernels/elementwise.h"

namespace purekv::reference {

// As Linear(parts, x.cols, bias, compute).Run(x, y, accumulate): weights rounded to `compute`.
void Dense(std::span<const WeightRows> parts, std::span<const float> bias, Dtype compute, AnyMatrixView x,
           MatrixView<float> y, bool accumulate);

void RmsNorm(MatrixView<const float> x, std::span<const float> weight, float eps, AnyMatrixView out);
void LayerNorm(MatrixView<const float> x, std::span<const float> weight, std::span<const float> bias, float eps,
               AnyMatrixView out);
double Activate(Activation activation, double x);
void Activate(Activation activation, MatrixView<const float> x, AnyMatrixView out);
void GatedActivate(Activation activation, MatrixView<const float> gate, MatrixView<const float> up, AnyMatrixView out);
void ApplyRope(MatrixView<const float> x, int64_t heads, int64_t head_dim, MatrixView<const float> cos,
               MatrixView<const float> sin, AnyMatrixView out);
void CosSin(MatrixView<const float> angles, MatrixView<float> cos, MatrixView<float> sin);
void Convert(MatrixView<const float> x, AnyMatrixView out);
void ToFloats(const void* data, Dtype dtype, int64_t count, float* out);

}  // namespace purekv::reference
