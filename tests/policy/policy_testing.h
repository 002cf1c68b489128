// What the policy tests share: random layers, their exact attention in f64, and a small engine that reads them block by
// block through a Compression.
#pragma once

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "cache/kv_cache.h"
#include "policy/compression.h"

namespace purekv::testing {

struct ProblemShape {
  int64_t layers = 3;
  int64_t kv_heads = 2;
  int64_t group = 2;
  int64_t head_dim = 8;
  int64_t tokens = 50;
  bool text_only = false;
};

// Random queries, keys and values of a small decoder's layers, over a prompt of text, a video and text.
class Problem {
 public:
  Problem(const ProblemShape& shape, uint32_t seed) : s(shape) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    const int64_t n = s.tokens, d = s.head_dim;
    const auto video_begin = n / 5, video_end = n - n / 4;
    for (int64_t j = 0; j < n; ++j) {
      const bool visual = !s.text_only && j >= video_begin && j < video_end;
      const auto cell = static_cast<int32_t>(j - video_begin);
      layout.push_back(visual ? TokenRecord{TokenRecord::Kind::kVideo, 0, cell / 6, cell % 6 / 3, cell % 3}
                              : TokenRecord());
      const auto p = static_cast<int32_t>(j);
      positions.push_back(visual ? Position{p / 4 + 3, p % 2 + 3, p % 3 + 3} : Position{p, p, p});
    }
    for (int64_t l = 0; l < s.layers; ++l) {  // some at 0, some so high that their heads are full
      copying.emplace_back();
      for (int64_t g = 0; g < s.kv_heads; ++g) copying.back().push_back(double((l * 7 + g * 5) % 11 % 7) * 0.15);
    }
    for (int64_t f = 0; f < d / 2; ++f) {
      inv_freq.push_back(std::pow(100.0F, -2.0F * float(f) / float(d)));
      axis.push_back(static_cast<uint8_t>(f % 3));
    }
    layers.resize(size_t(s.layers));
    for (Layer& layer : layers) {
      const auto fill = [&](Matrix<float>& m, int64_t cols, float bias) {
        m = Matrix<float>(n, cols);
        for (int64_t i = 0; i < m.size(); ++i) m.data()[i] = normal(random) + bias;
      };
      fill(layer.q_plain, heads() * d, 0.3F);
      fill(layer.k, s.kv_heads * d, 0.2F);
      fill(layer.v, s.kv_heads * d, 0.0F);
      layer.q = Matrix<float>(n, heads() * d);
      std::copy_n(layer.q_plain.data(), layer.q.size(), layer.q.data());
      Rotate(layer.q, heads());
      Rotate(layer.k, s.kv_heads);
    }
  }

  int64_t heads() const { return s.kv_heads * s.group; }

  // Softmax of query i of head h over keys 0 .. i, and the log of its denominator.
  const std::vector<double>& Row(int64_t layer, int64_t h, int64_t i, double* lse = nullptr) const {
    const int64_t d = s.head_dim;
    const size_t index = size_t((layer * heads() + h) * s.tokens + i);
    const bool cached = s.tokens <= 400;
    if (rows_.empty()) rows_.resize(cached ? size_t(s.layers * heads() * s.tokens) : 1);
    auto& [row, log_sum] = rows_[cached ? index : 0];
    if (!cached || row.empty()) {
      const Layer& one = layers[size_t(layer)];
      row.assign(size_t(i + 1), 0.0);
      for (int64_t j = 0; j <= i; ++j) {
        double dot = 0;
        for (int64_t c = 0; c < d; ++c)
          dot += double(one.q.Row(i)[h * d + c]) * double(one.k.Row(j)[h / s.group * d + c]);
        row[size_t(j)] = dot / std::sqrt(double(d));
      }
      const double most = *std::max_element(row.begin(), row.end());
      double sum = 0;
      for (const double z : row) sum += std::exp(z - most);
      log_sum = most + std::log(sum);
      for (double& z : row) z = std::exp(z - log_sum);
    }
    if (lse != nullptr) *lse = log_sum;
    return row;
  }

  // The largest probability that any query of the first n, in any head of KV head g, has for each of the first n keys
  // when it sees all of them: what the tests take for a repetition of the part.
  std::vector<double> Largest(int64_t layer, int64_t g, int64_t n) const {
    const Layer& one = layers[size_t(layer)];
    std::vector<double> largest(size_t(n), 0.0);
    for (int64_t h = g * s.group; h < (g + 1) * s.group; ++h) {
      for (int64_t i = 0; i < n; ++i) {
        std::vector<double> row;
        double sum = 0;
        for (int64_t j = 0; j < n; ++j) {
          double dot = 0;
          for (int64_t c = 0; c < s.head_dim; ++c)
            dot += double(one.q.Row(i)[h * s.head_dim + c]) * double(one.k.Row(j)[g * s.head_dim + c]);
          row.push_back(std::exp(dot / std::sqrt(double(s.head_dim))));
          sum += row.back();
        }
        for (size_t j = 0; j < row.size(); ++j) largest[j] = std::max(largest[j], row[j] / sum);
      }
    }
    return largest;
  }

