// Slow twins of exact attention: all logits of one row at a time, in double; what the tests compare every
// implementation with.
#pragma once

#include "attention/attention.h"
#include "attention/observer.h"
#include "attention/sparse.h"

namespace purekv::reference {

void Attention(const AttentionArgs& args);
void SegmentAttention(MatrixView<const float> q, MatrixView<const float> k, MatrixView<const float> v, int64_t heads,
                      int64_t head_dim, float scale, std::span<const int64_t> cu_segments, AnyMatrixView out);
void ColumnSums(const ColumnSumsArgs& args);
void SparseAttention(const SparseAttentionArgs& args, const SparsePlan& plan);

}  // namespace purekv::reference
