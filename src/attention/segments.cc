// Attention inside segments: windows and frames of a vision tower.
#include <algorithm>
#include <limits>
#include <vector>

#include "attention/attention.h"
#include "attention/bf16_kernel.h"
#include "attention/method.h"
#include "attention/reference.h"
#include "attention/scratch.h"
#include "base/cpu.h"
#include "base/error.h"
#include "base/threads.h"
#include "kernels/elementwise.h"
#include "kernels/simd_target.h"

namespace purekv {
namespace {

// Longer segments prepare their keys and values once for all tiles; shorter ones inside their own task.
constexpr int64_t kLongSegment = 256;
// Short segments per task, at most: within a task the next segment is asked for while one is computed.
constexpr int64_t kTaskSegments = 16;

struct Segment {
  int64_t begin;
  int64_t end;
  int64_t rows() const { return end - begin; }
};

std::vector<Segment> SegmentsOf(std::span<const int64_t> cu_segments, int64_t rows) {
  PUREKV_CHECK(!cu_segments.empty() && cu_segments.front() == 0 && cu_segments.back() == rows,
               "segments do not cover the rows");
  std::vector<Segment> segments;
  for (size_t s = 0; s + 1 < cu_segments.size(); ++s) {
    PUREKV_CHECK(cu_segments[s] <= cu_segments[s + 1], "segments are not ascending");
    if (cu_segments[s] < cu_segments[s + 1]) segments.push_back({cu_segments[s], cu_segments[s + 1]});
  }
  return segments;
}

// Queries, keys and values of consecutive rows.
struct Rows {
  AnyMatrixView q, k, v;

  Rows Part(const Segment& segment) const {
    return {q.Rows(segment.begin, segment.rows()), k.Rows(segment.begin, segment.rows()),
            v.Rows(segment.begin, segment.rows())};
  }
  KvHeadView Head(int64_t head, int64_t head_dim) const {
    return {k.Cols(head * head_dim, head_dim).data,
            v.Cols(head * head_dim, head_dim).data,
            k.rows,
            k.stride,
            v.stride,
            FormatOf(k.dtype)};
  }
  // Query rows [begin, end) of the head over all keys.
  AttentionTile Tile(int64_t begin, int64_t end, int64_t head, int64_t head_dim, float scale) const {
    const AnyMatrixView queries = q.Rows(begin, end - begin).Cols(head * head_dim, head_dim);
    AttentionTile tile;
    tile.q = queries.data;
    tile.q_dtype = q.dtype;
    tile.q_stride = q.stride;
    tile.q_rows = end - begin;
    tile.group = 1;
    tile.head_dim = head_dim;
    tile.scale = scale;
    tile.kv = Head(head, head_dim);
    tile.key_end = k.rows;
    tile.first_limit = k.rows;
    return tile;
  }
};

int64_t Aligned(int64_t bytes) {
  return CeilDiv(bytes, 64) * 64;
}

// The same rows as bf16, one after another in `memory` of BF16Bytes.
Rows ToBF16Rows(const Rows& from, char* memory) {
  const auto convert = [&](const AnyMatrixView& x) {
    const AnyMatrixView to{memory, Dtype::kBF16, x.rows, x.cols, x.cols};
    memory += Aligned(x.rows * x.cols * 2);
    Convert({static_cast<const float*>(x.data), x.rows, x.cols, x.stride}, to);
    return to;
  };
  const AnyMatrixView q = convert(from.q);
  const AnyMatrixView k = convert(from.k);
  return {q, k, convert(from.v)};
}

int64_t BF16Bytes(const Rows& rows) {
  return 3 * Aligned(rows.q.rows * rows.q.cols * 2);
}

// Where bf16 rows meet a machine without products of bf16.
AnyMatrix ToFloatRows(const AnyMatrixView& x) {
  AnyMatrix out(Dtype::kF32, x.rows, x.cols);
  float* to = static_cast<float*>(out.View().data);
  ParallelFor(x.rows, [&](int64_t row) { ToFloats(x.Rows(row, 1).data, x.dtype, x.cols, to + row * x.cols); });
  return out;
}

void RunOnFloats(const SegmentAttentionArgs& args, const AttentionMethod& method,
                 const std::vector<Segment>& segments) {
  const Rows all{args.q, args.k, args.v};
  const AttentionTarget target{args.out, nullptr, args.heads};
  std::vector<Segment> tiles;
  std::vector<Segment> of;  // the segment of each tile
  for (const Segment& segment : segments) {
    for (int64_t begin = segment.begin; begin < segment.end; begin += method.tile_rows()) {
      tiles.push_back({begin, std::min(begin + method.tile_rows(), segment.end)});
      of.push_back(segment);
    }
  }
  const int64_t state_bytes = StateBytes(method.tile_rows(), args.head_dim);
  ParallelFor(static_cast<int64_t>(tiles.size()) * args.heads, [&](int64_t task) {
    const auto t = static_cast<size_t>(task / args.heads);
    const int64_t head = task % args.heads;
    const int64_t first = of[t].begin;
    const AttentionTile tile =
        all.Part(of[t]).Tile(tiles[t].begin - first, tiles[t].end - first, head, args.head_dim, args.scale);
    char* memory = ThreadScratch(state_bytes + method.ScratchBytes(method.tile_rows()));
    const PartialState state = StateIn(reinterpret_cast<float*>(memory), tile.rows(), args.head_dim);
    method.Attend(tile, nullptr, state, memory + state_bytes);
    target.Finish(tile, state, tiles[t].begin, head);
  });
}

// Products of bf16: keys and values of a segment are prepared once.
class Bf16Segments {
 public:
  Bf16Segments(const SegmentAttentionArgs& args, const AttentionMethod& method)
      : args_(args),
        method_(method),
        all_{args.q, args.k, args.v},
        target_{args.out, nullptr, args.heads},
        tile_bytes_(Aligned(method.ScratchBytes(method.tile_rows()))) {}