  struct Layer {
    Matrix<float> q_plain, q, k, v;  // [tokens, heads or kv_heads * head_dim]; q and k rotated
  };
  ProblemShape s;
  std::vector<Layer> layers;
  TokenLayout layout;
  std::vector<Position> positions;
  std::vector<float> inv_freq;
  RopeSpec Rope() const { return {inv_freq, axis}; }
  std::vector<uint8_t> axis;
  CopyingHeads copying;                              // [layers][kv_heads]
  std::shared_ptr<const PageConvolution> predictor;  // of pages to look up

 private:
  struct CachedRow {
    std::vector<double> row;
    double lse = 0;
  };

  void Rotate(Matrix<float>& x, int64_t heads) const {
    const int64_t half = s.head_dim / 2;
    for (int64_t i = 0; i < x.rows(); ++i) {
      const Position& p = positions[size_t(i)];
      for (int64_t h = 0; h < heads; ++h) {
        for (int64_t f = 0; f < half; ++f) {
          const int32_t at = f % 3 == 0 ? p.t : f % 3 == 1 ? p.h : p.w;
          const float angle = float(at) * inv_freq[size_t(f)];
          float* const a = x.Row(i) + h * s.head_dim + f;
          float* const b = a + half;
          const float rotated = *a * std::cos(angle) - *b * std::sin(angle);
          *b = *b * std::cos(angle) + *a * std::sin(angle);
          *a = rotated;
        }
      }
    }
  }

  mutable std::vector<CachedRow> rows_;
};

using Kept = std::vector<std::vector<std::vector<int32_t>>>;  // [layer][KV head][kept tokens]

// Reads a problem's tokens through a Compression as the engine does: layer by layer, in blocks of rows.
class SmallEngine {
 public:
  SmallEngine(const Problem& problem, const KvOptions& options, int64_t block = 64, Dtype dtype = Dtype::kF32)
      : compression(
            {options, Spec(problem, dtype), problem.heads(), problem.Rope(), {problem.copying, {}, problem.predictor}}),
        cache(compression.spec()),
        problem_(problem),
        block_(block) {}

  static KvCacheSpec Spec(const Problem& p, Dtype dtype) {
    return KvCacheSpec::Uniform(p.s.layers, p.s.kv_heads, p.s.head_dim, FormatOf(dtype));
  }

  // The part is the first `tokens` tokens.
  int64_t ReadPart(int64_t tokens) {
    const int64_t base = compression.SetPrefix(tokens, Droppable::kVisual, question);
    ReadChunk(tokens);
    EndPart();
    return base;
  }

  // The next `rows` tokens of the problem: of the prefix, or behind it.
  void ReadChunk(int64_t rows) {
    compression.BeginPrefix(cache.tokens(), rows);
    Pass(rows);
  }
  void ReadBehind(int64_t rows) {
    compression.BeginBehind(cache.tokens(), rows);
    Pass(rows);
  }
  // The next token, as a generated one.
  void Step() {
    compression.BeginStep(cache.tokens());
    for (int64_t layer = 0; compression.holds() && layer < problem_.s.layers; ++layer) cache.Reserve(layer, 1);
    Pass(1, true);
  }

  // As engine/retrieval_observer.h: the part's last rows, at the entries that are left.
  void EndPart() {
    Retrieval& retrieval = compression.retrieval();
    retrieval.EndPart(cache, {problem_.layout, problem_.positions});
    for (int64_t layer = 0; layer < problem_.s.layers; ++layer) {
      if (retrieval.ProbabilityRows(layer) == 0) continue;
      for (const int32_t row : retrieval.KeptRows(layer).tokens) {
        std::vector<std::vector<float>> of_heads;
        for (int64_t g = 0; g < problem_.s.kv_heads; ++g) {
          const auto tokens = cache.EntryTokens(layer, g);
          std::vector<float> largest(tokens.size(), 0.0F);
          for (size_t i = 0; i < tokens.size() && tokens[i] <= row; ++i) {
            for (int64_t h = g * problem_.s.group; h < (g + 1) * problem_.s.group; ++h) {
              largest[i] = std::max(largest[i], float(problem_.Row(layer, h, row)[size_t(tokens[i])]));
            }
          }
          of_heads.push_back(largest);
        }
        retrieval.AddProbabilities(layer, of_heads);
      }
    }
    retrieval.ForgetRows();
  }

