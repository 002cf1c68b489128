#include "attention/reference.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/bfloat16.h"
#include "base/threads.h"

namespace purekv::reference {
namespace {

double At(const void* data, Dtype dtype, int64_t i) {
  return static_cast<double>(dtype == Dtype::kF32 ? static_cast<const float*>(data)[i]
                                                  : ToFloat(static_cast<const BF16*>(data)[i]));
}

// One query against the first `keys` entries; returns the log sum exp.
double AttendRow(const float* q, const KvHeadView& kv, int64_t keys, int64_t head_dim, double scale,
                 std::vector<double>& out) {
  out.assign(static_cast<size_t>(head_dim), 0.0);
  if (keys <= 0) return -std::numeric_limits<double>::infinity();
  std::vector<double> logits(static_cast<size_t>(keys));
  for (int64_t k = 0; k < keys; ++k) {
    double sum = 0;
    for (int64_t d = 0; d < head_dim; ++d) {
      sum += static_cast<double>(q[d]) * At(kv.keys, kv.dtype, k * kv.key_stride + d);
    }
    logits[static_cast<size_t>(k)] = sum * scale;
  }
  const double top = *std::max_element(logits.begin(), logits.end());
  double total = 0;
  for (double& logit : logits) total += (logit = std::exp(logit - top));
  for (int64_t k = 0; k < keys; ++k) {
    for (int64_t d = 0; d < head_dim; ++d) {
      out[static_cast<size_t>(d)] +=
          logits[static_cast<size_t>(k)] / total * At(kv.values, kv.dtype, k * kv.value_stride + d);
    }
  }
  return top + std::log(total);
}

void StoreRow(const std::vector<double>& values, const AnyMatrixView& out, int64_t row, int64_t first) {
  for (size_t d = 0; d < values.size(); ++d) {
    const int64_t i = row * out.stride + first + static_cast<int64_t>(d);
    const auto value = static_cast<float>(values[d]);
    if (out.dtype == Dtype::kF32) {
      static_cast<float*>(out.data)[i] = value;
    } else {
      static_cast<BF16*>(out.data)[i] = ToBF16(value);
    }
  }
}

}  // namespace

void Attention(const AttentionArgs& args) {
  const auto kv_heads = static_cast<int64_t>(args.kv.size());
  ParallelFor(args.q.rows, [&](int64_t i) {
    std::vector<double> values;
    for (int64_t h = 0; h < args.heads; ++h) {
      const KvHeadView& kv = args.kv[static_cast<size_t>(h / (args.heads / kv_heads))];
      const int64_t keys = args.causal ? kv.length - args.q.rows + i + 1 : kv.length;
      const double lse = AttendRow(args.q.Row(i) + h * args.head_dim, kv, keys, args.head_dim,
                                   static_cast<double>(args.scale), values);
      StoreRow(values, args.out, i, h * args.head_dim);
      if (args.lse != nullptr) args.lse[i * args.heads + h] = static_cast<float>(lse);
    }
  });
}

void ColumnSums(const ColumnSumsArgs& args) {
  const auto kv_heads = static_cast<int64_t>(args.kv.size());
  for (int64_t h = 0; h < args.heads; ++h) {
    const int64_t g = h / (args.heads / kv_heads);
    const KvHeadView& kv = args.kv[static_cast<size_t>(g)];
    for (int64_t i = 0; i < args.q.rows; ++i) {
      const int64_t keys = std::clamp<int64_t>(args.causal ? kv.length - args.q.rows + i + 1 : kv.length, 0, kv.length);
      const float* q = args.q.Row(i) + h * args.head_dim;
      const int64_t cell = i * args.heads + h;
      for (int64_t k = 0; k < keys; ++k) {
        double logit = 0;
        for (int64_t d = 0; d < args.head_dim; ++d) {
          logit += static_cast<double>(q[d]) * At(kv.keys, kv.dtype, k * kv.key_stride + d);
        }
        const double p = std::exp(logit * static_cast<double>(args.scale) - static_cast<double>(args.lse[cell]));
        for (int64_t plane = 0; plane < args.planes(); ++plane) {
          const auto p_index = static_cast<size_t>(plane);
          const double weight = args.weights.empty() ? 1.0 : static_cast<double>(args.weights[p_index][cell]);
          args.sums[static_cast<size_t>(plane * kv_heads + g)][k] += weight * p;
        }
      }
    }
  }
}

void SegmentAttention(MatrixView<const float> q, MatrixView<const float> k, MatrixView<const float> v, int64_t heads,
                      int64_t head_dim, float scale, std::span<const int64_t> cu_segments, AnyMatrixView out) {
  std::vector<double> values;
  for (size_t s = 0; s + 1 < cu_segments.size(); ++s) {
    const int64_t begin = cu_segments[s];
    const int64_t length = cu_segments[s + 1] - begin;
    for (int64_t i = begin; i < begin + length; ++i) {
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t column = h * head_dim;
        const KvHeadView kv{k.Row(begin) + column, v.Row(begin) + column, length, k.stride, v.stride, Dtype::kF32};
        AttendRow(q.Row(i) + column, kv, length, head_dim, static_cast<double>(scale), values);
        StoreRow(values, out, i, column);
      }
    }
  }
}

}  // namespace purekv::reference
