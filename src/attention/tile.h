// The inner unit of exact attention: a tile of query rows against a range of keys of one KV head.
#pragma once

#include <cstdint>

#include "attention/partial_state.h"
#include "kernels/kv_view.h"

namespace purekv {

// Rows of the tile: every query head of one KV head's group at `q_rows` consecutive query rows; row r is head r % group
// at query row r / group, so that one read of the keys and values serves the whole group.
struct AttentionTile {
  const void* q = nullptr;  // first query row, first head of the group: [q_rows, group * head_dim], f32 or bf16
  Dtype q_dtype = Dtype::kF32;
  int64_t q_stride = 0;  // elements between query rows
  int64_t q_rows = 0;
  int64_t group = 0;
  int64_t head_dim = 0;
  float scale = 0;
  KvHeadView kv;
  // Keys [key_begin, key_end) of `kv`; query row i sees those below first_limit + i * limit_step (causal: step 1).
  int64_t key_begin = 0;
  int64_t key_end = 0;
  int64_t first_limit = 0;
  int64_t limit_step = 0;
  int64_t window = 0;  // > 0: of those only the last so many
  // In place of first_limit and limit_step where keys were chosen row by row: query row i sees keys
  // [begins[i], ends[i]) of `kv`. Both ascending; begins may be null (0).
  const int32_t* begins = nullptr;
  const int32_t* ends = nullptr;

  int64_t rows() const { return q_rows * group; }
  // Row r of the tile, head_dim elements.
  const void* Query(int64_t r) const {
    return static_cast<const char*>(q) +
           static_cast<size_t>(r / group * q_stride + r % group * head_dim) * DtypeSize(q_dtype);
  }
  // Keys [begin(i), limit(i)) are what query row i sees of the range; both never fall with i.
  int64_t begin(int64_t i) const {
    if (begins != nullptr) return begins[i];
    return window > 0 && limit(i) > window ? limit(i) - window : 0;
  }
  int64_t limit(int64_t i) const { return ends != nullptr ? ends[i] : first_limit + i * limit_step; }
};

// Where the finished rows of a tile go: row r of the tile to row r / group, columns from r % group * head_dim on.
struct TileOutput {
  AnyMatrixView out;     // [q_rows, group * head_dim], f32 or bf16
  float* lse = nullptr;  // lse[i * lse_stride + g], natural logarithm; or null
  int64_t lse_stride = 0;
};

// The largest blocks of keys and panels of rows that any SIMD target works in: what scratch is sized for.
constexpr int64_t kWidestBlockKeys = 96;
constexpr int64_t kWidestPanel = 64;

// Floats of scratch memory AttendTile needs: about 290 KB at 128 rows and head 128, whatever the number of keys.
int64_t TileScratchFloats(int64_t rows, int64_t head_dim);

// state = softmax state of the tile's rows over its keys. f32 queries. `scratch` is 64-byte aligned.
void AttendTile(const AttentionTile& tile, const PartialState& state, float* scratch);

}  // namespace purekv
