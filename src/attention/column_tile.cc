#include "attention/column_tile.h"

#include <algorithm>

#include "attention/kv_rows.h"
#include "base/error.h"
#include "kernels/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "attention/column_tile.cc"
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

void AddColumnsRows(const ColumnRows& args, double* const* sums, char* scratch) {
  const AttentionTile& tile = args.tile;
  const FloatTag d;
  const int64_t rows = tile.rows();
  const int64_t head_dim = tile.head_dim;
  float* queries = reinterpret_cast<float*>(scratch);                // [head_dim][width]
  float* key_scratch = queries + kPanelRows * PaddedRows(head_dim);  // [kBlockKeys][head_dim]
  float* logits = key_scratch + kBlockKeys * PaddedRows(head_dim);   // [kBlockKeys][width]
  float* lse = logits + kBlockKeys * kPanelRows;                     // [width]
  float* limits = lse + kPanelRows;                                  // [width]
  float* weights = limits + kPanelRows;                              // [planes][kPanelRows]
  float* columns = weights + args.planes * kPanelRows;               // [planes][kBlockKeys][kLanes]
  for (int64_t block = tile.key_begin; block < tile.key_end; block += kBlockKeys) {
    const int64_t keys = std::min(kBlockKeys, tile.key_end - block);
    std::fill_n(columns, args.planes * kBlockKeys * kLanes, 0.0f);
    const Block key_rows = BlockOf(KeyRowsOf(tile.kv, block, keys), tile.kv.dtype(), tile.kv.key_stride, keys, head_dim,
                                   false, key_scratch);
    for (int64_t first = 0; first < rows; first += kPanelRows) {
      const int64_t count = std::min(kPanelRows, rows - first);
      const int64_t width = WholeVecs(count);
      const auto limit_of = [&](int64_t r) { return tile.first_limit + r / tile.group * tile.limit_step; };
      if (limit_of(first + count - 1) <= block) continue;
      PackQueries(tile, first, count, width, queries);
      for (int64_t c = 0; c < width; ++c) {
        const bool real = c < count;
        lse[c] = real ? args.lse[first + c] : std::numeric_limits<float>::infinity();
        limits[c] = static_cast<float>(std::clamp<int64_t>(limit_of(first + std::min(c, count - 1)) - block, 0, keys));
        for (int64_t plane = 0; plane < args.planes; ++plane) {
          float weight = real ? 1.0f : 0.0f;  // the weights end with the last row
          if (real && args.weights != nullptr) weight = args.weights[plane * args.weight_stride + first + c];
          weights[plane * kPanelRows + c] = weight;
        }
      }
      ProductVecs<false>({key_rows.data, key_rows.stride, 1, queries, width, head_dim, logits, width, nullptr}, keys,
                         width / kLanes);
      AddBias(tile.kv.bias == nullptr ? nullptr : tile.kv.bias + block, keys, width, logits);
      for (int64_t c = 0; c < width; c += kLanes) {
        const FloatVec shift = LoadVec(lse + c);
        const FloatVec limit = LoadVec(limits + c);
        for (int64_t k = 0; k < keys; ++k) {
          const auto seen = hn::Lt(hn::Set(d, static_cast<float>(k)), limit);
          const FloatVec p = hn::IfThenElseZero(seen, hn::Exp(d, hn::Sub(LoadVec(logits + k * width + c), shift)));
          if (args.maxima) {
            StoreVec(hn::Max(p, LoadVec(columns + k * kLanes)), columns + k * kLanes);
            continue;
          }
          if (args.squares) {
            const FloatVec counted = hn::Mul(p, LoadVec(weights + c));
            float* const column = columns + k * kLanes;
            float* const squares = column + kBlockKeys * kLanes;
            StoreVec(hn::Add(counted, LoadVec(column)), column);
            StoreVec(hn::MulAdd(counted, counted, LoadVec(squares)), squares);
            continue;
          }
          for (int64_t plane = 0; plane < args.planes; ++plane) {
            float* column = columns + (plane * kBlockKeys + k) * kLanes;
            StoreVec(hn::MulAdd(p, LoadVec(weights + plane * kPanelRows + c), LoadVec(column)), column);
          }
        }
      }
    }
    for (int64_t plane = 0; plane < args.planes; ++plane) {
      for (int64_t k = 0; k < keys; ++k) {
        const FloatVec column = LoadVec(columns + (plane * kBlockKeys + k) * kLanes);
        double& sum = sums[plane][block + k];
        if (args.maxima) {
          sum = std::max(sum, static_cast<double>(hn::GetLane(hn::MaxOfLanes(d, column))));
        } else {
          sum += static_cast<double>(SumLanes(column));
        }
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
HWY_EXPORT(AddColumnsRows);
constexpr int64_t kWidestLanes = 16;
}  // namespace

int64_t ColumnScratchBytes(int64_t planes, int64_t head_dim) {
  const int64_t floats = (kWidestPanel + kWidestBlockKeys) * PaddedRows(head_dim) +
                         (kWidestBlockKeys + 2 + planes) * kWidestPanel + planes * kWidestBlockKeys * kWidestLanes;
  return floats * static_cast<int64_t>(sizeof(float));
}

void AddColumns(const ColumnRows& rows, double* const* sums, char* scratch) {
  PUREKV_CHECK(rows.weights != nullptr || rows.planes == (rows.squares ? 2 : 1), rows.planes,
               " planes without weights");
  PUREKV_CHECK(!rows.maxima || rows.weights == nullptr, "maxima of weighted rows");
  HWY_DYNAMIC_DISPATCH(AddColumnsRows)(rows, sums, scratch);
}

}  // namespace purekv
#endif  // HWY_ONCE
