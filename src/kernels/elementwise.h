// Row-wise kernels: norms, rotary embedding, activations, conversions. All split their rows over the threads; all
// compute in f32; outputs written as f32 or bf16 (round to nearest even) as the output view's dtype says. In and out
// may be the same memory where the dtype is f32 in both.
#pragma once

#include <cstdint>
#include <span>

#include "base/any_matrix.h"
#include "base/matrix.h"

namespace purekv {

// out = x * rsqrt(mean(x^2) + eps) * weight. x [n, d], weight [d], out [n, d].
void RmsNorm(MatrixView<const float> x, std::span<const float> weight, float eps, AnyMatrixView out);

// out = (x - mean) * rsqrt(var + eps) * weight + bias, biased variance, two passes. x [n, d], weight [d], bias [d], out
// [n, d].
void LayerNorm(MatrixView<const float> x, std::span<const float> weight, std::span<const float> bias, float eps,
               AnyMatrixView out);

enum class Activation { kSilu, kGeluErf, kGeluTanh, kQuickGelu };

// out = activation(x). x, out [n, d].
void Activate(Activation activation, MatrixView<const float> x, AnyMatrixView out);

// out = activation(gate) * up. gate, up, out [n, d].
void GatedActivate(Activation activation, MatrixView<const float> gate, MatrixView<const float> up, AnyMatrixView out);

// Rotate-half rotary embedding in place (RoFormer, arXiv 2104.09864, in the pairing (d, d + head_dim/2) of GPT-NeoX):
// x [n, heads * head_dim]; cos, sin [n, rotary/2] with rotary <= head_dim; dims beyond `rotary` of each head stay.
void ApplyRope(MatrixView<float> x, int64_t heads, int64_t head_dim, MatrixView<const float> cos,
               MatrixView<const float> sin);
// The same into other memory: out [n, heads * head_dim], f32 or bf16 (rounded once).
void ApplyRope(MatrixView<const float> x, int64_t heads, int64_t head_dim, MatrixView<const float> cos,
               MatrixView<const float> sin, AnyMatrixView out);

// cos = cosine, sin = sine of the angles (radians), absolute error below 3e-7. angles, cos, sin [n, d]; angles may be
// the same memory as cos or sin.
void CosSin(MatrixView<const float> angles, MatrixView<float> cos, MatrixView<float> sin);

// out = x converted. x, out [n, d].
void Convert(MatrixView<const float> x, AnyMatrixView out);

// Rows of a checkpoint tensor (any alignment) to f32: count elements.
void ToFloats(const void* data, Dtype dtype, int64_t count, float* out);

}  // namespace purekv
