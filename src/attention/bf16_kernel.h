// Exact attention on bf16 products (AVX512-BF16, AMX): what the planning in attention.cc asks of an implementation.
//
// Everything is transposed: S^T = K Q^T, O^T = V^T P^T. A lane is then a query, so that the softmax needs no sum across
// lanes; keys are read from the cache as they lie, and the values' transpose is made once for all queries of a call.
// Queries are rounded as they are and the scale comes after the product, as elsewhere: bf16 queries stay exact.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "attention/partial_state.h"
#include "attention/tile.h"
#include "base/bfloat16.h"
#include "base/cpu.h"
#include "base/memory.h"
#include "kernels/kv_view.h"

namespace purekv {

// Wider heads go to the f32 kernels.
constexpr int64_t kWidestBf16Head = 256;

// Keys between two looks at the maxima. 256 instead of 128: 5 % off frames of 1024 rows.
constexpr int64_t kBf16BlockKeys = 256;

// Keys per group: the depth of one product of bf16 pairs; packed values come in groups.
constexpr int64_t kKeyGroup = 32;

// The head dimension as the products see it: zeros behind head_dim.
constexpr int64_t PaddedHeadDim(int64_t head_dim) {
  return (head_dim + 31) / 32 * 32;
}

// One KV head, ready for the products. Keys: rows of bf16, whole groups at `keys` (the cache itself where it can be
// read directly) and the last, partial group, zeros behind its end, at `tail`. Values: per group, V^T as
// [padded head_dim][32 keys].
struct PreparedHead {
  const BF16* keys = nullptr;
  int64_t key_stride = 0;
  const BF16* tail = nullptr;  // [32][padded head_dim]; null when the length is a multiple of 32
  const BF16* values = nullptr;
  int64_t length = 0;

  const BF16* Keys(int64_t group, int64_t padded_dim, int64_t* stride) const {
    const bool last = tail != nullptr && (group + 1) * kKeyGroup > length;
    *stride = last ? padded_dim : key_stride;
    return last ? tail : keys + group * kKeyGroup * key_stride;
  }
};

// Sums of attention probabilities over rows, for a range of keys: see ColumnSums in observer.h.
struct ColumnTile {
  const BF16* queries = nullptr;    // panels as PackQueries leaves them
  const float* lse = nullptr;       // [panels * 32], in log2 units; +infinity for rows that do not count
  const int32_t* limits = nullptr;  // [panels * 32]: keys below it are seen
  const float* weights = nullptr;   // [planes][panels * 32]; null: one plane of ones,
  bool squares = false;             // and a second one of the squares of the probabilities
  int64_t planes = 1;
  int64_t panels = 0;
  int64_t head_dim = 0;
  float scale = 0;
  PreparedHead kv;
  int64_t key_begin = 0;  // a multiple of 32
  int64_t key_end = 0;
};

// Pieces of memory that will be needed next, asked for a few cache lines at a time between other work: a core holds a
// dozen and a half of its own requests, and memory answers after 100 to 400 ns.
class NextRows {
 public:
  NextRows() = default;
  // Rows of `bytes` each, of four matrices in turns, the last of which will be written: without asking for those too, a
  // window waited for its stores.
  struct Part {
    const char* first = nullptr;
    int64_t stride = 0;  // bytes
  };
  NextRows(const Part (&parts)[4], int64_t rows, int64_t bytes) : rows_(rows), bytes_(bytes) {
    for (int i = 0; i < 4; ++i) parts_[i] = parts[i];
    if (rows > 0) Begin();
  }
  void Ask(int64_t lines) {
    for (; lines > 0 && rows_ > 0; --lines) {
      if (part_ == 3)
        __builtin_prefetch(at_, 1);
      else
        __builtin_prefetch(at_);
      at_ += 64;
      if (at_ < end_) continue;
      parts_[part_].first += parts_[part_].stride;
      part_ = (part_ + 1) % 4;
      rows_ -= part_ == 0 ? 1 : 0;
      Begin();
    }
  }

 private:
  void Begin() {
    at_ = parts_[part_].first;
    end_ = at_ + bytes_;
  }