  // As much of what was begun.
  void Pass(int64_t rows, bool step = false) {
    const int64_t first = cache.AddTokens(rows);
    for (int64_t layer = 0; layer < problem_.s.layers; ++layer) {
      if (!step) cache.Reserve(layer, rows);
      for (int64_t row = first; row < first + rows; row += block_) {
        ReadBlock(layer, row, std::min(block_, first + rows - row));
      }
      LookUp(layer, first, rows);
      compression.AfterLayer(layer, cache, {problem_.layout, problem_.positions});
    }
    if (step || compression.repeats() == 0 || cache.tokens() != compression.prefix()) return;
    for (int64_t layer = 0; layer < problem_.s.layers; ++layer) {
      KeyMaxima maxima;
      for (int64_t g = 0; g < problem_.s.kv_heads; ++g) maxima.push_back(problem_.Largest(layer, g, cache.tokens()));
      compression.observations().SetMaxima(layer, maxima);
    }
    compression.AfterRepeating(cache, {problem_.layout, problem_.positions},
                               TokensBeforeMedia(std::span(problem_.layout).first(size_t(cache.tokens()))));
  }

  Kept KeptTokens() const {
    Kept kept;
    for (int64_t layer = 0; layer < problem_.s.layers; ++layer) {
      kept.emplace_back();
      for (int64_t head = 0; head < problem_.s.kv_heads; ++head) {
        const auto tokens = cache.EntryTokens(layer, head);
        kept.back().emplace_back(tokens.begin(), tokens.end());
      }
    }
    return kept;
  }

  // Tokens of the entries that the rows passed last attended to. [layer][KV head]
  const Kept& looked_at() const { return looked_at_; }

  Compression compression;
  KvCache cache;
  int64_t observed_rows = 0;  // rows of column sums, over all layers
  int64_t question = -1;      // of the part, where its question begins

 private:
  void ReadBlock(int64_t layer, int64_t first, int64_t rows) {
    const Problem::Layer& one = problem_.layers[size_t(layer)];
    cache.Append(layer, one.k.View().Rows(first, rows), one.v.View().Rows(first, rows), first);
    if (compression.retrieval().WantsQueries(layer)) {
      std::vector<int32_t> rows_tokens(static_cast<size_t>(rows));
      std::iota(rows_tokens.begin(), rows_tokens.end(), int32_t(first));
      compression.retrieval().AddQueries(layer, rows_tokens, one.q_plain.View().Rows(first, rows));
    }
    if (compression.WantsRotated(layer)) compression.AddRotated(layer, one.q.View().Rows(first, rows));
    if (!compression.active()) return;
    std::vector<int32_t> tokens(static_cast<size_t>(rows));
    std::iota(tokens.begin(), tokens.end(), int32_t(first));
    if (compression.observations().Request(layer).queries_every > 0) {
      compression.observations().AddQueries(layer, tokens, one.q_plain.View().Rows(first, rows));
    }
    const RowRange range = compression.observations().SumRows(layer, tokens);
    if (range.count == 0) return;
    observed_rows += range.count;
    const Observer observer = compression.observations().Request(layer);
    const int64_t query = first + range.first;
    Matrix<float> lse(range.count, problem_.heads());
    std::vector<std::vector<double>> attention;  // [rows * heads]
    for (int64_t i = 0; i < range.count; ++i) {
      for (int64_t h = 0; h < problem_.heads(); ++h) {
        double log_sum = 0;
        attention.push_back(Attend(layer, h, query + i, &log_sum));
        lse.Row(i)[h] = float(log_sum);
      }
    }
    std::vector<std::vector<float>> weights(1, std::vector<float>(attention.size(), 1.0F));
    if (observer.weighted()) {
      weights =
          QueryWeights(observer.WithoutTail(), std::span(problem_.layout).subspan(size_t(query), size_t(range.count)),
                       std::as_const(lse).View());
    }
    if (observer.squares) weights.push_back(weights.front());
    if (observer.tail > 0) {  // a plane of the last queries alone
      const RowRange tail = compression.observations().TailRows(layer, tokens);
      auto& plane = weights.emplace_back(attention.size(), 0.0F);
      for (int64_t i = tail.first - range.first; i < tail.first - range.first + tail.count; ++i) {
        std::fill_n(plane.begin() + i * problem_.heads(), problem_.heads(), 1.0F);
      }
    }
    AttentionSums& sums = compression.observations().AnnounceSums(
        layer, std::span(tokens).subspan(size_t(range.first), size_t(range.count)), cache);
    for (size_t plane = 0; plane < weights.size(); ++plane) {
      size_t row = 0;
      for (int64_t i = 0; i < range.count; ++i) {
        for (int64_t h = 0; h < problem_.heads(); ++h, ++row) {
          const auto out = sums.Plane(int64_t(plane), h / problem_.s.group);
          for (size_t j = 0; j < attention[row].size(); ++j) {
            const double a = attention[row][j];
            out[j] += double(weights[plane][row]) * (observer.squares && plane == 1 ? a * a : a);
          }
        }
      }
    }
  }

