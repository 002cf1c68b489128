// Joining two parts of online softmax, on vectors: what sparse attention does with every row of every pass.
#pragma once

#include "attention/partial_state.h"
#include "base/any_matrix.h"

namespace purekv {

// As MergeState(into, part), except that an empty `into` need not hold anything but m = -infinity.
void JoinState(const PartialState& into, const PartialState& part);

// As MergeState(part, there), then FinishState(part, out, lse, 1), without changing either. there.m may be null: empty.
void FinishJoined(const PartialState& there, const PartialState& part, AnyMatrixView out, float* lse);

}  // namespace purekv
