#include "attention/reference.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "attention/kv_rows.h"
#include "base/bfloat16.h"
#include "base/threads.h"

namespace purekv::reference {
namespace {

double At(const void* data, Dtype dtype, int64_t i) {
  return static_cast<double>(dtype == Dtype::kF32 ? static_cast<const float*>(data)[i]
                                                  : ToFloat(static_cast<const BF16*>(data)[i]));
}

double BiasOf(const KvHeadView& kv, int64_t entry) {
  return kv.bias == nullptr ? 0.0 : static_cast<double>(kv.bias[entry]);
}

// One query against entries entry(0) .. entry(keys - 1); returns the log sum exp.
template <class Entry>
double AttendEntries(const float* q, const KvHeadView& kv, int64_t keys, const Entry& entry, int64_t head_dim,
                     double scale, std::vector<double>& out) {
  out.assign(static_cast<size_t>(head_dim), 0.0);
  if (keys <= 0) return -std::numeric_limits<double>::infinity();
  std::vector<double> logits(static_cast<size_t>(keys));
  for (int64_t k = 0; k < keys; ++k) {
    double sum = 0;
    const void* const key = KeyRowsOf(kv, entry(k), 1);
    for (int64_t d = 0; d < head_dim; ++d) sum += static_cast<double>(q[d]) * At(key, kv.dtype(), d);
    logits[static_cast<size_t>(k)] = sum * scale + BiasOf(kv, entry(k));
  }
  const double top = *std::max_element(logits.begin(), logits.end());
  double total = 0;
  for (double& logit : logits) total += (logit = std::exp(logit - top));
  for (int64_t k = 0; k < keys; ++k) {
    const void* const value = ValueRowsOf(kv, entry(k), 1);
    for (int64_t d = 0; d < head_dim; ++d) {
      out[static_cast<size_t>(d)] += logits[static_cast<size_t>(k)] / total * At(value, kv.dtype(), d);
    }
  }
  return top + std::log(total);
}

// One query against the first `keys` entries.
double AttendRow(const float* q, const KvHeadView& kv, int64_t keys, int64_t head_dim, double scale,
                 std::vector<double>& out) {
  return AttendEntries(
      q, kv, keys, [](int64_t k) { return k; }, head_dim, scale, out);
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
      const int64_t first = args.window > 0 ? std::max<int64_t>(0, keys - args.window) : 0;
      const double lse = AttendEntries(
          args.q.Row(i) + h * args.head_dim, kv, keys - first, [first](int64_t k) { return first + k; }, args.head_dim,
          static_cast<double>(args.scale), values);
      StoreRow(values, args.out, i, h * args.head_dim);
      if (args.lse != nullptr) args.lse[i * args.heads + h] = static_cast<float>(lse);
    }
  });
}

void SparseAttention(const SparseAttentionArgs& args, const SparsePlan& plan) {
  const AttentionArgs& dense = args.dense;
  const auto kv_heads = static_cast<int64_t>(dense.kv.size());
  for (int64_t g = 0; g < kv_heads; ++g) {
    const KvHeadView& kv = dense.kv[static_cast<size_t>(g)];
    std::vector<std::vector<int64_t>> seen(static_cast<size_t>(plan.rows));  // entries, by row
    for (const DenseRows& rows : plan.dense) {
      for (int64_t i = rows.first; i < rows.first + rows.count; ++i) {
        for (int64_t k = 0; k < kv.length - plan.rows + i + 1; ++k) seen[static_cast<size_t>(i)].push_back(k);
      }
    }
    for (const auto& pass : plan.passes) {
      for (const SparsePart& part : pass) {
        if (part.kv_head >= 0 && part.kv_head != g) continue;
        const std::vector<int32_t> keys = part.keys.Expanded();
        size_t r = 0;
        part.rows.ForEach([&](int32_t row) {
          for (int32_t k = part.begins.empty() ? 0 : part.begins[r]; k < part.ends[r]; ++k) {
            int64_t entry = keys[static_cast<size_t>(k)];
            if (!args.tokens.empty()) {
              const auto tokens = args.tokens[static_cast<size_t>(g)];
              const auto at = std::lower_bound(tokens.begin(), tokens.end(), keys[static_cast<size_t>(k)]);
              if (at == tokens.end() || *at != keys[static_cast<size_t>(k)]) continue;
              entry = at - tokens.begin();
            }
            seen[static_cast<size_t>(row)].push_back(entry);
          }
          ++r;
        });
      }
    }
    std::vector<double> values;
    const int64_t group = dense.heads / kv_heads;
    for (int64_t i = 0; i < plan.rows; ++i) {
      const std::vector<int64_t>& entries = seen[static_cast<size_t>(i)];
      for (int64_t h = g * group; h < (g + 1) * group; ++h) {
        const double lse = AttendEntries(
            dense.q.Row(i) + h * dense.head_dim, kv, static_cast<int64_t>(entries.size()),
            [&](int64_t k) { return entries[static_cast<size_t>(k)]; }, dense.head_dim,
            static_cast<double>(dense.scale), values);
        StoreRow(values, dense.out, i, h * dense.head_dim);
        if (dense.lse != nullptr) dense.lse[i * dense.heads + h] = static_cast<float>(lse);
      }
    }
  }
}

