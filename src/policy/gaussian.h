// The two loops of expected-attention that cost dim^2 per row, in vector registers.
#pragma once

#include <cstdint>

namespace purekv {

// Both kernels take dimensions padded to this, zeros behind.
constexpr int64_t kGaussianPad = 32;
constexpr int64_t kGaussianRows = 32;  // rows of one call of AddOuterProducts
constexpr int64_t kGaussianKeys = 32;  // keys of one call of QuadraticForms

// out[i][j] += sum over the rows of x[i] * x[j], for j >= i at least (below the diagonal: anything).
// x [kGaussianRows][dim], out [dim][dim].
void AddOuterProducts(const float* x, int64_t dim, float* out);

// z[k] = sum_i keys[i][k] * (linear[i] + sum_{j >= i} quadratic[i][j] * keys[j][k]). linear [dim]; quadratic
// [dim][dim], zeros below the diagonal, or null; keys [dim][kGaussianKeys]; z [kGaussianKeys].
void QuadraticForms(const float* linear, const float* quadratic, int64_t dim, const float* keys, float* z);

}  // namespace purekv