  // What rows behind the part attend to, and the probabilities that a view asks for.
  void LookUp(int64_t layer, int64_t first, int64_t rows) {
    Retrieval& retrieval = compression.retrieval();
    const Matrix<float>& q = problem_.layers[size_t(layer)].q;
    const int64_t last = std::min(rows, retrieval.ProbabilityRows(layer));
    if (retrieval.in_part()) {
      const std::vector<float> lse(size_t(problem_.heads()), 0.0F);  // Largest works without
      for (int64_t row = first + rows - last; row < first + rows; ++row) {
        retrieval.KeepRow(layer, int32_t(row), {q.Row(row), size_t(q.cols())}, lse);
      }
      return;
    }
    const AttendedHeads attended =
        retrieval.Heads(layer, q.View().Rows(first, rows), cache, {problem_.layout, problem_.positions});
    looked_at_.resize(size_t(problem_.s.layers));
    looked_at_[size_t(layer)].assign(size_t(problem_.s.kv_heads), {});
    for (int64_t head = 0; head < problem_.s.kv_heads; ++head) {
      const auto tokens = cache.EntryTokens(layer, head);
      auto& seen = looked_at_[size_t(layer)][size_t(head)];
      if (attended.ranges.empty()) seen.assign(tokens.begin(), tokens.end());
      for (size_t r = 0; !attended.ranges.empty() && r < attended.ranges[size_t(head)].size(); ++r) {
        const EntryRange range = attended.ranges[size_t(head)][r];
        seen.insert(seen.end(), tokens.begin() + range.begin, tokens.begin() + range.end);
      }
    }
    for (int64_t row = first + rows - last; row < first + rows; ++row) {
      const bool all = retrieval.WantsAll(layer) || attended.ranges.empty();
      std::vector<std::vector<float>> of_heads;
      for (int64_t g = 0; g < problem_.s.kv_heads; ++g) of_heads.push_back(LargestOf(layer, g, row, all));
      retrieval.AddProbabilities(layer, of_heads);
    }
  }
  // The largest probability that a query head of the group gives each entry of KV head g, over those looked at.
  std::vector<float> LargestOf(int64_t layer, int64_t g, int64_t row, bool all) const {
    const auto tokens = cache.EntryTokens(layer, g);
    std::vector<float> largest(tokens.size(), 0.0F);
    for (int64_t h = g * problem_.s.group; h < (g + 1) * problem_.s.group; ++h) {
      double sum = 0;
      std::vector<double> p(tokens.size(), 0.0);
      for (size_t i = 0; i < tokens.size(); ++i) {
        const auto& seen = looked_at_[size_t(layer)][size_t(g)];
        if (tokens[i] > row || (!all && !std::binary_search(seen.begin(), seen.end(), tokens[i]))) continue;
        p[i] = problem_.Row(layer, h, row)[size_t(tokens[i])];
        sum += p[i];
      }
      for (size_t i = 0; i < p.size(); ++i) largest[i] = std::max(largest[i], float(p[i] / sum));
    }
    return largest;
  }
  // Attention of one query over the entries that its head holds now, those after it masked.
  std::vector<double> Attend(int64_t layer, int64_t h, int64_t query, double* lse) const {
    const auto tokens = cache.EntryTokens(layer, h / problem_.s.group);
    const std::vector<double>& full = problem_.Row(layer, h, query, lse);
    double sum = 0;
    std::vector<double> row;
    for (const int32_t token : tokens) {
      row.push_back(token <= query ? full[size_t(token)] : 0.0);
      sum += row.back();
    }
    if (int64_t(tokens.size()) == cache.tokens()) return row;  // nothing is missing: already normalised
    for (double& x : row) x /= sum;
    *lse += std::log(sum);
    return row;
  }

  const Problem& problem_;
  int64_t block_;
  Kept looked_at_;
};

inline KvOptions Options(const std::string& policy, const std::map<std::string, std::string>& values = {},
                         const std::string& allocator = "uniform") {
  KvOptions options;
  options.policy = policy;
  options.options = values;
  options.allocator = allocator;
  return options;
}

}  // namespace purekv::testing