  // All threads on one segment.
  void Long(const Segment& segment, AttentionWorkspace& workspace) const {
    const Rows rows = all_.Part(segment);
    std::vector<KvHeadView> heads;
    for (int64_t head = 0; head < args_.heads; ++head) heads.push_back(rows.Head(head, args_.head_dim));
    const PreparedHeads prepared(*method_.bf16, heads, args_.head_dim, true, workspace.prepared);
    const int64_t tiles = CeilDiv(segment.rows(), method_.tile_rows());
    ParallelFor(tiles * args_.heads, [&](int64_t task) {
      const int64_t head = task / tiles;
      Tile(rows, segment.begin, task % tiles * method_.tile_rows(), head, prepared[static_cast<size_t>(head)],
           ThreadScratch(tile_bytes_));
    });
  }

  // On the calling thread. `next` (may be null) will follow.
  void Short(const Segment& segment, const Segment* next) const {
    Rows rows = all_.Part(segment);
    const int64_t copied_bytes = rows.q.dtype == Dtype::kBF16 ? 0 : BF16Bytes(rows);
    KvHeadView any = rows.Head(0, args_.head_dim);
    any.format = KvFormat::kBF16;
    const bool window = method_.bf16->attend_window != nullptr;
    const int64_t scratch_bytes = window ? Aligned(WindowScratchBytes(segment.rows(), args_.head_dim))
                                         : tile_bytes_ + Aligned(PreparedBytes(any, args_.head_dim, true));
    char* const memory = ThreadScratch(scratch_bytes + copied_bytes);
    if (copied_bytes > 0) rows = ToBF16Rows(rows, memory + scratch_bytes);
    for (int64_t head = 0; head < args_.heads; ++head) {
      NextRows share = next != nullptr ? Share(*next, head) : NextRows();
      if (window) {
        const AttentionTile tile = rows.Tile(0, segment.rows(), head, args_.head_dim, args_.scale);
        method_.bf16->attend_window(tile, target_.Tile(segment.begin, tile, head).out, share, memory);
        continue;
      }
      share.Ask(std::numeric_limits<int64_t>::max());
      const PreparedHead prepared =
          PrepareHead(*method_.bf16, rows.Head(head, args_.head_dim), args_.head_dim, true, memory + tile_bytes_);
      for (int64_t begin = 0; begin < segment.rows(); begin += method_.tile_rows()) {
        Tile(rows, segment.begin, begin, head, prepared, memory);
      }
    }
  }