  Part parts_[4];
  int64_t rows_ = 0;
  int64_t bytes_ = 0;
  int part_ = 0;
  const char* at_ = nullptr;
  const char* end_ = nullptr;
};

struct Bf16Kernel {
  CpuLevel level;
  // Up to 32 rows of keys (f32 or bf16) as one group: bf16 rows of padded head_dim.
  void (*copy_keys)(const void* keys, Dtype dtype, int64_t stride, int64_t count, int64_t head_dim, BF16* group);
  // Up to 32 rows of values (f32 or bf16) as one group of V^T.
  void (*pack_values)(const void* values, Dtype dtype, int64_t stride, int64_t count, int64_t head_dim, BF16* group);
  // `rows` query rows of `group` heads each as panels of 32 (row, head) pairs: per panel
  // [head_dim / 32][2][16 pairs of elements][16 rows][2], zeros behind the rows and behind head_dim.
  void (*pack_queries)(const AttentionTile& tile, BF16* panels);
  // As AttendTile over keys [key_begin, key_end), key_begin a multiple of 32. Scratch of Bf16ScratchBytes, 64-byte
  // aligned.
  void (*attend)(const AttentionTile& tile, const PreparedHead& kv, const PartialState& state, char* scratch);
  // The same, straight to the output: a state written and read again cost 15 % of a prefill of 4096 tokens.
  void (*attend_finish)(const AttentionTile& tile, const PreparedHead& kv, const TileOutput& output, char* scratch);
  // All rows of one head (group 1) over all keys of a short segment, queries, keys and values bf16; to `out` [q_rows,
  // head_dim], f32 or bf16. Scratch of WindowScratchBytes, 64-byte aligned. Null: attend_finish does better.
  void (*attend_window)(const AttentionTile& tile, const AnyMatrixView& out, NextRows& next, char* scratch);
  // Up to 16 rows of bf16 keys and values, read in place; any key range. Scratch of FewRowsScratchBytes. Null: the f32
  // kernel for few rows does better.
  void (*attend_few)(const AttentionTile& tile, const PartialState& state, char* scratch);
  // logits [32 * groups][32] = keys of `groups` groups from `group` on times a panel of queries, both of padded head
  // dimension `padded`.
  void (*logits)(const PreparedHead& kv, int64_t group, int64_t groups, int64_t padded, const BF16* panel,
                 float* logits);
  // sums[plane][key] += the tile's, for keys [key_begin, key_end).
  void (*column_sums)(const ColumnTile& tile, double* const* sums, char* scratch);
  // maxima[0][key] = the largest of it and the tile's probabilities. No weights.
  void (*column_maxima)(const ColumnTile& tile, double* const* maxima, char* scratch);
};

// Up to a multiple of the panel.
constexpr int64_t PanelRows(int64_t rows) {
  return (rows + 31) / 32 * 32;
}
int64_t Bf16ScratchBytes(int64_t rows, int64_t head_dim);
int64_t Bf16ColumnScratchBytes(int64_t planes);
constexpr int64_t kBf16FewRows = 16;
constexpr int64_t kBf16FewBlockKeys = 128;
int64_t FewRowsScratchBytes(int64_t head_dim);
int64_t WindowScratchBytes(int64_t keys, int64_t head_dim);

// The best one at the CPU level in use; null below avx512_bf16 and on other architectures.
const Bf16Kernel* ChooseBf16Kernel();
extern const Bf16Kernel kAmxKernel;
extern const Bf16Kernel kAvx512Bf16Kernel;

void AttendWindowAmx(const AttentionTile& tile, const AnyMatrixView& out, NextRows& next, char* scratch);
void AttendFewRowsAmx(const AttentionTile& tile, const PartialState& state, char* scratch);

// Heads prepared for `kernel`; threads share the work.
class PreparedHeads {
 public:
  // In `memory`, which grows as needed and must outlive this: taking fresh pages for every block of rows cost as much
  // as the packing.
  PreparedHeads(const Bf16Kernel& kernel, std::span<const KvHeadView> heads, int64_t head_dim, bool with_values,
                Buffer& memory);
  const PreparedHead& operator[](size_t head) const { return heads_[head]; }

 private:
  std::vector<PreparedHead> heads_;
};

// Prepares one head in the caller's memory of PreparedBytes.
int64_t PreparedBytes(const KvHeadView& head, int64_t head_dim, bool with_values);
PreparedHead PrepareHead(const Bf16Kernel& kernel, const KvHeadView& head, int64_t head_dim, bool with_values,
                         char* memory);

}  // namespace purekv
