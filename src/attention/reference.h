// Slow twins of exact attention: all logits of one row at a time, in double; what the tests compare every
// implementation with.
#pragma once

#include "attention/attention.h"
#include "attention/observer.h"
#include "attention/sparse.h"

namespace purekv::reference {

void Attention(const AttentionArgs& args);
void SegmentAttention(const SegmentAttentionArgs& args);
void ColumnSums(const ColumnSumsArgs& args);
void ColumnMaxima(const ColumnSumsArgs& args);
void SparseAttention(const SparseAttentionArgs& args, const SparsePlan& plan);

}  // namespace purekv::reference
