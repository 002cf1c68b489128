// Planning and threading of exact attention; the arithmetic is in tile.cc.
#include "attention/attention.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "attention/bf16_kernel.h"
#include "attention/few_rows.h"
#include "attention/partial_state.h"
#include "attention/reference.h"
#include "attention/scratch.h"
#include "attention/tile.h"
#include "base/cpu.h"
#include "base/error.h"
#include "base/threads.h"
#include "kernels/elementwise.h"
#include "kernels/simd_target.h"

namespace purekv {
namespace {

// (query row, head of the group) pairs per tile: keys and values converted or copied once serve them all.
constexpr int64_t kTileRows = 128;
// On bf16 products a tile's keys come from the second-level cache: more rows read them less often.
constexpr int64_t kBf16TileRows = 256;
// Longer segments prepare their keys and values once for all tiles; shorter ones inside their own task.
constexpr int64_t kLongSegment = 256;
// Fewer tiles than kEnoughTiles, and the keys are split into ranges of at least kSplitKeys, kWantedTasks in all, so
// that decode (one tile per KV head) keeps many cores busy. Decided by the shapes alone, never by the number of
// threads: results are the same on any number. Splitting is not free: 60 tiles of a block of 512 rows, split in two,
// took a third longer than unsplit, for the fresh memory of their states.
constexpr int64_t kEnoughTiles = 24;
constexpr int64_t kWantedTasks = 64;
constexpr int64_t kSplitKeys = 512;
constexpr size_t kFewStateBytes = size_t{1} << 19;
constexpr int64_t kSplitStep = 128;  // ranges begin at multiples of it: whole blocks of the bf16 kernels

int64_t CeilDiv(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// Where a finished tile goes.
struct Target {
  AnyMatrixView out;  // all rows, all heads
  float* lse = nullptr;
  int64_t heads = 0;

  // The part that a tile writes, whose first row and head these are.
  TileOutput Tile(int64_t first_row, const AttentionTile& tile, int64_t first_head) const {
    AnyMatrixView part = out.Rows(first_row, tile.q_rows);
    part.data = static_cast<char*>(part.data) + static_cast<size_t>(first_head * tile.head_dim) * DtypeSize(part.dtype);
    part.cols = tile.group * tile.head_dim;
    return {part, lse == nullptr ? nullptr : lse + first_row * heads + first_head, heads};
  }
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

// One way to run a tile: bf16 products where the kernel is there, else f32 through Highway.
struct Method {
  const Bf16Kernel* bf16 = nullptr;
  bool few = false;  // so few rows that nothing is prepared: the cache is read as it is
  int64_t head_dim = 0;

  bool prepares() const { return bf16 != nullptr && !few; }
  int64_t tile_rows() const { return prepares() ? kBf16TileRows : kTileRows; }
  int64_t ScratchBytes(int64_t rows) const {
    if (bf16 == nullptr) return TileScratchFloats(rows, head_dim) * static_cast<int64_t>(sizeof(float));
    return few ? FewRowsScratchBytes(head_dim) : Bf16ScratchBytes(rows, head_dim);
  }
  // `prepared` where prepares().
  void Attend(const AttentionTile& tile, const PreparedHead* prepared, const PartialState& state, char* scratch) const {
    if (bf16 == nullptr) {
      AttendTile(tile, state, reinterpret_cast<float*>(scratch));
    } else if (few) {
      bf16->attend_few(tile, state, scratch);
    } else {
      bf16->attend(tile, *prepared, state, scratch);
    }
  }
};

// `rows`: (query row, head) pairs of a KV head; `in_place`: keys and values are bf16 already.
Method ChooseMethod(bool bf16, bool in_place, int64_t rows, int64_t head_dim) {
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

// One short segment, all heads: a copy of its rows, read row by row as memory likes it. Read head by head, 320 bytes of
// each row 15 KB after those of the last, a window of 64 waited 42 ns for every cache line.
class Window {
 public:
  Window(MatrixView<const float> q, MatrixView<const float> k, MatrixView<const float> v, int64_t begin, int64_t end)
      : rows_(end - begin), cols_(q.cols) {
    static thread_local Buffer memory;
    const auto elements = static_cast<size_t>(rows_ * cols_);
    if (memory.size() < elements * 8) memory.Resize(elements * 8);
    q_ = static_cast<float*>(memory.data());
    k_ = reinterpret_cast<BF16*>(q_ + elements);
    v_ = k_ + elements;
    for (int64_t row = 0; row < rows_; ++row) {
      if (row + kAhead < rows_) {
        for (const auto* next : {&q, &k, &v}) Fetch(next->Row(begin + row + kAhead), cols_);
      }
      const int64_t at = row * cols_;
      Convert(q.Rows(begin + row, 1), {q_ + at, Dtype::kF32, 1, cols_, cols_});
      Convert(k.Rows(begin + row, 1), {k_ + at, Dtype::kBF16, 1, cols_, cols_});
      Convert(v.Rows(begin + row, 1), {v_ + at, Dtype::kBF16, 1, cols_, cols_});
    }
  }
  MatrixView<const float> queries() const { return {q_, rows_, cols_, cols_}; }
  KvHeadView Head(int64_t head, int64_t head_dim) const {
    return {k_ + head * head_dim, v_ + head * head_dim, rows_, cols_, cols_, Dtype::kBF16};
  }

 private:
  static constexpr int64_t kAhead = 1;  // rows asked for before they are read
  static void Fetch(const float* row, int64_t count) {
    for (int64_t i = 0; i < count; i += 16) __builtin_prefetch(row + i);
  }

  int64_t rows_;
  int64_t cols_;
  float* q_;
  BF16* k_;
  BF16* v_;
};

}  // namespace

std::string AttentionImplementation(bool bf16) {
  if (Cpu() == CpuLevel::kReference) return "reference";
  const Bf16Kernel* kernel = bf16 ? ChooseBf16Kernel() : nullptr;
  return kernel != nullptr ? CpuLevelName(kernel->level) : "highway " + SimdTarget();
}

std::string DecodeAttentionImplementation(bool bf16) {
  if (Cpu() == CpuLevel::kReference) return "reference";
  const Bf16Kernel* kernel = bf16 ? ChooseBf16Kernel() : nullptr;
  return kernel != nullptr && kernel->attend_few != nullptr ? CpuLevelName(kernel->level) : "highway " + SimdTarget();
}

std::vector<std::string> RefusedAttention(bool bf16) {
  std::vector<std::string> refused;
  for (const CpuLevel level : {CpuLevel::kAmxBf16, CpuLevel::kAvx512Bf16}) {
    const std::string name = CpuLevelName(level) + ": ";
    if (!bf16) {
      refused.push_back(name + "the model computes in f32");
    } else if (const std::string why = WhyNot(level); !why.empty()) {
      refused.push_back(name + why);
    }
  }
  if (!bf16 || ChooseBf16Kernel() == nullptr) {
    for (const std::string& target : RefusedSimdTargets()) refused.push_back(target);
  }
  return refused;
}

void Attention(const AttentionArgs& args) {
  UseCpuLevel();
  if (Cpu() == CpuLevel::kReference) {
    reference::Attention(args);
    return;
  }
  const auto kv_heads = static_cast<int64_t>(args.kv.size());
  const int64_t rows = args.q.rows;
  PUREKV_CHECK(kv_heads > 0 && args.heads % kv_heads == 0, args.heads, " heads, ", kv_heads, " KV heads");
  PUREKV_CHECK(args.q.cols == args.heads * args.head_dim, args.q.cols, " columns, ", args.heads, " heads of ",
               args.head_dim);
  CheckOut(args.out, rows, args.q.cols);
  if (rows == 0) return;
  const int64_t group = args.heads / kv_heads;
  const Method method = ChooseMethod(args.kv[0].dtype == Dtype::kBF16, true, rows * group, args.head_dim);
  const int64_t tile_rows = std::max<int64_t>(1, method.tile_rows() / group);
  const int64_t row_tiles = CeilDiv(rows, tile_rows);
  const int64_t tiles = kv_heads * row_tiles;
  int64_t longest = 0;
  for (const KvHeadView& kv : args.kv) longest = std::max(longest, kv.length);
  const int64_t wanted = tiles >= kEnoughTiles ? 1 : CeilDiv(kWantedTasks, tiles);
  const int64_t splits = std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, longest / kSplitKeys));
  const int64_t most_rows = std::min(rows, tile_rows) * group;
  const int64_t state_bytes = StateBytes(most_rows, args.head_dim);
  const int64_t scratch_bytes = CeilDiv(method.ScratchBytes(most_rows), 64) * 64;
  const Target target{args.out, args.lse, args.heads};
  AttentionWorkspace own;
  std::optional<PreparedHeads> prepared;
  if (method.prepares()) {
    Buffer& memory = args.workspace != nullptr ? args.workspace->prepared : own.prepared;
    prepared.emplace(*method.bf16, args.kv, args.head_dim, true, memory);
  }
  const auto head_of = [&](int64_t t) { return prepared ? &(*prepared)[static_cast<size_t>(t % kv_heads)] : nullptr; };

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
      char* memory = ThreadScratch(scratch_bytes + state_bytes);
      if (prepared) {
        method.bf16->attend_finish(tile, *head_of(t),
                                   target.Tile((row_tiles - 1 - t / kv_heads) * tile_rows, tile, t % kv_heads * group),
                                   memory);
        return;
      }
      const PartialState state = StateIn(reinterpret_cast<float*>(memory + scratch_bytes), tile.rows(), args.head_dim);
      method.Attend(tile, head_of(t), state, memory);
      finish(t, tile, state);
    });
    return;
  }
  // States of all ranges: fewer than kWantedTasks + tiles of them, 5 MB at 128 rows of head 128. Every row is written.
  Buffer& memory = args.workspace != nullptr ? args.workspace->states : own.states;
  const auto bytes = static_cast<size_t>(tiles * splits * state_bytes);
  if (memory.size() < bytes) memory.Resize(bytes);
  const auto state_of = [&](int64_t task, int64_t tile_rows_heads) {
    return StateIn(reinterpret_cast<float*>(static_cast<char*>(memory.data()) + task * state_bytes), tile_rows_heads,
                   args.head_dim);
  };
  ParallelFor(tiles * splits, [&](int64_t task) {
    AttentionTile tile = tile_at(task / splits);
    const int64_t split = task % splits;
    const int64_t length = tile.kv.length;
    tile.key_begin = length * split / splits / kSplitStep * kSplitStep;
    if (split + 1 < splits) tile.key_end = length * (split + 1) / splits / kSplitStep * kSplitStep;
    method.Attend(tile, head_of(task / splits), state_of(task, tile.rows()), ThreadScratch(scratch_bytes));
  });
  const auto merge = [&](int64_t t) {
    const AttentionTile tile = tile_at(t);
    const PartialState state = state_of(t * splits, tile.rows());
    for (int64_t split = 1; split < splits; ++split) MergeState(state, state_of(t * splits + split, tile.rows()));
    finish(t, tile, state);
  };
  // Waking the other threads costs more than the few rows of a decoded token.
  if (bytes <= kFewStateBytes) {
    for (int64_t t = 0; t < tiles; ++t) merge(t);
  } else {
    ParallelFor(tiles, merge);
  }
}

