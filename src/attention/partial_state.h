// The state of online softmax over a part of the keys, and how two parts become one (Milakov and Gimelshein, arXiv
// 1805.02867; used to split keys over cores, and to join the parts of sparse attention).
#pragma once

#include <cstdint>

#include "base/any_matrix.h"
#include "base/matrix.h"

namespace purekv {

// For `rows` = o.rows independent rows, over the keys S seen so far (logit = scaled product of query and key):
//   m[r]    = max over S of logit                      -infinity when S is empty
//   l[r]    = sum over S of exp(logit - m[r])          0 when S is empty
//   o[r][d] = sum over S of exp(logit - m[r]) * value  0 when S is empty; not divided by l
// A view: owns nothing. Kernels that write states write whole vectors: they need m and l of PaddedRows(rows) elements
// and o.stride >= PaddedRows(o.cols).
struct PartialState {
  float* m = nullptr;
  float* l = nullptr;
  MatrixView<float> o;  // [rows, head_dim]
};

// Up to the next multiple of the widest vector (16 floats).
constexpr int64_t PaddedRows(int64_t n) {
  return (n + 15) / 16 * 16;
}

// Floats a state of [rows, head_dim] needs, and the state laid out in them (64-byte aligned when `memory` is).
constexpr int64_t StateFloats(int64_t rows, int64_t head_dim) {
  return 2 * PaddedRows(rows) + rows * PaddedRows(head_dim);
}
PartialState StateIn(float* memory, int64_t rows, int64_t head_dim);

// No keys seen.
void ResetState(const PartialState& state);

// into = the state over the keys of both; the two key sets must be disjoint. Commutative and associative up to
// rounding; an empty part changes no bit.
void MergeState(const PartialState& into, const PartialState& part);

// out [rows, head_dim] = o / l, f32 or bf16, zeros where no key was seen. lse[r * lse_stride] = m + log(l) (natural),
// -infinity where no key was seen; lse may be null. Row r of the state goes to row r of out.
void FinishState(const PartialState& state, AnyMatrixView out, float* lse, int64_t lse_stride);

}  // namespace purekv
