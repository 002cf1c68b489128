#include "attention/observer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "attention/bf16_kernel.h"
#include "attention/column_tile.h"
#include "attention/reference.h"
#include "attention/scratch.h"
#include "base/cpu.h"
#include "base/error.h"
#include "base/threads.h"
#include "kernels/simd_target.h"

namespace purekv {
namespace {

constexpr float kLog2E = 1.44269504088896341F;
// Keys of one task: all queries pass by them.
constexpr int64_t kTaskKeys = 256;
// exp2 of anything minus this is 0, without the NaN that infinities can make.
constexpr float kNever = 1e30F;
constexpr int64_t kPackRows = 128;  // query rows packed by one task

// The rows of one KV head's group, as both kernels take them: row i * group + g is query row i of head g.
struct GroupRows {
  std::vector<float> lse;      // [rows * group], padded to panels with what does not count
  std::vector<float> weights;  // [planes][padded], empty without weights
};

GroupRows Gather(const ColumnSumsArgs& args, int64_t head, int64_t padded, float lse_unit, float never) {
  const int64_t group = args.heads / static_cast<int64_t>(args.kv.size());
  GroupRows out;
  out.lse.assign(static_cast<size_t>(padded), never);
  if (!args.weights.empty()) out.weights.assign(static_cast<size_t>(args.planes() * padded), 0.0F);
  for (int64_t i = 0; i < args.q.rows; ++i) {
    for (int64_t g = 0; g < group; ++g) {
      const int64_t from = i * args.heads + head * group + g;
      const auto to = static_cast<size_t>(i * group + g);
      // A row that saw nothing has lse = -infinity; it adds nothing. NaN: see SpreadNotANumber.
      if (std::isfinite(args.lse[from])) out.lse[to] = args.lse[from] * lse_unit;
      for (int64_t plane = 0; plane < args.planes() && !args.weights.empty(); ++plane) {
        out.weights[static_cast<size_t>(plane * padded) + to] = args.weights[static_cast<size_t>(plane)][from];
      }
    }
  }
  return out;
}

AttentionTile GroupTile(const ColumnSumsArgs& args, int64_t head) {
  const int64_t group = args.heads / static_cast<int64_t>(args.kv.size());
  AttentionTile tile;
  tile.q = args.q.data + head * group * args.head_dim;
  tile.q_stride = args.q.stride;
  tile.q_rows = args.q.rows;
  tile.group = group;
  tile.head_dim = args.head_dim;
  tile.scale = args.scale;
  tile.kv = args.kv[static_cast<size_t>(head)];
  tile.key_end = tile.kv.length;
  tile.first_limit = args.causal ? tile.kv.length - args.q.rows + 1 : tile.kv.length;
  tile.limit_step = args.causal ? 1 : 0;
  return tile;
}

// The planes' sums of one KV head.
std::vector<double*> SumsOf(const ColumnSumsArgs& args, int64_t head) {
  std::vector<double*> out;
  for (size_t i = static_cast<size_t>(head); i < args.sums.size(); i += args.kv.size()) out.push_back(args.sums[i]);
  return out;
}

// body(head, first key, last key) for ranges of all heads' keys, in parallel.
template <class Body>
void ForKeyRanges(const ColumnSumsArgs& args, const Body& body) {
  int64_t longest = 0;
  for (const KvHeadView& kv : args.kv) longest = std::max(longest, kv.length);
  const auto kv_heads = static_cast<int64_t>(args.kv.size());
  const int64_t ranges = (longest + kTaskKeys - 1) / kTaskKeys;
  ParallelFor(ranges * kv_heads, [&](int64_t task) {
    const int64_t head = task % kv_heads;
    const int64_t begin = task / kv_heads * kTaskKeys;
    const int64_t end = std::min(begin + kTaskKeys, args.kv[static_cast<size_t>(head)].length);
    if (begin < end) body(head, begin, end);
  });
}

void RunBf16(const Bf16Kernel& kernel, const ColumnSumsArgs& args, bool maxima) {
  const auto kv_heads = static_cast<int64_t>(args.kv.size());
  const int64_t group = args.heads / kv_heads;
  const int64_t padded = PanelRows(args.q.rows * group);
  AttentionWorkspace own;
  const PreparedHeads prepared(kernel, args.kv, args.head_dim, false,
                               args.workspace != nullptr ? args.workspace->prepared : own.prepared);
  const int64_t head_elements = padded * PaddedHeadDim(args.head_dim);
  Matrix<BF16> queries(kv_heads, head_elements);
  std::vector<GroupRows> rows(static_cast<size_t>(kv_heads));
  std::vector<std::vector<int32_t>> limits(static_cast<size_t>(kv_heads));
  // Whole panels per task: kPackRows query rows of a group make a multiple of 32 rows.
  const int64_t parts = (args.q.rows + kPackRows - 1) / kPackRows;
  ParallelFor(kv_heads * parts, [&](int64_t task) {
    const int64_t head = task / parts;
    const int64_t first = task % parts * kPackRows;
    AttentionTile tile = GroupTile(args, head);
    tile.q = tile.Query(first * group);
    tile.q_rows = std::min(kPackRows, args.q.rows - first);
    kernel.pack_queries(tile, queries.Row(head) + first * group * PaddedHeadDim(args.head_dim));
    if (first > 0) return;
    const AttentionTile all = GroupTile(args, head);
    rows[static_cast<size_t>(head)] = Gather(args, head, padded, kLog2E, kNever);
    auto& limit = limits[static_cast<size_t>(head)];
    limit.resize(static_cast<size_t>(padded));
    for (int64_t r = 0; r < padded; ++r) {
      const int64_t row = std::min(r / group, args.q.rows - 1);
      limit[static_cast<size_t>(r)] =
          static_cast<int32_t>(std::clamp<int64_t>(all.first_limit + row * all.limit_step, 0, all.kv.length));
    }
  });
  ForKeyRanges(args, [&](int64_t head, int64_t begin, int64_t end) {
    const auto h = static_cast<size_t>(head);
    ColumnTile tile;
    tile.queries = queries.Row(head);
    tile.lse = rows[h].lse.data();
    tile.limits = limits[h].data();
    tile.weights = args.weights.empty() ? nullptr : rows[h].weights.data();
    tile.planes = args.planes();
    tile.squares = args.squares;
    tile.panels = padded / 32;
    tile.head_dim = args.head_dim;
    tile.scale = args.scale;
    tile.kv = prepared[h];
    tile.key_begin = begin;
    tile.key_end = end;
    const auto run = maxima ? kernel.column_maxima : kernel.column_sums;
    run(tile, SumsOf(args, head).data(), ThreadScratch(Bf16ColumnScratchBytes(args.planes())));
  });
}

void RunFloat(const ColumnSumsArgs& args, bool maxima) {
  const auto kv_heads = static_cast<int64_t>(args.kv.size());
  const int64_t padded = args.q.rows * (args.heads / kv_heads);
  std::vector<GroupRows> rows;
  for (int64_t head = 0; head < kv_heads; ++head) {
    rows.push_back(Gather(args, head, padded, 1.0F, std::numeric_limits<float>::infinity()));
  }
  ForKeyRanges(args, [&](int64_t head, int64_t begin, int64_t end) {
    ColumnRows tile;
    tile.tile = GroupTile(args, head);
    tile.tile.key_begin = begin;
    tile.tile.key_end = end;
    const GroupRows& group = rows[static_cast<size_t>(head)];
    tile.lse = group.lse.data();
    tile.weights = args.weights.empty() ? nullptr : group.weights.data();
    tile.weight_stride = padded;
    tile.planes = args.planes();
    tile.squares = args.squares;
    tile.maxima = maxima;
    AddColumns(tile, SumsOf(args, head).data(), ThreadScratch(ColumnScratchBytes(args.planes(), args.head_dim)));
  });
}

// The kernels' exp makes 0 of NaN. A row whose log-sum-exp is no number must not look like one that attended to
// nothing: every key it sees gets NaN, as in the reference.
void SpreadNotANumber(const ColumnSumsArgs& args) {
  const auto kv_heads = static_cast<int64_t>(args.kv.size());
  const int64_t group = args.heads / kv_heads;
  for (int64_t head = 0; head < kv_heads; ++head) {
    const AttentionTile tile = GroupTile(args, head);
    int64_t seen = 0;
    for (int64_t i = 0; i < args.q.rows; ++i) {
      const float* lse = args.lse + i * args.heads + head * group;
      const bool bad =
          std::any_of(lse, lse + group, [](float x) { return !(x < std::numeric_limits<float>::infinity()); });
      if (bad) seen = std::clamp<int64_t>(tile.first_limit + i * tile.limit_step, seen, tile.kv.length);
    }
    for (double* sums : SumsOf(args, head)) std::fill_n(sums, seen, std::numeric_limits<double>::quiet_NaN());
  }
}

void Run(const ColumnSumsArgs& args, bool maxima) {
  const auto kv_heads = static_cast<int64_t>(args.kv.size());
  PUREKV_CHECK(kv_heads > 0 && args.heads % kv_heads == 0, args.heads, " heads, ", kv_heads, " KV heads");
  PUREKV_CHECK(args.q.cols == args.heads * args.head_dim, args.q.cols, " columns, ", args.heads, " heads of ",
               args.head_dim);
  PUREKV_CHECK(static_cast<int64_t>(args.sums.size()) == args.planes() * kv_heads, args.sums.size(),
               " lists of sums for ", args.planes(), " planes of ", kv_heads, " KV heads");
  PUREKV_CHECK(args.weights.empty() || !(maxima || args.squares), "maxima or squares of weighted rows");
  PUREKV_CHECK(!maxima || !args.squares, "maxima and squares");
  if (args.q.rows == 0) return;
  UseCpuLevel();
  if (Cpu() == CpuLevel::kReference) {
    maxima ? reference::ColumnMaxima(args) : reference::ColumnSums(args);
    return;
  }
  const bool bf16 = args.kv[0].format == KvFormat::kBF16 && !HasBias(args.kv) && args.head_dim <= kWidestBf16Head;
  const Bf16Kernel* kernel = bf16 ? ChooseBf16Kernel() : nullptr;
  if (kernel != nullptr) {
    RunBf16(*kernel, args, maxima);
  } else {
    RunFloat(args, maxima);
  }
  SpreadNotANumber(args);
}

}  // namespace

void ColumnSums(const ColumnSumsArgs& args) {
  Run(args, false);
}

void ColumnMaxima(const ColumnSumsArgs& args) {
  Run(args, true);
}

}  // namespace purekv
