// The page of definitions (docs/policies.md) once more, as slow plain loops over whole attention rows in f64: which
// tokens each policy keeps. Shares nothing with src/policy.
#pragma once

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "policy/reference_budget.h"

namespace purekv::testing {

class Reference : public ReferenceBudget {
 public:
  using ReferenceBudget::ReferenceBudget;

  Kept KeptTokens() {
    if (o_.policy == "kvzip" && b_ < n_) return KeepTogether();
    Kept kept;
    for (int64_t layer = 0; layer < p_.s.layers; ++layer) {
      kept.emplace_back();
      if (b_ >= n_) {
        std::vector<int32_t> all(static_cast<size_t>(n_));
        std::iota(all.begin(), all.end(), 0);
        kept.back().assign(size_t(p_.s.kv_heads), all);
      } else {
        KeepLayer(layer, kept.back());
      }
    }
    return kept;
  }

  // After KeptTokens: the scores it used (first plane). [layer][KV head][token]
  std::vector<std::vector<std::vector<double>>> scores;

 private:
  const float* Key(int64_t l, int64_t g, int64_t j) const { return p_.layers[size_t(l)].k.Row(j) + g * p_.s.head_dim; }
  const float* Value(int64_t l, int64_t g, int64_t j) const {
    return p_.layers[size_t(l)].v.Row(j) + g * p_.s.head_dim;
  }
  double Norm(const float* x) const {
    double sum = 0;
    for (int64_t c = 0; c < p_.s.head_dim; ++c) sum += double(x[c]) * double(x[c]);
    return std::sqrt(sum);
  }

  // mean over the group's heads of the sum over queries i >= begin of weight(h, i, j) * a[h, i, j]
  template <class Weight>
  std::vector<double> Sums(int64_t l, int64_t g, int64_t begin, const Weight& weight) const {
    std::vector<double> sums(size_t(n_), 0.0);
    for (int64_t h = g * p_.s.group; h < (g + 1) * p_.s.group; ++h) {
      for (int64_t i = std::max<int64_t>(0, begin); i < n_; ++i) {
        double lse = 0;
        const auto& row = p_.Row(l, h, i, &lse);
        for (size_t j = 0; j <= size_t(i); ++j) sums[j] += weight(i, int64_t(j), lse) * row[j];
      }
    }
    for (double& x : sums) x /= double(p_.s.group);
    return sums;
  }
  std::vector<double> Sums(int64_t l, int64_t g, int64_t begin) const {
    return Sums(l, g, begin, [](int64_t, int64_t, double) { return 1.0; });
  }

  std::vector<double> SnapKv(int64_t l, int64_t g, int64_t window, int64_t kernel, const std::string& pool,
                             int64_t before) const {
    std::vector<double> mean = Sums(l, g, n_ - window);
    for (double& x : mean) x /= double(window);
    if (pool == "none") return mean;
    std::vector<double> out = mean;
    for (int64_t j = 0; j < before; ++j) {
      double sum = 0, most = 0;
      for (int64_t i = j - kernel / 2; i <= j + kernel / 2; ++i) {
        const double x = i < 0 || i >= before ? 0 : mean[size_t(i)];
        sum += x;
        most = std::max(most, x);
      }
      out[size_t(j)] = pool == "avg" ? sum / double(kernel) : most;
    }
    return out;
  }

  std::vector<double> KeyDiff(int64_t l, int64_t g) const {
    const auto d = size_t(p_.s.head_dim);
    std::vector<double> anchor(d, 0.0), out;
    for (int64_t j = 0; j < n_; ++j) {
      for (size_t c = 0; c < d; ++c) anchor[c] += double(Key(l, g, j)[c]) / Norm(Key(l, g, j)) / double(n_);
    }
    double square = 0;
    for (const double x : anchor) square += x * x;
    for (int64_t j = 0; j < n_; ++j) {
      double dot = 0;
      for (size_t c = 0; c < d; ++c) dot += double(Key(l, g, j)[c]) * anchor[c];
      out.push_back(-dot / Norm(Key(l, g, j)) / std::sqrt(square));
    }
    return out;
  }

