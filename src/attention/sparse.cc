#include "attention/sparse.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "attention/bf16_kernel.h"
#include "attention/kv_rows.h"
#include "attention/merge_states.h"
#include "attention/partial_state.h"
#include "attention/reference.h"
#include "attention/scratch.h"
#include "attention/tile.h"
#include "base/cpu.h"
#include "base/error.h"
#include "base/threads.h"
#include "kernels/simd_target.h"

namespace purekv {
namespace {

// (query row, head of the group) pairs per tile, as in method.cc.
constexpr int64_t kTileRows = 128;
constexpr int64_t kBf16TileRows = 256;
// Keys gathered at a time: 2 MB with their values at head 128, which stays in the second-level cache or nearly so.
constexpr int64_t kChunkKeys = 4096;
// Fewer parts than this, and their rows are shared out over more tasks, each of which gathers the part's keys again.
// Decided by the shapes alone, never by the number of threads.
constexpr int64_t kWantedTasks = 32;
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

int64_t CeilDiv(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

int64_t Aligned(int64_t bytes) {
  return CeilDiv(bytes, 64) * 64;
}

// Where a head keeps a key that the plan names.
class EntryMap {
 public:
  EntryMap(const SparseAttentionArgs& args, size_t head) {
    if (args.tokens.empty()) return;
    const std::span<const int32_t> tokens = args.tokens[head];
    PUREKV_CHECK(static_cast<int64_t>(tokens.size()) == args.dense.kv[head].length, tokens.size(), " tokens");
    if (tokens.empty() || tokens.back() + 1 == static_cast<int32_t>(tokens.size()))
      return;  // every token, in its place
    entry_of_.assign(static_cast<size_t>(tokens.back()) + 1, -1);
    for (size_t i = 0; i < tokens.size(); ++i) entry_of_[static_cast<size_t>(tokens[i])] = static_cast<int32_t>(i);
  }
  bool identity() const { return entry_of_.empty(); }
  // -1: not there.
  int32_t operator[](int32_t key) const {
    return static_cast<size_t>(key) < entry_of_.size() ? entry_of_[static_cast<size_t>(key)] : -1;
  }

 private:
  std::vector<int32_t> entry_of_;
};

// The states of a block's rows between passes: of row i and query head h at i * heads + h.
struct BlockStates {
  float* m = nullptr;
  float* l = nullptr;
  float* o = nullptr;  // [rows * heads, head_dim]
};

struct Task {
  const SparsePart* part = nullptr;
  int64_t kv_head = 0;
  int64_t first = 0;  // row of the part
  int64_t count = 0;
};

// The keys that a task's rows see in one head's cache, and each row's range of them.
struct TaskKeys {
  std::vector<int32_t> entries;
  std::vector<int32_t> begins, ends;  // [task.count]
};

class Runner {
 public:
  Runner(const SparseAttentionArgs& args, const SparsePlan& plan)
      : args_(args.dense),
        plan_(plan),
        kv_heads_(static_cast<int64_t>(args.dense.kv.size())),
        group_(args.dense.heads / kv_heads_),
        dim_(args.dense.head_dim) {
    const bool bf16 = args_.kv[0].format == KvFormat::kBF16 && !HasBias(args_.kv) && dim_ <= kWidestBf16Head;
    kernel_ = bf16 ? ChooseBf16Kernel() : nullptr;
    tile_rows_ = std::max<int64_t>(1, (kernel_ != nullptr ? kBf16TileRows : kTileRows) / group_);
    for (size_t head = 0; head < args_.kv.size(); ++head) maps_.emplace_back(args, head);
  }

  void Run() {
    for (const DenseRows& rows : plan_.dense) RunDense(rows);
    if (plan_.passes.empty()) return;
    TakeStates();
    for (size_t pass = 0; pass < plan_.passes.size(); ++pass) {
      const std::vector<Task> tasks = Tasks(plan_.passes[pass]);
      const bool last = pass + 1 == plan_.passes.size();
      ParallelFor(static_cast<int64_t>(tasks.size()),
                  [&](int64_t task) { RunTask(tasks[static_cast<size_t>(task)], last); });
    }
  }

 private:
  void RunDense(const DenseRows& rows) const {
    AttentionArgs args = args_;
    args.q = args_.q.Rows(rows.first, rows.count);
    args.out = args_.out.Rows(rows.first, rows.count);
    if (args.lse != nullptr) args.lse += rows.first * args_.heads;
    std::vector<KvHeadView> kv(args_.kv.begin(), args_.kv.end());
    for (KvHeadView& head : kv) head.length -= args_.q.rows - rows.first - rows.count;
    args.kv = kv;
    Attention(args);
  }

  // Room for the states of all rows where something is left from one pass to the next.
  void TakeStates() {
    bool chunks = false;
    for (const SparsePart& part : plan_.passes.back()) chunks = chunks || part.keys.size() > kChunkKeys;
    if (plan_.passes.size() == 1 && !chunks) return;
    const int64_t count = plan_.rows * args_.heads;
    const auto bytes = static_cast<size_t>(count * (dim_ + 2)) * sizeof(float);
    Buffer& memory = args_.workspace != nullptr ? args_.workspace->states : own_states_;
    if (memory.size() < bytes) memory.Resize(bytes);
    states_.o = static_cast<float*>(memory.data());
    states_.m = states_.o + count * dim_;
    states_.l = states_.m + count;
    std::fill_n(states_.m, count, kMinusInfinity);
  }

  std::vector<Task> Tasks(const std::vector<SparsePart>& parts) const {
    std::vector<Task> tasks;
    int64_t most = 0;
    for (const SparsePart& part : parts) most += part.kv_head < 0 ? kv_heads_ : 1;
    const int64_t pieces = most > 0 ? CeilDiv(kWantedTasks, most) : 1;
    for (const SparsePart& part : parts) {
      const int64_t rows = part.rows.size();
      PUREKV_CHECK(static_cast<int64_t>(part.ends.size()) == rows, part.ends.size(), " ends of ", rows, " rows");
      const int64_t step = std::max(tile_rows_, CeilDiv(CeilDiv(rows, pieces), tile_rows_) * tile_rows_);
      for (int64_t head = 0; head < kv_heads_; ++head) {
        if (part.kv_head >= 0 && part.kv_head != head) continue;
        const int64_t count = CeilDiv(rows, step);
        for (int64_t i = 0; i < count; ++i) {
          const int64_t first = rows * i / count;
          tasks.push_back({&part, head, first, rows * (i + 1) / count - first});
        }
      }
    }
    return tasks;
  }

  void FindKeys(const Task& task, TaskKeys* out) const {
    const SparsePart& part = *task.part;
    const EntryMap& map = maps_[static_cast<size_t>(task.kv_head)];
    const int32_t low = part.begins.empty() ? 0 : part.begins[static_cast<size_t>(task.first)];
    const int32_t high = std::max(low, part.ends[static_cast<size_t>(task.first + task.count - 1)]);
    out->entries.clear();
    std::vector<int32_t> before(static_cast<size_t>(map.identity() ? 0 : high - low + 1));  // kept keys before each
    int32_t at = 0;
    for (const IndexRun& run : part.keys.runs()) {
      const int32_t from = std::max(low - at, 0);
      const int32_t to = std::min(high - at, run.count);
      for (int32_t i = from; i < to; ++i) {
        const int32_t key = run.first + i * run.stride;
        if (map.identity()) {
          out->entries.push_back(key);
        } else {
          const int32_t entry = map[key];
          if (entry >= 0) out->entries.push_back(entry);
          before[static_cast<size_t>(at + i - low) + 1] = static_cast<int32_t>(out->entries.size());
        }
      }
      at += run.count;
      if (at >= high) break;
    }
    const auto place = [&](int32_t key) {
      key = std::clamp(key, low, high) - low;
      return map.identity() ? key : before[static_cast<size_t>(key)];
    };
    out->begins.clear();
    out->ends.clear();
    for (int64_t r = task.first; r < task.first + task.count; ++r) {
      out->begins.push_back(part.begins.empty() ? 0 : place(part.begins[static_cast<size_t>(r)]));
      out->ends.push_back(place(part.ends[static_cast<size_t>(r)]));
    }
  }

  // Memory of one task: what a tile works in, its state, gathered queries, gathered keys and values.
  struct TaskMemory {
    char* tile = nullptr;
    float* state = nullptr;
    float* queries = nullptr;
    char* keys = nullptr;
    char* values = nullptr;
    char* group = nullptr;  // kKeyGroup rows
  };
  TaskMemory TakeMemory(int64_t keys) const {
    const int64_t rows = tile_rows_ * group_;
    const int64_t tile_bytes = kernel_ != nullptr ? Bf16ScratchBytes(rows, dim_)
                                                  : TileScratchFloats(rows, dim_) * static_cast<int64_t>(sizeof(float));
    const int64_t state_bytes = StateFloats(rows, dim_) * static_cast<int64_t>(sizeof(float));
    const int64_t query_bytes = rows * dim_ * static_cast<int64_t>(sizeof(float));
    const int64_t width = kernel_ != nullptr ? PaddedHeadDim(dim_) : dim_;
    const int64_t row_bytes = width * static_cast<int64_t>(DtypeSize(args_.kv[0].dtype()));
    const int64_t list_bytes = CeilDiv(keys, kKeyGroup) * kKeyGroup * row_bytes;
    char* at = ThreadScratch(Aligned(tile_bytes) + Aligned(state_bytes) + Aligned(query_bytes) +
                             2 * Aligned(list_bytes) + Aligned(kKeyGroup * row_bytes));
    TaskMemory memory;
    memory.tile = at;
    memory.state = reinterpret_cast<float*>(at += Aligned(tile_bytes));
    memory.queries = reinterpret_cast<float*>(at += Aligned(state_bytes));
    memory.keys = at += Aligned(query_bytes);
    memory.values = at += Aligned(list_bytes);
    memory.group = at + Aligned(list_bytes);
    return memory;
  }

  // Keys or values of a list, one after another. Asks for them ahead: a frame apart, nothing in the hardware foresees
  // them. Encoded ones are turned into numbers, and those in a file copied, neighbours together.
  void CopyRows(const KvHeadView& kv, bool keys, std::span<const int32_t> entries, char* to) const {
    constexpr size_t kAhead = 8;
    const size_t bytes = static_cast<size_t>(dim_) * DtypeSize(kv.dtype());
    if (!kv.in_place()) {
      for (size_t i = 0; i < entries.size();) {
        size_t end = i + 1;
        while (end < entries.size() && end - i < kKeyGroup && entries[end] == entries[end - 1] + 1) ++end;
        const auto count = static_cast<int64_t>(end - i);
        const void* const rows = keys ? KeyRowsOf(kv, entries[i], count) : ValueRowsOf(kv, entries[i], count);
        std::memcpy(to + i * bytes, rows, (end - i) * bytes);
        i = end;
      }
      return;
    }
    const auto row_at = [&](int32_t entry) { return keys ? kv.KeyRow(entry) : kv.ValueRow(entry); };
    for (size_t i = 0; i < entries.size(); ++i) {
      if (i + kAhead < entries.size()) {
        const char* const next = static_cast<const char*>(row_at(entries[i + kAhead]));
        for (size_t b = 0; b < bytes; b += 64) __builtin_prefetch(next + b);
      }
      std::memcpy(to + i * bytes, row_at(entries[i]), bytes);
    }
  }

  // Keys and values of the list, as the products want them.
  PreparedHead Prepare(const KvHeadView& kv, std::span<const int32_t> entries, const TaskMemory& memory) const {
    const int64_t padded = PaddedHeadDim(dim_);
    const auto row_bytes = static_cast<size_t>(padded) * sizeof(BF16);
    PreparedHead head;
    head.keys = reinterpret_cast<const BF16*>(memory.keys);
    head.key_stride = padded;
    head.values = reinterpret_cast<const BF16*>(memory.values);
    head.length = static_cast<int64_t>(entries.size());
    for (size_t first = 0; first < entries.size(); first += kKeyGroup) {
      const auto list = entries.subspan(first, std::min<size_t>(kKeyGroup, entries.size() - first));
      const auto count = static_cast<int64_t>(list.size());
      BF16* keys = reinterpret_cast<BF16*>(memory.keys + first * row_bytes);
      BF16* values = reinterpret_cast<BF16*>(memory.values + first * row_bytes);
      if (padded == dim_) {
        CopyRows(kv, true, list, reinterpret_cast<char*>(keys));
        std::memset(keys + count * padded, 0, static_cast<size_t>(kKeyGroup - count) * row_bytes);
      } else {
        CopyRows(kv, true, list, memory.group);
        kernel_->copy_keys(memory.group, kv.dtype(), dim_, count, dim_, keys);
      }
      CopyRows(kv, false, list, memory.group);
      kernel_->pack_values(memory.group, kv.dtype(), dim_, count, dim_, values);
    }
    return head;
  }

  // Queries of the part's rows [first, first + count): in place where they lie evenly, else copied.
  void PlaceQueries(std::span<const int32_t> rows, int64_t kv_head, float* copied, AttentionTile* tile) const {
    const int64_t column = kv_head * group_ * dim_;
    const auto count = static_cast<int64_t>(rows.size());
    const int32_t step = count > 1 ? rows[1] - rows[0] : 1;
    bool even = true;
    for (int64_t i = 2; i < count; ++i) {
      even = even && rows[static_cast<size_t>(i)] - rows[static_cast<size_t>(i - 1)] == step;
    }
    if (even) {
      tile->q = args_.q.Row(rows[0]) + column;
      tile->q_stride = step * args_.q.stride;
      return;
    }
    const int64_t width = group_ * dim_;
    for (int64_t i = 0; i < count; ++i) {
      std::memcpy(copied + i * width, args_.q.Row(rows[static_cast<size_t>(i)]) + column,
                  static_cast<size_t>(width) * sizeof(float));
    }
    tile->q = copied;
    tile->q_stride = width;
  }

  void RunTask(const Task& task, bool last_pass) const {
    static thread_local TaskKeys keys;
    FindKeys(task, &keys);
    const std::vector<int32_t> rows = task.part->rows.Expanded();
    const auto total = static_cast<int64_t>(keys.entries.size());
    const TaskMemory memory = TakeMemory(std::min(total, kChunkKeys));
    const KvHeadView& kv = args_.kv[static_cast<size_t>(task.kv_head)];
    const int64_t tiles = CeilDiv(task.count, tile_rows_);
    std::vector<int32_t> begins(static_cast<size_t>(tile_rows_));
    std::vector<int32_t> ends(static_cast<size_t>(tile_rows_));
    std::vector<float> bias;
    int64_t chunk = 0;
    do {
      const int64_t length = std::min(kChunkKeys, total - chunk);
      const auto list = std::span(keys.entries).subspan(static_cast<size_t>(chunk), static_cast<size_t>(length));
      PreparedHead prepared;
      KvHeadView gathered;
      if (kernel_ != nullptr) {
        prepared = Prepare(kv, list, memory);
      } else {
        CopyRows(kv, true, list, memory.keys);
        CopyRows(kv, false, list, memory.values);
        gathered = {memory.keys, memory.values, length, dim_, dim_, kv.format};
        if (kv.bias != nullptr) {
          bias.clear();
          for (const int32_t entry : list) bias.push_back(kv.bias[entry]);
          gathered.bias = bias.data();
        }
      }
      const bool finish = last_pass && chunk + length == total;
      for (int64_t t = 0; t < tiles; ++t) {
        const int64_t first = task.count * t / tiles;
        const int64_t count = task.count * (t + 1) / tiles - first;
        AttentionTile tile;
        tile.q_rows = count;
        tile.group = group_;
        tile.head_dim = dim_;
        tile.scale = args_.scale;
        tile.kv = gathered;
        tile.key_end = length;
        const auto place = [&](int32_t key) {
          return static_cast<int32_t>(std::clamp<int64_t>(key - chunk, 0, length));
        };
        for (int64_t i = 0; i < count; ++i) {
          begins[static_cast<size_t>(i)] = place(keys.begins[static_cast<size_t>(first + i)]);
          ends[static_cast<size_t>(i)] = place(keys.ends[static_cast<size_t>(first + i)]);
        }
        tile.begins = begins.data();
        tile.ends = ends.data();
        const auto these = std::span(rows).subspan(static_cast<size_t>(task.first + first), static_cast<size_t>(count));
        PlaceQueries(these, task.kv_head, memory.queries, &tile);
        const PartialState state = StateIn(memory.state, tile.rows(), dim_);
        if (kernel_ != nullptr) {
          kernel_->attend(tile, prepared, state, memory.tile);
        } else {
          AttendTile(tile, state, reinterpret_cast<float*>(memory.tile));
        }
        Put(these, task.kv_head, state, finish);
      }
      chunk += length;
    } while (chunk < total);
  }

  // A tile's state joins what is there of its rows, or ends in the output with it.
  void Put(std::span<const int32_t> rows, int64_t kv_head, const PartialState& state, bool finish) const {
    for (size_t i = 0; i < rows.size(); ++i) {
      const int64_t cell = rows[i] * args_.heads + kv_head * group_;
      const auto r = static_cast<int64_t>(i) * group_;
      const PartialState part{state.m + r, state.l + r, state.o.Rows(r, group_)};
      PartialState there;
      if (states_.m != nullptr) {
        there = {states_.m + cell, states_.l + cell, {states_.o + cell * dim_, group_, dim_, dim_}};
      }
      if (!finish) {
        JoinState(there, part);
        continue;
      }
      const AnyMatrixView row = args_.out.Rows(rows[i], 1);
      char* data = static_cast<char*>(row.data) + static_cast<size_t>(kv_head * group_ * dim_) * DtypeSize(row.dtype);
      FinishJoined(there, part, {data, row.dtype, group_, dim_, dim_},
                   args_.lse == nullptr ? nullptr : args_.lse + cell);
    }
  }

  const AttentionArgs& args_;
  const SparsePlan& plan_;
  int64_t kv_heads_, group_, dim_;
  const Bf16Kernel* kernel_ = nullptr;
  int64_t tile_rows_ = 0;
  std::vector<EntryMap> maps_;
  BlockStates states_;
  Buffer own_states_;
};

}  // namespace

void SparseAttention(const SparseAttentionArgs& args, const SparsePlan& plan) {
  UseCpuLevel();
  PUREKV_CHECK(plan.rows == args.dense.q.rows, "a plan of ", plan.rows, " rows for ", args.dense.q.rows);
  PUREKV_CHECK(args.dense.causal, "sparse attention is causal");
  PUREKV_CHECK(args.tokens.empty() || args.tokens.size() == args.dense.kv.size(), args.tokens.size(), " lists");
  if (Cpu() == CpuLevel::kReference) {
    reference::SparseAttention(args, plan);
    return;
  }
  const auto kv_heads = static_cast<int64_t>(args.dense.kv.size());
  PUREKV_CHECK(kv_heads > 0 && args.dense.heads % kv_heads == 0, args.dense.heads, " heads, ", kv_heads, " KV heads");
  PUREKV_CHECK(args.dense.q.cols == args.dense.heads * args.dense.head_dim, args.dense.q.cols, " columns");
  if (plan.rows > 0) Runner(args, plan).Run();
}

}  // namespace purekv