namespace {

// each(KV head, key, row * heads + head, probability) for every pair of a row and a key that it sees.
template <class Each>
void ForProbabilities(const ColumnSumsArgs& args, const Each& each) {
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
        const void* const key = KeyRowsOf(kv, k, 1);
        for (int64_t d = 0; d < args.head_dim; ++d) logit += static_cast<double>(q[d]) * At(key, kv.dtype(), d);
        each(g, k, cell,
             std::exp(logit * static_cast<double>(args.scale) + BiasOf(kv, k) - static_cast<double>(args.lse[cell])));
      }
    }
  }
}

}  // namespace

void ColumnSums(const ColumnSumsArgs& args) {
  const auto kv_heads = static_cast<int64_t>(args.kv.size());
  ForProbabilities(args, [&](int64_t g, int64_t k, int64_t cell, double p) {
    for (int64_t plane = 0; plane < args.planes(); ++plane) {
      const auto p_index = static_cast<size_t>(plane);
      double weight = args.weights.empty() ? 1.0 : static_cast<double>(args.weights[p_index][cell]);
      if (args.squares && plane == 1) weight = p;
      args.sums[static_cast<size_t>(plane * kv_heads + g)][k] += weight * p;
    }
  });
}

void ColumnMaxima(const ColumnSumsArgs& args) {
  ForProbabilities(args, [&](int64_t g, int64_t k, int64_t, double p) {
    double& most = args.sums[static_cast<size_t>(g)][k];
    if (!(p <= most)) most = std::isnan(most) ? most : p;  // no number stays none
  });
}

void SegmentAttention(const SegmentAttentionArgs& args) {
  std::vector<double> values;
  std::vector<float> query(static_cast<size_t>(args.head_dim));
  for (size_t s = 0; s + 1 < args.cu_segments.size(); ++s) {
    const int64_t begin = args.cu_segments[s];
    const int64_t length = args.cu_segments[s + 1] - begin;
    for (int64_t i = begin; i < begin + length; ++i) {
      for (int64_t h = 0; h < args.heads; ++h) {
        const int64_t column = h * args.head_dim;
        const KvHeadView kv{args.k.Rows(begin, length).Cols(column, args.head_dim).data,
                            args.v.Rows(begin, length).Cols(column, args.head_dim).data,
                            length,
                            args.k.stride,
                            args.v.stride,
                            FormatOf(args.k.dtype)};
        for (int64_t d = 0; d < args.head_dim; ++d) {
          query[static_cast<size_t>(d)] =
              static_cast<float>(At(args.q.data, args.q.dtype, i * args.q.stride + column + d));
        }
        AttendRow(query.data(), kv, length, args.head_dim, static_cast<double>(args.scale), values);
        StoreRow(values, args.out, i, column);
      }
    }
  }
}

}  // namespace purekv::reference
