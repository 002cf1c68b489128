#include "attention/block_sparse.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "attention/bf16_kernel.h"
#include "attention/kv_rows.h"
#include "attention/scratch.h"
#include "base/cpu.h"
#include "base/error.h"
#include "base/threads.h"
#include "kernels/elementwise.h"
#include "kernels/simd.h"
#include "kernels/simd_target.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "attention/block_sparse.cc"
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/simd-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace purekv {
namespace HWY_NAMESPACE {

// out[i] = q . keys[i], i < 4, over `n` elements; keys `stride` apart.
template <class T>
HWY_INLINE void FourDots(const float* q, const T* keys, int64_t stride, int64_t n, float* out) {
  FloatVec sum[4];
  for (auto& one : sum) one = hn::Zero(FloatTag());
  int64_t d = 0;
  for (; d + kLanes <= n; d += kLanes) {
    const FloatVec x = LoadVec(q + d);
    for (int64_t i = 0; i < 4; ++i) sum[i] = hn::MulAdd(x, LoadVec(keys + i * stride + d), sum[i]);
  }
  if (d < n) {
    const FloatVec x = LoadPart(q + d, n - d);
    for (int64_t i = 0; i < 4; ++i) sum[i] = hn::MulAdd(x, LoadPart(keys + i * stride + d, n - d), sum[i]);
  }
  for (int64_t i = 0; i < 4; ++i) out[i] = SumLanes(sum[i]);
}

void FourDotsOf(const float* q, const void* keys, Dtype dtype, int64_t stride, int64_t n, float* out) {
  if (dtype == Dtype::kF32) {
    FourDots(q, static_cast<const float*>(keys), stride, n, out);
  } else {
    FourDots(q, static_cast<const BF16*>(keys), stride, n, out);
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace purekv
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace purekv {
namespace {
HWY_EXPORT(FourDotsOf);

int64_t CeilDiv(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// Rows, entries and squares of one KV head.
struct Shape {
  int64_t rows, length, stride, block, group, dim;
  Shape(const AttentionArgs& args, const BlockSparseOptions& options, size_t head)
      : rows(args.q.rows),
        length(args.kv[head].length),
        stride(options.stride),
        block(options.block),
        group(args.heads / static_cast<int64_t>(args.kv.size())),
        dim(args.head_dim) {
    PUREKV_CHECK(stride >= 1 && block >= stride && block % stride == 0, "stride ", stride, ", block ", block);
    PUREKV_CHECK(length >= rows, length, " entries, ", rows, " rows");
  }
  int64_t query_squares() const { return CeilDiv(rows, stride); }
  int64_t key_squares() const { return CeilDiv(length, stride); }
  int64_t query_blocks() const { return CeilDiv(rows, block); }
  int64_t key_blocks() const { return CeilDiv(length, block); }
  int64_t EntryOf(int64_t row) const { return length - rows + row; }
  // Squares of keys that the last row of a square of queries sees the first key of.
  int64_t Seen(int64_t square) const { return EntryOf(std::min(rows, (square + 1) * stride) - 1) / stride + 1; }
};

// Squares' queries, rows in reverse, so that one product sums the antidiagonals: [query squares * group, stride * dim],
// zeros behind the last row.
Matrix<float> ReversedQueries(const AttentionArgs& args, const Shape& shape, size_t head) {
  Matrix<float> out(shape.query_squares() * shape.group, shape.stride * shape.dim);
  for (int64_t square = 0; square < shape.query_squares(); ++square) {
    for (int64_t g = 0; g < shape.group; ++g) {
      float* to = out.Row(square * shape.group + g);
      for (int64_t t = 0; t < shape.stride; ++t, to += shape.dim) {
        const int64_t row = (square + 1) * shape.stride - 1 - t;
        if (row >= shape.rows) {
          std::fill_n(to, shape.dim, 0.0F);
        } else {
          std::memcpy(to, args.q.Row(row) + (static_cast<int64_t>(head) * shape.group + g) * shape.dim,
                      static_cast<size_t>(shape.dim) * sizeof(float));
        }
      }
    }
  }
  return out;
}

// Softmax of one row of squares, added to the shares of its block.
void AddShares(const float* logits, int64_t step, const Shape& shape, double scale, int64_t square,
               std::vector<double>* shares) {
  const int64_t seen = shape.Seen(square);
  double top = -std::numeric_limits<double>::infinity();
  for (int64_t k = 0; k < seen; ++k) top = std::max(top, static_cast<double>(logits[k * step]) * scale);
  static thread_local std::vector<double> weights;
  weights.resize(static_cast<size_t>(seen));
  double sum = 0;
  for (int64_t k = 0; k < seen; ++k) {
    sum += weights[static_cast<size_t>(k)] = std::exp(static_cast<double>(logits[k * step]) * scale - top);
  }
  for (int64_t k = 0; k < seen; ++k) {
    (*shares)[static_cast<size_t>(k * shape.stride / shape.block)] += weights[static_cast<size_t>(k)] / sum;
  }
}

double LogitScale(const AttentionArgs& args, const Shape& shape) {
  return static_cast<double>(args.scale) / static_cast<double>(shape.stride);
}

// To means over the rows of squares of each block.
void Divide(const Shape& shape, std::vector<std::vector<double>>* shares) {
  const int64_t per_block = shape.block / shape.stride;
  for (size_t block = 0; block < shares->size(); ++block) {
    const int64_t first = static_cast<int64_t>(block) * per_block;
    const int64_t squares = std::min(shape.query_squares() - first, per_block) * shape.group;
    for (double& share : (*shares)[block]) share /= static_cast<double>(squares);
  }
}

BlockShares NoShares(const AttentionArgs& args, const BlockSparseOptions& options) {
  BlockShares shares(args.kv.size());
  for (size_t head = 0; head < shares.size(); ++head) {
    const Shape shape(args, options, head);
    shares[head].assign(static_cast<size_t>(shape.query_blocks()),
                        std::vector<double>(static_cast<size_t>(shape.key_blocks()), 0.0));
  }
  return shares;
}

// Whole squares of keys where they lie, and the last one, short, behind its zeros in memory of its own.
class KeySquares {
 public:
  KeySquares(const KvHeadView& kv, const Shape& shape) : whole_(shape.length / shape.stride), kv_(kv) {
    const int64_t width = shape.stride * shape.dim;
    const auto size = static_cast<int64_t>(DtypeSize(kv.dtype()));
    if (!kv.contiguous() || kv.key_stride != shape.dim) {  // rows apart: all of them copied
      copy_ = AnyMatrix(kv.dtype(), shape.key_squares(), width);
      char* to = static_cast<char*>(copy_.View().data);
      std::memset(to, 0, static_cast<size_t>(shape.key_squares() * width * size));
      constexpr int64_t kBlock = 64;
      for (int64_t first = 0; first < shape.length; first += kBlock) {
        const int64_t count = std::min(kBlock, shape.length - first);
        const auto* const rows = static_cast<const char*>(KeyRowsOf(kv, first, count));
        for (int64_t i = 0; i < count; ++i, to += shape.dim * size) {
          std::memcpy(to, rows + i * kv.key_stride * size, static_cast<size_t>(shape.dim * size));
        }
      }
      rows_ = copy_.View();
      whole_ = shape.key_squares();
      return;
    }
    rows_ = {const_cast<void*>(kv.keys), kv.dtype(), whole_, width, width};
    const int64_t rest = shape.length - whole_ * shape.stride;
    if (rest == 0) return;
    copy_ = AnyMatrix(kv.dtype(), 1, width);
    char* to = static_cast<char*>(copy_.View().data);
    std::memset(to, 0, static_cast<size_t>(width * size));
    std::memcpy(to, static_cast<const char*>(kv.keys) + whole_ * width * size,
                static_cast<size_t>(rest * shape.dim * size));
    short_ = copy_.View().data;
  }
  int64_t whole() const { return whole_; }
  const void* short_square() const { return short_; }  // null: there is none
  AnyMatrixView rows() const { return rows_; }         // [whole, stride * dim]

 private:
  int64_t whole_;
  KvHeadView kv_;
  AnyMatrix copy_;
  AnyMatrixView rows_;
  const void* short_ = nullptr;
};

void EstimateF32(const AttentionArgs& args, const BlockSparseOptions& options, size_t head,
                 std::vector<std::vector<double>>* shares) {
  const Shape shape(args, options, head);
  const Matrix<float> queries = ReversedQueries(args, shape, head);
  const KeySquares keys(args.kv[head], shape);
  const int64_t width = queries.cols();
  const auto size = static_cast<int64_t>(DtypeSize(args.kv[head].dtype()));
  Matrix<float> logits(queries.rows(), shape.key_squares() + 3);
  const auto dots = HWY_DYNAMIC_DISPATCH(FourDotsOf);
  // Four squares of keys stay in the first-level cache while all queries pass.
  ParallelFor(CeilDiv(shape.key_squares(), 4), [&](int64_t four) {
    for (int64_t r = 0; r < queries.rows(); ++r) {
      float out[4];
      if (four * 4 + 4 <= keys.whole()) {
        dots(queries.Row(r), static_cast<const char*>(keys.rows().data) + four * 4 * width * size,
             args.kv[head].dtype(), width, width, out);
      } else {
        for (int64_t i = 0; i < 4; ++i) {  // one at a time: four equal rows
          const int64_t square = std::min(four * 4 + i, shape.key_squares() - 1);
          const void* row = square < keys.whole() ? static_cast<const char*>(keys.rows().data) + square * width * size
                                                  : keys.short_square();
          float same[4];
          dots(queries.Row(r), row, args.kv[head].dtype(), 0, width, same);
          out[i] = same[0];
        }
      }
      for (int64_t i = 0; i < 4; ++i) logits.Row(r)[std::min(four * 4 + i, logits.cols() - 1)] = out[i];
    }
  });
  ParallelFor(shape.query_blocks(), [&](int64_t block) {
    const int64_t per_block = shape.block / shape.stride;
    const int64_t end = std::min(shape.query_squares(), (block + 1) * per_block);
    for (int64_t r = block * per_block * shape.group; r < end * shape.group; ++r) {
      AddShares(logits.Row(r), 1, shape, LogitScale(args, shape), r / shape.group,
                &(*shares)[static_cast<size_t>(block)]);
    }
  });
  Divide(shape, shares);
}

// As EstimateF32 on products of bf16 pairs: a square of stride rows is to the kernels one row of stride * dim.
void EstimateBf16(const Bf16Kernel& kernel, const AttentionArgs& args, const BlockSparseOptions& options, size_t head,
                  std::vector<std::vector<double>>* shares) {
  const Shape shape(args, options, head);
  const Matrix<float> queries = ReversedQueries(args, shape, head);
  const KeySquares keys(args.kv[head], shape);
  const int64_t width = queries.cols();
  const int64_t panels = PanelRows(queries.rows()) / 32;
  const int64_t groups = CeilDiv(shape.key_squares(), kKeyGroup);
  Matrix<BF16> packed(panels * 32, width);
  AttentionTile tile;
  tile.q = queries.data();
  tile.q_stride = width;
  tile.q_rows = queries.rows();
  tile.group = 1;
  tile.head_dim = width;
  kernel.pack_queries(tile, packed.data());

  // The last group of keys, where it is not whole, with zeros behind.
  Matrix<BF16> tail;
  PreparedHead prepared;
  prepared.keys = static_cast<const BF16*>(keys.rows().data);
  prepared.key_stride = width;
  prepared.length = keys.whole();
  if (keys.whole() < groups * kKeyGroup) {
    tail = Matrix<BF16>(kKeyGroup, width);
    std::memset(static_cast<void*>(tail.data()), 0, static_cast<size_t>(tail.size()) * sizeof(BF16));
    const int64_t first = (groups - 1) * kKeyGroup;
    if (keys.whole() > first) {
      std::memcpy(static_cast<void*>(tail.data()), prepared.keys + first * width,
                  static_cast<size_t>((keys.whole() - first) * width) * sizeof(BF16));
    }
    if (keys.short_square() != nullptr) {
      std::memcpy(static_cast<void*>(tail.Row(keys.whole() - first)), keys.short_square(),
                  static_cast<size_t>(width) * sizeof(BF16));
    }
    prepared.tail = tail.data();
  }
  // logits of panel p: [groups * 32 keys][32 rows]
  Matrix<float> logits(panels, groups * kKeyGroup * 32);
  ParallelFor(panels * groups, [&](int64_t task) {  // a group of keys (128 KB and more) serves all panels
    const int64_t group = task / panels;
    const int64_t panel = task % panels;
    kernel.logits(prepared, group, 1, width, packed.Row(panel * 32), logits.Row(panel) + group * kKeyGroup * 32);
  });
  ParallelFor(shape.query_blocks(), [&](int64_t block) {
    const int64_t per_block = shape.block / shape.stride;
    const int64_t end = std::min(shape.query_squares(), (block + 1) * per_block);
    for (int64_t r = block * per_block * shape.group; r < end * shape.group; ++r) {
      AddShares(logits.Row(r / 32) + r % 32, 32, shape, LogitScale(args, shape), r / shape.group,
                &(*shares)[static_cast<size_t>(block)]);
    }
  });
  Divide(shape, shares);
}

}  // namespace

BlockShares EstimateBlockShares(const AttentionArgs& args, const BlockSparseOptions& options) {
  UseCpuLevel();
  if (Cpu() == CpuLevel::kReference) return reference::EstimateBlockShares(args, options);
  PUREKV_CHECK(!HasBias(args.kv), "blocks are estimated from keys alone");
  BlockShares shares = NoShares(args, options);
  for (size_t head = 0; head < shares.size(); ++head) {
    const bool bf16 = args.kv[head].format == KvFormat::kBF16 && args.head_dim * options.stride % 32 == 0;
    const Bf16Kernel* kernel = bf16 ? ChooseBf16Kernel() : nullptr;
    if (kernel != nullptr) {
      EstimateBf16(*kernel, args, options, head, &shares[head]);
    } else {
      EstimateF32(args, options, head, &shares[head]);
    }
  }
  return shares;
}

SparsePlan PlanBlocks(const BlockShares& shares, const AttentionArgs& args, const BlockSparseOptions& options) {
  SparsePlan plan;
  plan.rows = args.q.rows;
  plan.passes.emplace_back();
  for (size_t head = 0; head < shares.size(); ++head) {
    const Shape shape(args, options, head);
    for (int64_t block = 0; block < shape.query_blocks(); ++block) {
      const std::vector<double>& share = shares[head][static_cast<size_t>(block)];
      const int64_t first_row = block * shape.block;
      const int64_t last_row = std::min(shape.rows, first_row + shape.block) - 1;
      const int64_t seen = shape.EntryOf(last_row) / shape.block + 1;  // blocks of keys
      std::vector<int64_t> order(static_cast<size_t>(seen));
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
        return share[static_cast<size_t>(a)] > share[static_cast<size_t>(b)];
      });
      std::vector<bool> kept(static_cast<size_t>(seen), options.threshold >= 1);
      kept[0] = true;
      for (int64_t k = shape.EntryOf(first_row) / shape.block; k < seen; ++k) kept[static_cast<size_t>(k)] = true;
      double sum = 0;
      for (size_t i = 0; i < order.size() && sum < options.threshold; ++i) {
        kept[static_cast<size_t>(order[i])] = true;
        sum += share[static_cast<size_t>(order[i])];
      }
      SparsePart part;
      part.kv_head = static_cast<int32_t>(head);
      int64_t before = 0;      // kept keys that all rows of the block see
      int64_t own_begin = -1;  // the first entry that some row may not see
      for (int64_t k = 0; k < seen; ++k) {
        if (!kept[static_cast<size_t>(k)]) continue;
        const int64_t end = std::min((k + 1) * shape.block, shape.EntryOf(last_row) + 1);
        if (end - 1 > shape.EntryOf(first_row) && own_begin < 0) own_begin = k * shape.block;
        if (own_begin < 0) before += end - k * shape.block;
        for (int64_t entry = k * shape.block; entry < end; ++entry) part.keys.Add(static_cast<int32_t>(entry));
      }
      for (int64_t row = first_row; row <= last_row; ++row) {
        part.rows.Add(static_cast<int32_t>(row));
        // From own_begin on every block is kept.
        const int64_t own = own_begin < 0 ? 0 : shape.EntryOf(row) + 1 - own_begin;
        part.ends.push_back(static_cast<int32_t>(before + own));
      }
      plan.passes.back().push_back(std::move(part));
    }
  }
  return plan;
}

double CountPairs(const SparsePlan& plan, int64_t kv_heads) {
  double pairs = 0;
  for (const auto& pass : plan.passes) {
    for (const SparsePart& part : pass) {
      double seen = 0;
      for (size_t r = 0; r < part.ends.size(); ++r) seen += part.ends[r] - (part.begins.empty() ? 0 : part.begins[r]);
      pairs += part.kv_head < 0 ? seen : seen / static_cast<double>(kv_heads);
    }
  }
  return pairs;
}

namespace reference {

BlockShares EstimateBlockShares(const AttentionArgs& args, const BlockSparseOptions& options) {
  BlockShares shares = NoShares(args, options);
  for (size_t head = 0; head < shares.size(); ++head) {
    const Shape shape(args, options, head);
    const KvHeadView& kv = args.kv[head];
    const auto key = [&](int64_t entry, int64_t d) {
      const void* const row = KeyRowsOf(kv, entry, 1);
      return static_cast<double>(kv.format == KvFormat::kF32 ? static_cast<const float*>(row)[d]
                                                             : ToFloat(static_cast<const BF16*>(row)[d]));
    };
    for (int64_t square = 0; square < shape.query_squares(); ++square) {
      for (int64_t g = 0; g < shape.group; ++g) {
        std::vector<float> logits;
        for (int64_t k = 0; k < shape.Seen(square); ++k) {
          double sum = 0;
          for (int64_t t = 0; t < shape.stride; ++t) {
            const int64_t row = square * shape.stride + shape.stride - 1 - t;
            const int64_t entry = k * shape.stride + t;
            if (row >= shape.rows || entry >= shape.length) continue;
            const float* q = args.q.Row(row) + (static_cast<int64_t>(head) * shape.group + g) * shape.dim;
            for (int64_t d = 0; d < shape.dim; ++d) sum += static_cast<double>(q[d]) * key(entry, d);
          }
          logits.push_back(static_cast<float>(sum));
        }
        AddShares(logits.data(), 1, shape, LogitScale(args, shape), square,
                  &shares[head][static_cast<size_t>(square * shape.stride / shape.block)]);
      }
    }
    Divide(shape, &shares[head]);
  }
  return shares;
}

}  // namespace reference
}  // namespace purekv
#endif  // HWY_ONCE
