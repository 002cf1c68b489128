// Planning and threading of exact attention; the arithmetic is in tile.cc.
#include "attention/attention.h"

#include <algorithm>
#include <vector>

#include "attention/partial_state.h"
#include "attention/tile.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/threads.h"

namespace purekv {
namespace {

// (query row, head of the group) pairs per tile: keys and values converted or copied once serve them all.
constexpr int64_t kTileRows = 128;
// Fewer tiles than this, and the keys are split into ranges of at least kSplitKeys, so that decode (one tile per KV
// head) keeps many cores busy. Decided by the shapes alone, never by the number of threads: results are the same on any
// number.
constexpr int64_t kWantedTasks = 64;
constexpr int64_t kSplitKeys = 512;

// The calling thread's scratch memory, kept for its next tile: taking a fresh block from the system for each tile of a
// vision window cost as much as the tile. Grows to the largest tile seen: StateFloats + TileScratchFloats, 360 KB at
// head 128.
float* ThreadScratch(int64_t floats) {
  static thread_local Buffer buffer;
  const size_t bytes = static_cast<size_t>(floats) * sizeof(float);
  if (buffer.size() < bytes) buffer.Resize(bytes);
  return static_cast<float*>(buffer.data());
}

int64_t CeilDiv(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// Where a finished tile goes.
struct Target {
  AnyMatrixView out;  // all rows, all heads
  float* lse = nullptr;
  int64_t heads = 0;
};

// State rows (query row i, head g of the group) to out rows, one query row at a time.
void Finish(const AttentionTile& tile, const PartialState& state, const Target& target, int64_t first_row,
            int64_t first_head) {
  for (int64_t i = 0; i < tile.q_rows; ++i) {
    const int64_t r = i * tile.group;
    const PartialState part{state.m + r, state.l + r, state.o.Rows(r, tile.group)};
    const AnyMatrixView row = target.out.Rows(first_row + i, 1);
    char* data = static_cast<char*>(row.data) + static_cast<size_t>(first_head * tile.head_dim) * DtypeSize(row.dtype);
    float* lse = target.lse == nullptr ? nullptr : target.lse + (first_row + i) * target.heads + first_head;
    FinishState(part, {data, row.dtype, tile.group, tile.head_dim, tile.head_dim}, lse, 1);
  }
}

void CheckOut(const AnyMatrixView& out, int64_t rows, int64_t cols) {
  PUREKV_CHECK(out.rows == rows && out.cols == cols, out.rows, " x ", out.cols, " output for ", rows, " x ", cols);
  PUREKV_CHECK(out.dtype == Dtype::kF32 || out.dtype == Dtype::kBF16, DtypeName(out.dtype));
}

}  // namespace

void Attention(const AttentionArgs& args) {
  const auto kv_heads = static_cast<int64_t>(args.kv.size());
  const int64_t rows = args.q.rows;
  PUREKV_CHECK(kv_heads > 0 && args.heads % kv_heads == 0, args.heads, " heads, ", kv_heads, " KV heads");
  PUREKV_CHECK(args.q.cols == args.heads * args.head_dim, args.q.cols, " columns, ", args.heads, " heads of ",
               args.head_dim);
  CheckOut(args.out, rows, args.q.cols);
  if (rows == 0) return;
  const int64_t group = args.heads / kv_heads;
  const int64_t tile_rows = std::max<int64_t>(1, kTileRows / group);
  const int64_t row_tiles = CeilDiv(rows, tile_rows);
  const int64_t tiles = kv_heads * row_tiles;
  int64_t longest = 0;
  for (const KvHeadView& kv : args.kv) longest = std::max(longest, kv.length);
  const int64_t splits =
      std::clamp<int64_t>(CeilDiv(kWantedTasks, tiles), 1, std::max<int64_t>(1, longest / kSplitKeys));
  const int64_t state_floats = StateFloats(std::min(rows, tile_rows) * group, args.head_dim);
  const int64_t scratch_floats = TileScratchFloats(std::min(rows, tile_rows) * group, args.head_dim);
  const Target target{args.out, args.lse, args.heads};

  // Tile t: KV head t % kv_heads; the last rows first, as they see the most keys.
  const auto tile_at = [&](int64_t t) {
    const KvHeadView& kv = args.kv[static_cast<size_t>(t % kv_heads)];
    const int64_t first_row = (row_tiles - 1 - t / kv_heads) * tile_rows;
    AttentionTile tile;
    tile.q = args.q.Row(first_row) + t % kv_heads * group * args.head_dim;
    tile.q_stride = args.q.stride;
    tile.q_rows = std::min(tile_rows, rows - first_row);
    tile.group = group;
    tile.head_dim = args.head_dim;
    tile.scale = args.scale;
    tile.kv = kv;
    tile.key_end = kv.length;
    tile.first_limit = args.causal ? kv.length - rows + first_row + 1 : kv.length;
    tile.limit_step = args.causal ? 1 : 0;
    return tile;
  };
  const auto finish = [&](int64_t t, const AttentionTile& tile, const PartialState& state) {
    Finish(tile, state, target, (row_tiles - 1 - t / kv_heads) * tile_rows, t % kv_heads * group);
  };

  if (splits == 1) {
    ParallelFor(tiles, [&](int64_t t) {
      const AttentionTile tile = tile_at(t);
      float* memory = ThreadScratch(state_floats + scratch_floats);
      const PartialState state = StateIn(memory + scratch_floats, tile.rows(), args.head_dim);
      AttendTile(tile, state, memory);
      finish(t, tile, state);
    });
    return;
  }
  // States of all ranges: fewer than kWantedTasks + tiles of them, 5 MB at 128 rows of head 128.
  Matrix<float> states(tiles * splits, CeilDiv(state_floats, 16) * 16);
  ParallelFor(tiles * splits, [&](int64_t task) {
    AttentionTile tile = tile_at(task / splits);
    const int64_t split = task % splits;
    const int64_t length = tile.kv.length;
    tile.key_begin = length * split / splits;
    tile.key_end = length * (split + 1) / splits;
    AttendTile(tile, StateIn(states.Row(task), tile.rows(), args.head_dim), ThreadScratch(scratch_floats));
  });
  ParallelFor(tiles, [&](int64_t t) {
    const AttentionTile tile = tile_at(t);
    const PartialState state = StateIn(states.Row(t * splits), tile.rows(), args.head_dim);
    for (int64_t split = 1; split < splits; ++split) {
      MergeState(state, StateIn(states.Row(t * splits + split), tile.rows(), args.head_dim));
    }
    finish(t, tile, state);
  });
}

void SegmentAttention(MatrixView<const float> q, MatrixView<const float> k, MatrixView<const float> v, int64_t heads,
                      int64_t head_dim, float scale, std::span<const int64_t> cu_segments, AnyMatrixView out) {
  PUREKV_CHECK(q.cols == heads * head_dim && k.cols == q.cols && v.cols == q.cols, q.cols, " columns, ", heads,
               " heads of ", head_dim);
  PUREKV_CHECK(k.rows == q.rows && v.rows == q.rows, q.rows, " queries, ", k.rows, " keys, ", v.rows, " values");
  PUREKV_CHECK(!cu_segments.empty() && cu_segments.front() == 0 && cu_segments.back() == q.rows,
               "segments do not cover the rows");
  CheckOut(out, q.rows, q.cols);
  struct Rows {
    int64_t segment_begin;
    int64_t segment_end;
    int64_t begin;
    int64_t end;
  };
  std::vector<Rows> tiles;
  for (size_t s = 0; s + 1 < cu_segments.size(); ++s) {
    PUREKV_CHECK(cu_segments[s] <= cu_segments[s + 1], "segments are not ascending");
    for (int64_t begin = cu_segments[s]; begin < cu_segments[s + 1]; begin += kTileRows) {
      tiles.push_back({cu_segments[s], cu_segments[s + 1], begin, std::min(begin + kTileRows, cu_segments[s + 1])});
    }
  }
  const int64_t state_floats = StateFloats(kTileRows, head_dim);
  const int64_t scratch_floats = TileScratchFloats(kTileRows, head_dim);
  ParallelFor(static_cast<int64_t>(tiles.size()) * heads, [&](int64_t task) {
    const Rows& rows = tiles[static_cast<size_t>(task / heads)];
    const int64_t head = task % heads;
    AttentionTile tile;
    tile.q = q.Row(rows.begin) + head * head_dim;
    tile.q_stride = q.stride;
    tile.q_rows = rows.end - rows.begin;
    tile.group = 1;
    tile.head_dim = head_dim;
    tile.scale = scale;
    tile.kv = {k.Row(rows.segment_begin) + head * head_dim,
               v.Row(rows.segment_begin) + head * head_dim,
               rows.segment_end - rows.segment_begin,
               k.stride,
               v.stride,
               Dtype::kF32};
    tile.key_end = tile.kv.length;
    tile.first_limit = tile.kv.length;
    float* memory = ThreadScratch(state_floats + scratch_floats);
    const PartialState state = StateIn(memory + scratch_floats, tile.rows(), head_dim);
    AttendTile(tile, state, memory);
    Finish(tile, state, {out, nullptr, heads}, rows.begin, head);
  });
}

}  // namespace purekv
