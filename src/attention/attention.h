// Exact softmax attention over per-head key/value lists: never an N x N matrix (online softmax over key tiles,
// FlashAttention, arXiv 2205.14135).
#pragma once

#include <cstdint>
#include <span>

#include "base/any_matrix.h"
#include "base/matrix.h"
#include "kernels/kv_view.h"

namespace purekv {

struct AttentionArgs {
  MatrixView<const float> q;       // [rows, heads * head_dim], rotated, not scaled
  std::span<const KvHeadView> kv;  // [kv_heads]; query head h uses KV head h / (heads / kv_heads); lengths may differ
  int64_t heads = 0;
  int64_t head_dim = 0;
  float scale = 0;  // usually head_dim^-0.5
  // true: the last `rows` entries of every KV head are the rows' own keys, so row i sees the first
  // length - rows + i + 1 entries. false: every row sees everything.
  bool causal = true;
  AnyMatrixView out;     // [rows, heads * head_dim], f32 or bf16, written
  float* lse = nullptr;  // [rows, heads], written when given: log sum exp of the scaled logits (natural log)
};

// Any number of rows and lengths. A row that sees no key gets zeros and lse = -infinity. Products and sums in f32
// whatever the KV dtype. The same bits on any number of threads. Working memory: about 0.4 MB per thread at head_dim
// 128 (kept for the next call), and up to 9 MB of partial states while few rows attend to many keys; nothing grows with
// the length.
void Attention(const AttentionArgs& args);

// Attention inside consecutive segments: rows [cu_segments[s], cu_segments[s+1]) see exactly one another (vision
// windows, frames). q, k, v [rows, heads * head_dim] f32; cu_segments ascending from 0 to rows; out as above.
void SegmentAttention(MatrixView<const float> q, MatrixView<const float> k, MatrixView<const float> v, int64_t heads,
                      int64_t head_dim, float scale, std::span<const int64_t> cu_segments, AnyMatrixView out);

}  // namespace purekv