  std::vector<double> Expected(int64_t l, int64_t g) const {
    std::vector<double> out = ExpectedShare(l, g, Int("horizon", 512), Text("covariance", "1") == "1", false, 1);
    for (int64_t j = 0; j < n_; ++j) out[size_t(j)] = (out[size_t(j)] + Real("epsilon", 0.01)) * Norm(Value(l, g, j));
    return out;
  }

  // The mean softmax; pooled: of all queries of the group as one crowd. Of tokens that `every` divides.
  std::vector<double> ExpectedShare(int64_t l, int64_t g, int64_t horizon, bool covariance, bool pooled,
                                    int64_t every) const {
    const int64_t d = p_.s.head_dim, s = sinks();
    int64_t last = 0;
    for (int64_t j = 0; j < n_; ++j)
      last = std::max<int64_t>({last, p_.positions[size_t(j)].t, p_.positions[size_t(j)].h, p_.positions[size_t(j)].w});
    // The mean rotation as a whole matrix.
    std::vector<std::vector<double>> r(size_t(d), std::vector<double>(size_t(d), 0.0));
    for (int64_t f = 0; f < d / 2; ++f) {
      for (int64_t t = last + 1; t <= last + horizon; ++t) {
        const double angle = double(float(t) * p_.inv_freq[size_t(f)]);
        const auto a = size_t(f), b = size_t(f + d / 2);
        r[a][a] += std::cos(angle) / double(horizon);
        r[b][b] += std::cos(angle) / double(horizon);
        r[a][b] -= std::sin(angle) / double(horizon);
        r[b][a] += std::sin(angle) / double(horizon);
      }
    }
    std::vector<double> out(size_t(n_), 0.0);
    for (int64_t h = g * p_.s.group; h < (pooled ? g * p_.s.group + 1 : (g + 1) * p_.s.group); ++h) {
      // Every query rotated by the mean rotation; then the mean and covariance of those, which is the same.
      std::vector<std::vector<double>> rotated;
      std::vector<double> mean(size_t(d), 0.0);
      for (int64_t of = h; of < (pooled ? h + p_.s.group : h + 1); ++of) {
        for (int64_t i = s; i < n_; ++i) {
          if (i % every != 0) continue;
          const float* const q = p_.layers[size_t(l)].q_plain.Row(i) + of * d;
          rotated.emplace_back(size_t(d), 0.0);
          for (size_t a = 0; a < size_t(d); ++a) {
            for (size_t b = 0; b < size_t(d); ++b) rotated.back()[a] += r[a][b] * double(q[b]);
          }
        }
      }
      const auto count = double(rotated.size());
      for (const auto& q : rotated) {
        for (size_t a = 0; a < size_t(d); ++a) mean[a] += q[a] / count;
      }
      std::vector<double> z;
      for (int64_t j = s; j < n_; ++j) {
        double logit = 0, variance = 0;
        for (size_t c = 0; c < size_t(d); ++c) logit += mean[c] * double(Key(l, g, j)[c]);
        for (const auto& q : rotated) {
          double dot = 0;
          for (size_t c = 0; c < size_t(d); ++c) dot += (q[c] - mean[c]) * double(Key(l, g, j)[c]);
          variance += dot * dot / count;
        }
        if (rotated.empty()) logit = variance = 0;
        z.push_back(logit / std::sqrt(double(d)) + (covariance ? variance / (2 * double(d)) : 0));
      }
      double total = 0;
      for (const double x : z) total += std::exp(x);
      for (int64_t j = s; j < n_; ++j)
        out[size_t(j)] += std::exp(z[size_t(j - s)]) / total / double(pooled ? 1 : p_.s.group);
    }
    return out;
  }