void AddToDenominator(AnyMatrixView out, int64_t heads, const float* lse, double n) {
  PUREKV_CHECK(n > 0 && out.cols % heads == 0, n, ", ", out.cols, " columns, ", heads, " heads");
  const int64_t head_dim = out.cols / heads;
  const auto log_n = static_cast<float>(std::log(n));
  ParallelFor(out.rows, [&](int64_t row) {
    for (int64_t head = 0; head < heads; ++head) {
      const float factor = 1.0F / (1.0F + std::exp(log_n - lse[row * heads + head]));
      if (out.dtype == Dtype::kF32) {
        float* x = static_cast<float*>(out.data) + row * out.stride + head * head_dim;
        for (int64_t d = 0; d < head_dim; ++d) x[d] *= factor;
      } else {
        BF16* x = static_cast<BF16*>(out.data) + row * out.stride + head * head_dim;
        for (int64_t d = 0; d < head_dim; ++d) x[d] = ToBF16(ToFloat(x[d]) * factor);
      }
    }
  });
}

void SegmentAttention(MatrixView<const float> q, MatrixView<const float> k, MatrixView<const float> v, int64_t heads,
                      int64_t head_dim, float scale, std::span<const int64_t> cu_segments, AnyMatrixView out,
                      AttentionWorkspace* workspace) {
  UseCpuLevel();
  if (Cpu() == CpuLevel::kReference) {
    reference::SegmentAttention(q, k, v, heads, head_dim, scale, cu_segments, out);
    return;
  }
  PUREKV_CHECK(q.cols == heads * head_dim && k.cols == q.cols && v.cols == q.cols, q.cols, " columns, ", heads,
               " heads of ", head_dim);
  PUREKV_CHECK(k.rows == q.rows && v.rows == q.rows, q.rows, " queries, ", k.rows, " keys, ", v.rows, " values");
  PUREKV_CHECK(!cu_segments.empty() && cu_segments.front() == 0 && cu_segments.back() == q.rows,
               "segments do not cover the rows");
  CheckOut(out, q.rows, q.cols);
  const Method method = ChooseMethod(out.dtype == Dtype::kBF16, false, q.rows, head_dim);
  const auto head_view = [&](int64_t begin, int64_t end, int64_t head) {
    return KvHeadView{
        k.Row(begin) + head * head_dim, v.Row(begin) + head * head_dim, end - begin, k.stride, v.stride, Dtype::kF32};
  };
  // One tile: rows [begin, end) of the head over all keys of `kv`.
  // The queries are those of row `first` on.
  const auto run = [&](MatrixView<const float> queries, int64_t first, const KvHeadView& kv,
                       const PreparedHead* prepared, int64_t begin, int64_t end, int64_t head, char* memory) {
    AttentionTile tile;
    tile.q = queries.Row(begin - first) + head * head_dim;
    tile.q_stride = queries.stride;
    tile.q_rows = end - begin;
    tile.group = 1;
    tile.head_dim = head_dim;
    tile.scale = scale;
    tile.kv = kv;
    tile.key_end = kv.length;
    tile.first_limit = kv.length;
    const Target target{out, nullptr, heads};
    if (prepared != nullptr) {
      method.bf16->attend_finish(tile, *prepared, target.Tile(begin, tile, head), memory);
      return;
    }
    const PartialState state = StateIn(reinterpret_cast<float*>(memory), tile.rows(), head_dim);
    method.Attend(tile, prepared, state, memory + StateBytes(tile.rows(), head_dim));
    Finish(tile, state, target, begin, head);
  };
  AttentionWorkspace own;
  struct Rows {
    int64_t segment_begin;
    int64_t segment_end;
    int64_t begin;
    int64_t end;
  };
  const int64_t tile_rows = method.tile_rows();
  const int64_t tile_bytes = StateBytes(tile_rows, head_dim) + method.ScratchBytes(tile_rows);
  // Tasks of the f32 kernel: tiles. Of the bf16 kernels: whole segments, so that keys and values are prepared once.
  std::vector<Rows> tasks;
  for (size_t s = 0; s + 1 < cu_segments.size(); ++s) {
    const int64_t first = cu_segments[s];
    const int64_t last = cu_segments[s + 1];
    PUREKV_CHECK(first <= last, "segments are not ascending");
    if (method.bf16 != nullptr && last - first > kLongSegment) {
      std::vector<KvHeadView> views;
      for (int64_t head = 0; head < heads; ++head) views.push_back(head_view(first, last, head));
      const PreparedHeads prepared(*method.bf16, views, head_dim, true,
                                   workspace != nullptr ? workspace->prepared : own.prepared);
      const int64_t tiles = CeilDiv(last - first, tile_rows);
      ParallelFor(tiles * heads, [&](int64_t task) {
        const auto head = static_cast<size_t>(task / tiles);
        const int64_t begin = first + task % tiles * tile_rows;
        run(q, 0, views[head], &prepared[head], begin, std::min(begin + tile_rows, last), task / tiles,
            ThreadScratch(tile_bytes));
      });
      continue;
    }
    const int64_t step = method.bf16 != nullptr ? kLongSegment : tile_rows;
    for (int64_t begin = first; begin < last; begin += step) {
      tasks.push_back({first, last, begin, std::min(begin + step, last)});
    }
  }
  if (method.bf16 != nullptr) {
    ParallelFor(static_cast<int64_t>(tasks.size()), [&](int64_t task) {
      const Rows& rows = tasks[static_cast<size_t>(task)];
      Window window(q, k, v, rows.segment_begin, rows.segment_end);
      for (int64_t head = 0; head < heads; ++head) {
        const KvHeadView kv = window.Head(head, head_dim);
        const int64_t tile_end = CeilDiv(tile_bytes, 64) * 64;
        char* memory = ThreadScratch(tile_end + PreparedBytes(kv, head_dim, true));
        const PreparedHead prepared = PrepareHead(*method.bf16, kv, head_dim, true, memory + tile_end);
        for (int64_t begin = rows.begin; begin < rows.end; begin += tile_rows) {
          run(window.queries(), rows.segment_begin, kv, &prepared, begin, std::min(begin + tile_rows, rows.end), head,
              memory);
        }
      }
    });
    return;
  }
  ParallelFor(static_cast<int64_t>(tasks.size()) * heads, [&](int64_t task) {
    const Rows& rows = tasks[static_cast<size_t>(task / heads)];
    const int64_t head = task % heads;
    run(q, 0, head_view(rows.segment_begin, rows.segment_end, head), nullptr, rows.begin, rows.end, head,
        ThreadScratch(tile_bytes));
  });
}

}  // namespace purekv
