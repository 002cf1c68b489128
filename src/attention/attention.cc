// Planning and threading of exact attention; the arithmetic is in tile.cc (f32) and bf16_kernel-inl.h (products of
// bf16).
#include "attention/attention.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "attention/bf16_kernel.h"
#include "attention/few_rows.h"
#include "attention/method.h"
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

// Fewer tiles than kEnoughTiles, and the keys are split into ranges of at least kSplitKeys, kWantedTasks in all, so
// that decode (one tile per KV head) keeps many cores busy. Decided by the shapes alone, never by the number of
// threads: results are the same on any number. Splitting is not free: 60 tiles of a block of 512 rows, split in two,
// took a third longer than unsplit, for the fresh memory of their states. The first block of a range is read unasked:
// 32 tasks instead of 64 took 3 % off a decode of 32k keys.
constexpr int64_t kEnoughTiles = 24;
constexpr int64_t kWantedTasks = 32;
constexpr int64_t kSplitKeys = 512;
constexpr size_t kFewStateBytes = size_t{1} << 19;
constexpr int64_t kSplitStep = 128;  // ranges begin at multiples of it: whole blocks of the bf16 kernels

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
  CheckOutput(args.out, rows, args.q.cols);
  if (rows == 0) return;
  const int64_t group = args.heads / kv_heads;
  const bool bf16 = args.kv[0].format == KvFormat::kBF16 && !HasBias(args.kv);
  PUREKV_CHECK(args.window >= 0 && (args.window == 0 || args.causal), "window ", args.window);
  // The kernels that read the cache in place know no beginnings, but where a single row's keys begin.
  const bool in_place = args.window == 0 || rows == 1;
  // Few rows multiply codes as they are.
  const bool codes = rows * group <= kFewRows && HasEncoded(args.kv);
  const AttentionMethod method = ChooseMethod(bf16 && !codes, in_place, rows * group, args.head_dim);
  const int64_t tile_rows = std::max<int64_t>(1, method.tile_rows() / group);
  const int64_t row_tiles = CeilDiv(rows, tile_rows);
  const int64_t tiles = kv_heads * row_tiles;
  int64_t longest = 0;
  for (const KvHeadView& kv : args.kv) longest = std::max(longest, kv.length);
  if (args.window > 0) longest = std::min(longest, args.window + std::min(rows, tile_rows));
  const int64_t wanted = tiles >= kEnoughTiles ? 1 : CeilDiv(kWantedTasks, tiles);
  const int64_t splits = std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, longest / kSplitKeys));
  const int64_t most_rows = std::min(rows, tile_rows) * group;
  const int64_t state_bytes = StateBytes(most_rows, args.head_dim);
  const int64_t scratch_bytes = CeilDiv(method.ScratchBytes(most_rows), 64) * 64;
  const AttentionTarget target{args.out, args.lse, args.heads};
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
    if (args.window > 0) {
      tile.window = args.window;
      tile.key_end = std::clamp<int64_t>(tile.limit(tile.q_rows - 1), 0, kv.length);
      // Packed keys come in groups.
      tile.key_begin = method.prepares() ? tile.begin(0) / kSplitStep * kSplitStep : tile.begin(0);
    }
    return tile;
  };
  const auto finish = [&](int64_t t, const AttentionTile& tile, const PartialState& state) {
    target.Finish(tile, state, (row_tiles - 1 - t / kv_heads) * tile_rows, t % kv_heads * group);
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
    const int64_t first = tile.key_begin;
    const int64_t length = tile.key_end - first;
    const auto range_begin = [&](int64_t s) { return first + length * s / splits / kSplitStep * kSplitStep; };
    if (split + 1 < splits) tile.key_end = range_begin(split + 1);
    tile.key_begin = range_begin(split);
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

}  // namespace purekv
