// Exact softmax attention over per-head key/value lists: never an N x N matrix (online softmax over key tiles,
// FlashAttention, arXiv 2205.14135).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/any_matrix.h"
#include "base/matrix.h"
#include "base/memory.h"
#include "kernels/kv_view.h"

namespace purekv {

// Memory kept from call to call.
struct AttentionWorkspace {
  Buffer prepared;  // the transposed copy of the values that bf16 products need: up to one layer's values in bytes
  Buffer states;    // partial states where keys are split over tasks: up to 9 MB; and those that
                    // sparse attention (sparse.h) leaves from one pass to the next
};

struct AttentionArgs {
  MatrixView<const float> q;       // [rows, heads * head_dim], rotated, not scaled
  std::span<const KvHeadView> kv;  // [kv_heads]; query head h uses KV head h / (heads / kv_heads); lengths may differ
  int64_t heads = 0;
  int64_t head_dim = 0;
  float scale = 0;  // usually head_dim^-0.5
  // true: the last `rows` entries of every KV head are the rows' own keys, so row i sees the first
  // length - rows + i + 1 entries. false: every row sees everything.
  bool causal = true;
  // > 0, with causal: of the entries that a row sees only the last `window`, its own among them.
  int64_t window = 0;
  AnyMatrixView out;     // [rows, heads * head_dim], f32 or bf16, written
  float* lse = nullptr;  // [rows, heads], written when given: log sum exp of the scaled logits (natural log)
  AttentionWorkspace* workspace = nullptr;  // null: a fresh one for this call
};

// Any number of rows and lengths. A row that sees no key gets zeros and lse = -infinity. The same bits on any number of
// threads. bf16 keys and more than a handful of rows: products of bf16 pairs with f32 sums where the CPU level has
// them, queries and probabilities rounded to bf16; all else in f32. Working memory: about 0.5 MB per thread at head_dim
// 128 (kept for the next call), up to 9 MB of partial states while few rows attend to many keys, and, on bf16 products,
// a transposed copy of the values (and of keys that cannot be read directly: head_dim not a multiple of 32).
void Attention(const AttentionArgs& args);

// Turns attention into the softmax with n added to its denominator (softmax-off-by-n): out *= sigmoid(lse - ln n) per
// row and head. out [rows, heads * head_dim] as Attention wrote it, lse [rows, heads], n > 0.
void AddToDenominator(AnyMatrixView out, int64_t heads, const float* lse, double n);

// Attention inside consecutive segments: rows [cu_segments[s], cu_segments[s+1]) see exactly one another (vision
// windows, frames).
struct SegmentAttentionArgs {
  AnyMatrixView q, k, v;  // [rows, heads * head_dim], one format, f32 or bf16; rotated, q not scaled
  int64_t heads = 0;
  int64_t head_dim = 0;
  float scale = 0;                       // usually head_dim^-0.5
  std::span<const int64_t> cu_segments;  // ascending from 0 to rows
  AnyMatrixView out;                     // [rows, heads * head_dim], f32 or bf16, written
  AttentionWorkspace* workspace = nullptr;
};

// Products of bf16 where the rows or `out` are bf16 and the CPU level has them, else in f32.
void SegmentAttention(const SegmentAttentionArgs& args);

// What runs: "amx_bf16", "avx512_bf16", "highway AVX2", "reference" ... for bf16 or f32 keys.
std::string AttentionImplementation(bool bf16);
// The same for a single query row.
std::string DecodeAttentionImplementation(bool bf16);
// Better implementations that do not run, each with the reason: "amx_bf16: this processor lacks it".
std::vector<std::string> RefusedAttention(bool bf16);

}  // namespace purekv