  // The default: each ranking's places, divided by its share; the best one counts.
  std::vector<double> PureKvUnion(int64_t l, int64_t g) const {
    const bool unseen = o_.when == KvOptions::When::kContext;
    const auto share = [&](const char* key, double seen, double not_seen) {
      const std::string text = Text(key, "auto");
      return text == "auto" ? (unseen ? not_seen : seen) : std::stod(text);
    };
    const bool chunked = o_.chunk > 0;
    const double own = share("own_share", o_.chunk > 0 ? 0.6 : 0.4, 0), source = share("source_share", 0, 0);
    const double expected = chunked ? share("expected_share", 0, 0) : share("expected_share", 0.6, 1);
    const double keys = chunked ? share("key_share", 0.4, 0.5) : share("key_share", 0, 0);
    const double values = chunked ? share("value_share", 0, 0.5) : share("value_share", 0, 0);
    const auto times_norm = [&](std::vector<double> score) {
      for (int64_t j = 0; j < n_ && Text("vnorm", "1") == "1"; ++j) score[size_t(j)] *= Norm(Value(l, g, j));
      return score;
    };
    std::vector<std::pair<double, std::vector<double>>> rankings;
    if (own > 0) {
      const int64_t window = std::min(n_, std::max<int64_t>(1, std::min(Int("own", 32), b_ / 2)));
      const int64_t kernel = Int("kernel", 5);
      rankings.emplace_back(own, times_norm(SnapKv(l, g, window, kernel, kernel > 1 ? "avg" : "none", n_ - recent())));
    }
    if (expected > 0) {
      std::vector<double> product = ExpectedShare(l, g, 512, true, true, 8);
      const std::vector<double> key = KeyDiff(l, g);
      for (int64_t j = 0; j < n_; ++j) {
        product[size_t(j)] = (product[size_t(j)] + Real("epsilon", 3) / double(n_)) * (1 + key[size_t(j)]);
      }
      rankings.emplace_back(expected, times_norm(product));
    }
    int64_t middle = 0;  // the lower of two that are as near to the middle
    for (int64_t layer = 1; layer < p_.s.layers; ++layer) {
      if (std::abs(2 * layer - p_.s.layers) < std::abs(2 * middle - p_.s.layers)) middle = layer;
    }
    if (source > 0 && l >= middle) {
      std::vector<double> mean = Sums(middle, g, 0);
      for (int64_t j = 0; j < n_; ++j) mean[size_t(j)] /= double(n_ - j);
      rankings.emplace_back(source, times_norm(mean));
    }
    if (keys > 0 || (rankings.empty() && values <= 0)) rankings.emplace_back(std::max(keys, 1e-3), KeyDiff(l, g));
    if (values > 0) {
      std::vector<double> norms;
      for (int64_t j = 0; j < n_; ++j) norms.push_back(Norm(Value(l, g, j)));
      rankings.emplace_back(values, norms);
    }
    if (rankings.size() == 1) return rankings[0].second;
    std::vector<double> best(size_t(n_), -1e300);
    for (const auto& [part, score] : rankings) {
      const std::vector<int32_t> order = Ranked(score, {}, false);
      for (size_t place = 0; place < order.size(); ++place) {
        double& out = best[size_t(order[place])];
        out = std::max(out, -double(place + 1) / part);
      }
    }
    return best;
  }

  std::vector<double> PureKv(int64_t l, int64_t g) const {
    if (!PapersForm()) return PureKvUnion(l, g);
    std::vector<int64_t> sources;
    std::string list = Text("sources", "auto");
    if (list == "auto") list = std::to_string(std::min<int64_t>(2, p_.s.layers - 1));
    for (size_t at = 0; at < list.size(); at = std::min(list.find(',', at), list.size() - 1) + 1)
      sources.push_back(std::stoll(list.substr(at)));
    int64_t source = -1;
    for (const int64_t one : sources) {
      if (one <= l) source = std::max(source, one);
    }
    const std::string below = Text("below", "window");
    if (source < 0 && below == "vnorm") {
      std::vector<double> norms;
      for (int64_t j = 0; j < n_; ++j) norms.push_back(Norm(Value(l, g, j)));
      return norms;
    }
    if (source < 0 && below == "wait") source = *std::min_element(sources.begin(), sources.end());
    if (source < 0) return SnapKv(l, g, std::max<int64_t>(1, std::min<int64_t>(32, b_ / 2)), 1, "none", n_);
    const int64_t begin = Text("window", "all") == "all" ? 0 : std::max<int64_t>(0, n_ - Int("window", 0));
    std::vector<double> sum(size_t(n_), 0.0);
    const bool mean = Text("heads", "own") == "mean";
    for (int64_t other = 0; other < p_.s.kv_heads; ++other) {
      if (!mean && other != g) continue;
      const auto one = Sums(source, other, begin);
      for (size_t j = 0; j < one.size(); ++j) sum[j] += one[j] / double(mean ? p_.s.kv_heads : 1);
    }
    for (int64_t j = 0; j < n_; ++j) {
      int64_t seen = 0;
      for (int64_t i = begin; i < n_; ++i) seen += i >= j ? 1 : 0;
      if (Text("normalise", "0") == "1") sum[size_t(j)] /= double(seen);
      if (Text("vnorm", "1") == "1") sum[size_t(j)] *= Norm(Value(l, g, j));
    }
    return sum;
  }