 private:
  void Tile(const Rows& rows, int64_t first, int64_t begin, int64_t head, const PreparedHead& prepared,
            char* memory) const {
    const int64_t end = std::min(begin + method_.tile_rows(), rows.q.rows);
    const AttentionTile tile = rows.Tile(begin, end, head, args_.head_dim, args_.scale);
    method_.bf16->attend_finish(tile, prepared, target_.Tile(first + begin, tile, head), memory);
  }

  // One head's share of a segment's rows, whole rows as they lie in memory. Asked for in one go, 128 windows of 64 rows
  // took 8.9 ms; a few lines at a time, 6.7; with longer tasks and the output's rows, 4.6.
  NextRows Share(const Segment& segment, int64_t head) const {
    const int64_t first = segment.begin + segment.rows() * head / args_.heads;
    const int64_t end = segment.begin + segment.rows() * (head + 1) / args_.heads;
    const auto part = [&](const AnyMatrixView& x) {
      return NextRows::Part{static_cast<const char*>(x.Rows(first, 1).data),
                            x.stride * static_cast<int64_t>(DtypeSize(x.dtype))};
    };
    return {{part(all_.q), part(all_.k), part(all_.v), part(args_.out)},
            end - first,
            all_.q.cols * static_cast<int64_t>(DtypeSize(all_.q.dtype))};
  }

  const SegmentAttentionArgs& args_;
  AttentionMethod method_;
  Rows all_;
  AttentionTarget target_;
  int64_t tile_bytes_;
};

void CheckArgs(const SegmentAttentionArgs& args) {
  const AnyMatrixView& q = args.q;
  PUREKV_CHECK(q.cols == args.heads * args.head_dim && args.k.cols == q.cols && args.v.cols == q.cols, q.cols,
               " columns, ", args.heads, " heads of ", args.head_dim);
  PUREKV_CHECK(args.k.rows == q.rows && args.v.rows == q.rows, q.rows, " queries, ", args.k.rows, " keys, ",
               args.v.rows, " values");
  PUREKV_CHECK(q.dtype == Dtype::kF32 || q.dtype == Dtype::kBF16, DtypeName(q.dtype));
  PUREKV_CHECK(args.k.dtype == q.dtype && args.v.dtype == q.dtype, DtypeName(q.dtype), " queries, ",
               DtypeName(args.k.dtype), " keys, ", DtypeName(args.v.dtype), " values");
  CheckOutput(args.out, q.rows, q.cols);
}

}  // namespace

void SegmentAttention(const SegmentAttentionArgs& args) {
  UseCpuLevel();
  CheckArgs(args);
  const std::vector<Segment> segments = SegmentsOf(args.cu_segments, args.q.rows);
  if (Cpu() == CpuLevel::kReference) {
    reference::SegmentAttention(args);
    return;
  }
  const bool bf16 = args.q.dtype == Dtype::kBF16 || args.out.dtype == Dtype::kBF16;
  const AttentionMethod method = ChooseMethod(bf16, false, args.q.rows, args.head_dim);
  if (method.bf16 == nullptr) {
    if (args.q.dtype == Dtype::kF32) return RunOnFloats(args, method, segments);
    AnyMatrix q = ToFloatRows(args.q);
    AnyMatrix k = ToFloatRows(args.k);
    AnyMatrix v = ToFloatRows(args.v);
    SegmentAttentionArgs floats = args;
    floats.q = q.View();
    floats.k = k.View();
    floats.v = v.View();
    return RunOnFloats(floats, method, segments);
  }
  const Bf16Segments run(args, method);
  AttentionWorkspace own;
  std::vector<Segment> shorts;
  for (const Segment& segment : segments) {
    if (segment.rows() > kLongSegment) {
      run.Long(segment, args.workspace != nullptr ? *args.workspace : own);
    } else {
      shorts.push_back(segment);
    }
  }
  const auto count = static_cast<int64_t>(shorts.size());
  const int64_t grain = std::clamp<int64_t>(count / Threads(), 1, kTaskSegments);
  ParallelForRanges(count, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      run.Short(shorts[static_cast<size_t>(i)], i + 1 < end ? &shorts[static_cast<size_t>(i + 1)] : nullptr);
    }
  });
}

}  // namespace purekv
