// AttendTile: online softmax over blocks of keys (FlashAttention, arXiv 2205.14135), f32, on the processor's vectors.
//
// Logits are computed transposed, S^T = K Q^T: the queries are transposed once per tile, keys and values are read as
// they lie in the cache (a key's element is broadcast against a vector of query rows), and the softmax's maxima and
// sums run down the columns: no transposed keys, no sums across a vector. O += P V then broadcasts from P^T, whose
// consecutive rows are neighbours in memory.
#include "attention/tile.h"

#include <algorithm>
#include <limits>

#include "attention/few_rows.h"
#include "attention/kv_rows.h"
#include "base/error.h"
#include "kernels/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "attention/tile.cc"
// clang-format off
#include "hwy/foreach_target.h"  // must come before highway.h
#include "hwy/highway.h"
#include "attention/softmax-inl.h"
#include "attention/tile-inl.h"
#include "kernels/simd-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace purekv {
namespace HWY_NAMESPACE {

void AttendTileRows(const AttentionTile& tile, const PartialState& state, float* scratch) {
  const int64_t rows = tile.rows();
  const int64_t head_dim = tile.head_dim;
  const int64_t padded_rows = PaddedRows(rows);
  const int64_t value_width = WholeVecs(head_dim);
  const int64_t value_vecs = value_width / kLanes;
  const int64_t column_panels = (value_vecs + kMaxVecs - 1) / kMaxVecs;

  float* queries = scratch;                                                // per panel [head_dim][width]
  float* key_scratch = queries + padded_rows * head_dim;                   // [kBlockKeys][head_dim]
  float* value_scratch = key_scratch + kBlockKeys * PaddedRows(head_dim);  // [kBlockKeys][value_width]
  float* logits = value_scratch + kBlockKeys * PaddedRows(head_dim);       // [kBlockKeys][width]
  float* rescale = logits + kBlockKeys * kPanelRows;                       // [width]
  float* limits = rescale + kPanelRows;                                    // [width]
  float* begins = limits + kPanelRows;                                     // [width]

  // As ResetState, padding too: it is computed with, and never seen.
  std::fill_n(state.m, WholeVecs(rows), -std::numeric_limits<float>::infinity());
  std::fill_n(state.l, WholeVecs(rows), 0.0f);
  for (int64_t r = 0; r < rows; ++r) std::fill_n(state.o.Row(r), value_width, 0.0f);
  const int64_t key_end = std::min(tile.key_end, tile.limit(tile.q_rows - 1));
  if (tile.key_begin >= key_end) return;

  for (int64_t first = 0; first < rows; first += kPanelRows) {
    const int64_t count = std::min(kPanelRows, rows - first);
    const int64_t width = WholeVecs(count);
    PackQueries(tile, first, count, width, queries + first * head_dim);
  }
  const int64_t key_begin = std::max(tile.key_begin, tile.begin(0));
  for (int64_t block = key_begin; block < key_end; block += kBlockKeys) {
    const int64_t keys = std::min(kBlockKeys, key_end - block);
    const Block key_rows = BlockOf(KeyRowsOf(tile.kv, block, keys), tile.kv.dtype(), tile.kv.key_stride, keys, head_dim,
                                   false, key_scratch);
    const Block value_rows = BlockOf(ValueRowsOf(tile.kv, block, keys), tile.kv.dtype(), tile.kv.value_stride, keys,
                                     head_dim, true, value_scratch);
    for (int64_t first = 0; first < rows; first += kPanelRows) {
      const int64_t count = std::min(kPanelRows, rows - first);
      const int64_t width = WholeVecs(count);
      const int64_t first_row = first / tile.group;
      const int64_t last_row = (first + count - 1) / tile.group;
      if (tile.limit(last_row) <= block || tile.begin(first_row) >= block + keys) continue;
      const bool begins_here = tile.begin(last_row) > block;
      const bool masked = begins_here || tile.limit(first_row) < block + keys;
      for (int64_t c = 0; masked && c < width; ++c) {
        const int64_t row = (first + std::min(c, count - 1)) / tile.group;
        limits[c] = static_cast<float>(std::clamp<int64_t>(tile.limit(row) - block, 0, keys));
        begins[c] = static_cast<float>(std::clamp<int64_t>(tile.begin(row) - block, 0, keys));
      }
      ProductVecs<false>(
          {key_rows.data, key_rows.stride, 1, queries + first * head_dim, width, head_dim, logits, width, nullptr},
          keys, width / kLanes);
      AddBias(tile.kv.bias == nullptr ? nullptr : tile.kv.bias + block, keys, width, logits);
      BlockSoftmax(logits, keys, width, masked ? limits : nullptr, begins_here ? begins : nullptr, state.m + first,
                   state.l + first, rescale);
      int64_t vec = 0;
      for (int64_t panel = 0; panel < column_panels; ++panel) {  // panels of even width: 5 vectors are 3 + 2, not 4 + 1
        const int64_t end = value_vecs * (panel + 1) / column_panels;
        ProductVecs<true>({logits, 1, width, value_rows.data + vec * kLanes, value_rows.stride, keys,
                           state.o.Row(first) + vec * kLanes, state.o.stride, rescale},
                          count, end - vec);
        vec = end;
      }
    }
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace purekv
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace purekv {
namespace {
HWY_EXPORT(AttendTileRows);
}  // namespace

int64_t TileScratchFloats(int64_t rows, int64_t head_dim) {
  return PaddedRows(rows) * PaddedRows(head_dim) + 2 * kWidestBlockKeys * PaddedRows(head_dim) +
         kWidestBlockKeys * kWidestPanel + 3 * kWidestPanel;
}

void AttendTile(const AttentionTile& tile, const PartialState& state, float* scratch) {
  PUREKV_CHECK(state.o.rows == tile.rows() && state.o.cols == tile.head_dim, "state and tile of different shapes");
  PUREKV_CHECK(state.o.stride >= PaddedRows(tile.head_dim), "state rows are not padded");
  // The kernel for few rows knows no beginnings; a single row's is key_begin.
  if (tile.rows() <= kFewRows && tile.ends == nullptr && (tile.window == 0 || tile.q_rows == 1)) {
    AttendFewRows(tile, state, scratch);
  } else {
    HWY_DYNAMIC_DISPATCH(AttendTileRows)(tile, state, scratch);
  }
}

}  // namespace purekv
#endif  // HWY_ONCE