  std::vector<double> ScoreOf(int64_t l, int64_t g) const {
    std::vector<double> out(size_t(n_), 0.0);
    const std::string& name = o_.policy;
    if (name == "h2o") return Sums(l, g, 0);
    if (name == "keydiff") return KeyDiff(l, g);
    if (name == "expected-attention") return Expected(l, g);
    if (name == "purekv") return PureKv(l, g);
    if (name == "snapkv")
      return SnapKv(l, g, std::max<int64_t>(1, recent()), Int("kernel", 5), Text("pool", "avg"), n_ - recent());
    if (name == "tova") {
      for (int64_t h = 0; h < heads_; ++h) {
        const auto& row = p_.Row(l, h, n_ - 1);
        for (size_t j = 0; j < row.size(); ++j) out[j] += row[j] / double(heads_);
      }
    }
    for (int64_t j = 0; j < n_; ++j) {
      if (name == "streaming-llm") out[size_t(j)] = double(j);
      if (name == "knorm") out[size_t(j)] = -Norm(Key(l, g, j));
      if (name == "vnorm") out[size_t(j)] = Norm(Value(l, g, j));
    }
    return out;
  }

  bool Protected(int64_t j) const { return j < sinks() || j >= n_ - recent(); }

  // The unprotected tokens outside `without`, best score first, lower position first among equals.
  std::vector<int32_t> Ranked(const std::vector<double>& score, const std::set<int32_t>& without, bool positive) const {
    std::vector<int32_t> order;
    for (int32_t j = 0; j < n_; ++j) {
      if (!Protected(j) && !without.contains(j) && (!positive || score[size_t(j)] > 0)) order.push_back(j);
    }
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t b) { return score[size_t(a)] > score[size_t(b)]; });
    return order;
  }
  static void AddFirst(const std::vector<int32_t>& order, int64_t count, std::set<int32_t>& out) {
    for (int64_t k = 0; k < std::min(count, int64_t(order.size())); ++k) out.insert(order[size_t(k)]);
  }

  std::set<int32_t> Csp(int64_t l, int64_t g, int64_t k) const {
    const int64_t window =
        std::min(n_, Text("window", "") == "half" ? std::max<int64_t>(1, b_ / 2) : Int("window", 64));
    const double n = Real("n", 1);
    const auto plane = [&](bool own) {
      return Sums(l, g, n_ - window, [&](int64_t i, int64_t j, double lse) {
        const bool same = IsVisual(p_.layout[size_t(i)]) == IsVisual(p_.layout[size_t(j)]);
        return same == own ? double(float(1 / (1 + n * std::exp(-double(float(lse)))))) : 0.0;
      });
    };
    const std::vector<double> self = plane(true), cross = plane(false);
    std::vector<double> both;
    for (size_t j = 0; j < self.size(); ++j) both.push_back(self[j] + cross[j]);
    const int64_t k_c = Floor(double(k) * Real("cross_ratio", 0.5)), k_s = k - k_c;
    std::set<int32_t> out;
    const std::string combine = Text("combine", "union");
    if (combine == "intersect") {
      std::set<int32_t> a, b;
      AddFirst(Ranked(self, {}, true), k, a);
      AddFirst(Ranked(cross, {}, true), k, b);
      std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::inserter(out, out.begin()));
    } else {
      AddFirst(Ranked(self, {}, true), k_s, out);
      AddFirst(Ranked(cross, combine == "union" ? out : std::set<int32_t>(), true), k_c, out);
      if (combine == "concat") return out;
    }
    AddFirst(Ranked(both, out, false), k - int64_t(out.size()), out);
    return out;
  }

  void KeepLayer(int64_t l, std::vector<std::vector<int32_t>>& kept) {
    std::vector<std::set<int32_t>> sets(size_t(p_.s.kv_heads));
    scores.emplace_back();
    for (int64_t g = 0; g < p_.s.kv_heads; ++g) {
      auto& out = sets[size_t(g)];
      const int64_t budget = HeadBudget(l, g);
      for (int32_t j = 0; j < n_; ++j) {
        if (Protected(j)) out.insert(j);
      }
      const int64_t room = budget - int64_t(out.size());
      scores.back().push_back(o_.policy == "csp" || o_.policy == "uniform" ? std::vector<double>(size_t(n_), 0.0)
                                                                           : ScoreOf(l, g));
      if (budget >= n_) {
        for (int32_t j = 0; j < n_; ++j) out.insert(j);
      } else if (o_.policy == "csp") {
        for (const int32_t j : Csp(l, g, room)) out.insert(j);
      } else if (o_.policy == "uniform") {
        const auto rest = Ranked(scores.back().back(), {}, false);
        for (int64_t k = 0; k < room; ++k)
          out.insert(rest[size_t(Floor((double(k) + 0.5) * double(rest.size()) / double(room)))]);
      } else if (allocator() == "ada") {
        AddFirst(Ranked(scores.back().back(), {}, false), Floor(Real("alpha", 0.2) * double(b_)) - int64_t(out.size()),
                 out);
      } else {
        AddFirst(Ranked(scores.back().back(), {}, false), room, out);
      }
    }
    if (allocator() == "ada") ShareOut(sets);
    for (const auto& set : sets) kept.emplace_back(set.begin(), set.end());
  }

  // kvzip: the best of all layers and heads.
  Kept KeepTogether() {
    struct One {
      double score;
      int32_t token;
      size_t layer, head;
    };
    std::vector<One> rest;
    Kept kept(size_t(p_.s.layers), std::vector<std::vector<int32_t>>(size_t(p_.s.kv_heads)));
    int64_t left = b_ * p_.s.layers * p_.s.kv_heads;
    for (size_t l = 0; l < kept.size(); ++l) {
      scores.emplace_back();
      for (size_t g = 0; g < kept[l].size(); ++g) {
        scores.back().push_back(p_.Largest(int64_t(l), int64_t(g), n_));
        for (int32_t j = 0; j < n_; ++j) {
          if (!Protected(j)) rest.push_back({scores.back().back()[size_t(j)], j, l, g});
          if (Protected(j)) kept[l][g].push_back(j), --left;
        }
      }
    }
    std::sort(rest.begin(), rest.end(), [](const One& a, const One& b) {
      return std::tuple(-a.score, a.token, a.layer, a.head) < std::tuple(-b.score, b.token, b.layer, b.head);
    });
    for (int64_t i = 0; i < left; ++i)
      kept[rest[size_t(i)].layer][rest[size_t(i)].head].push_back(rest[size_t(i)].token);
    for (auto& layer : kept) {
      for (auto& head : layer) std::sort(head.begin(), head.end());
    }
    return kept;
  }

  // One slot after the other to the best entry of all heads.
  void ShareOut(std::vector<std::set<int32_t>>& sets) const {
    int64_t left = b_ * p_.s.kv_heads;
    for (const auto& set : sets) left -= int64_t(set.size());
    for (; left > 0; --left) {
      int64_t head = -1;
      int32_t token = -1;
      for (int32_t j = 0; j < n_; ++j) {
        for (int64_t g = 0; g < p_.s.kv_heads; ++g) {
          if (sets[size_t(g)].contains(j)) continue;
          const auto& score = scores.back();
          if (head < 0 || score[size_t(g)][size_t(j)] > score[size_t(head)][size_t(token)]) head = g, token = j;
        }
      }
      sets[size_t(head)].insert(token);
    }
  }
};

}  // namespace purekv::testing
