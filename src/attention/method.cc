#include "attention/method.h"

#include "attention/few_rows.h"
#include "base/error.h"

namespace purekv {
namespace {

// (query row, head of the group) pairs per tile: keys and values converted or copied once serve them all.
constexpr int64_t kTileRows = 128;
// On bf16 products a tile's keys come from the second-level cache: more rows read them less often.
constexpr int64_t kBf16TileRows = 256;

}  // namespace

void CheckOutput(const AnyMatrixView& out, int64_t rows, int64_t cols) {
  PUREKV_CHECK(out.rows == rows && out.cols == cols, out.rows, " x ", out.cols, " output for ", rows, " x ", cols);
  PUREKV_CHECK(out.dtype == Dtype::kF32 || out.dtype == Dtype::kBF16, DtypeName(out.dtype));
}

TileOutput AttentionTarget::Tile(int64_t first_row, const AttentionTile& tile, int64_t first_head) const {
  const AnyMatrixView part =
      out.Rows(first_row, tile.q_rows).Cols(first_head * tile.head_dim, tile.group * tile.head_dim);
  return {part, lse == nullptr ? nullptr : lse + first_row * heads + first_head, heads};
}

void AttentionTarget::Finish(const AttentionTile& tile, const PartialState& state, int64_t first_row,
                             int64_t first_head) const {
  for (int64_t i = 0; i < tile.q_rows; ++i) {
    const int64_t r = i * tile.group;
    const PartialState part{state.m + r, state.l + r, state.o.Rows(r, tile.group)};
    AnyMatrixView row = out.Rows(first_row + i, 1).Cols(first_head * tile.head_dim, tile.head_dim);
    row.rows = tile.group;  // the heads of a row lie one after another
    row.stride = tile.head_dim;
    FinishState(part, row, lse == nullptr ? nullptr : lse + (first_row + i) * heads + first_head, 1);
  }
}

int64_t AttentionMethod::tile_rows() const {
  return prepares() ? kBf16TileRows : kTileRows;
}

int64_t AttentionMethod::ScratchBytes(int64_t rows) const {
  if (bf16 == nullptr) return TileScratchFloats(rows, head_dim) * static_cast<int64_t>(sizeof(float));
  return few ? FewRowsScratchBytes(head_dim) : Bf16ScratchBytes(rows, head_dim);
}

void AttentionMethod::Attend(const AttentionTile& tile, const PreparedHead* prepared, const PartialState& state,
                             char* scratch) const {
  if (bf16 == nullptr) {
    AttendTile(tile, state, reinterpret_cast<float*>(scratch));
  } else if (few) {
    bf16->attend_few(tile, state, scratch);
  } else {
    bf16->attend(tile, *prepared, state, scratch);
  }
}

AttentionMethod ChooseMethod(bool bf16, bool in_place, int64_t rows, int64_t head_dim) {
  const Bf16Kernel* kernel = bf16 && head_dim <= kWidestBf16Head ? ChooseBf16Kernel() : nullptr;
  if (kernel == nullptr) return {nullptr, false, head_dim};
  if (in_place && rows <= kBf16FewRows && kernel->attend_few != nullptr) return {kernel, true, head_dim};
  // Too few to pay for a transposed copy of the values.
  if (rows <= kFewRows) return {nullptr, false, head_dim};
  return {kernel, false, head_dim};
}

int64_t StateBytes(int64_t rows, int64_t head_dim) {
  return CeilDiv(StateFloats(rows, head_dim) * static_cast<int64_t>(sizeof(float)), 64) * 64;
}

}  // namespace purekv
