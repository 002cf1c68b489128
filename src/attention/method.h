// How a tile of attention is run, and where its rows go: what the planners (attention.cc, segments.cc) share.
#pragma once

#include <cstdint>

#include "attention/bf16_kernel.h"
#include "attention/partial_state.h"
#include "attention/tile.h"
#include "base/any_matrix.h"

namespace purekv {

constexpr int64_t CeilDiv(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// Stops unless `out` is f32 or bf16, [rows, cols].
void CheckOutput(const AnyMatrixView& out, int64_t rows, int64_t cols);

// Where finished tiles go.
struct AttentionTarget {
  AnyMatrixView out;     // all rows, all heads
  float* lse = nullptr;  // [rows, heads]; or null
  int64_t heads = 0;

  // The part that a tile writes, whose first row and head these are.
  TileOutput Tile(int64_t first_row, const AttentionTile& tile, int64_t first_head) const;
  // Writes the tile's state there, one query row at a time.
  void Finish(const AttentionTile& tile, const PartialState& state, int64_t first_row, int64_t first_head) const;
};

// One way to run a tile: bf16 products where the kernel is there, else f32 through Highway.
struct AttentionMethod {
  const Bf16Kernel* bf16 = nullptr;
  bool few = false;  // so few rows that nothing is prepared: the cache is read as it is
  int64_t head_dim = 0;

  bool prepares() const { return bf16 != nullptr && !few; }
  int64_t tile_rows() const;
  int64_t ScratchBytes(int64_t rows) const;
  // `prepared` where prepares(). Scratch of ScratchBytes, 64-byte aligned.
  void Attend(const AttentionTile& tile, const PreparedHead* prepared, const PartialState& state, char* scratch) const;
};

// `rows`: (query row, head) pairs of a KV head; `in_place`: keys and values are bf16 already, and may be read as a
// cache is by a decoded token.
AttentionMethod ChooseMethod(bool bf16, bool in_place, int64_t rows, int64_t head_dim);

// Bytes of a state of [rows, head_dim], a multiple of 64.
int64_t StateBytes(int64_t rows, int64_t head_dim);

}  // namespace purekv
