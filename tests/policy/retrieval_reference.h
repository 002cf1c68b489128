// The views of docs/policies.md, "Looking up", as plain loops over everything: no index, no history but lists.
#pragma once

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>
#include <utility>
#include <vector>

#include "policy_testing.h"
#include "support/cache_numbers.h"

namespace purekv::testing {

// What the rows of one layer are to attend to, from the problem and the entries that the cache holds behind them.
class ViewReference {
 public:
  struct Settings {
    int64_t page = 16, sinks = 0, local = 0;
    int64_t tokens = 0;  // T
    bool mean = false, dynamic = true, cosine = false;
    int64_t frames = -1;  // rekv: by number; else by tokens
    int64_t history = 64, refresh = 5;
    double decay = 0.9;
  };
  ViewReference(const Problem& problem, const Settings& settings) : p_(problem), s_(settings) {}

  using Entries = std::set<int32_t>;  // tokens

  // Rotated keys of a head as they are stored. [length][head_dim]
  static std::vector<std::vector<double>> Keys(const KvCache& cache, int64_t layer, int64_t head) {
    const std::vector<float> numbers = Numbers(cache, layer, head);
    const int64_t d = cache.spec()[layer].head_dim;
    std::vector<std::vector<double>> keys;
    for (size_t i = 0; i < numbers.size(); i += size_t(2 * d)) {
      keys.emplace_back(numbers.begin() + std::ptrdiff_t(i), numbers.begin() + std::ptrdiff_t(i) + d);
    }
    return keys;
  }

  Entries Quest(const KvCache& cache, int64_t layer, int64_t g, int64_t row) const {
    const auto tokens = cache.EntryTokens(layer, g);
    const auto n = int64_t(tokens.size());
    if (s_.tokens >= n) return {tokens.begin(), tokens.end()};
    const auto keys = Keys(cache, layer, g);
    const int64_t pages = (n + s_.page - 1) / s_.page, newest = pages - 1;
    std::vector<std::pair<double, int64_t>> order;
    for (int64_t page = 0; page < newest; ++page) {
      double score = 0;
      for (int64_t h = g * p_.s.group; h < (g + 1) * p_.s.group; ++h) {
        double bound = 0;
        for (int64_t c = 0; c < p_.s.head_dim; ++c) {
          double low = 1e30, high = -1e30;
          for (int64_t i = page * s_.page; i < (page + 1) * s_.page; ++i) {
            low = std::min(low, keys[size_t(i)][size_t(c)]);
            high = std::max(high, keys[size_t(i)][size_t(c)]);
          }
          const auto q = double(p_.layers[size_t(layer)].q.Row(row)[h * p_.s.head_dim + c]);
          bound += std::max(q * low, q * high);
        }
        for (int64_t i = page * s_.page; i < (page + 1) * s_.page; ++i) {  // it is one
          double dot = 0;
          for (int64_t c = 0; c < p_.s.head_dim; ++c) {
            dot += double(p_.layers[size_t(layer)].q.Row(row)[h * p_.s.head_dim + c]) * keys[size_t(i)][size_t(c)];
          }
          EXPECT_GE(bound, dot - 1e-9);
        }
        if (h == g * p_.s.group) {
          score = bound;
        } else {
          score = s_.mean ? score + bound : std::max(score, bound);
        }
      }
      order.push_back({-score, page});
    }
    std::sort(order.begin(), order.end());
    std::set<int64_t> chosen = {newest};
    for (size_t i = 0; i < order.size() && int64_t(chosen.size()) < std::max<int64_t>(3, s_.tokens / s_.page); ++i) {
      chosen.insert(order[i].second);
    }
    return Of(tokens, chosen);
  }

  // All layers' choices of a step, or of rows that choose together, [layers]: places of entries, the same for all
  // heads. first: the lowest layer that chooses.
  std::vector<std::set<int64_t>> ActQkv(const KvCache& cache, int64_t first, int64_t row, int64_t rows, bool step) {
    entropies_.resize(size_t(p_.s.layers));
    const int64_t sinks = std::min(s_.sinks, s_.tokens / 4), local = std::min(s_.local, s_.tokens / 2);
    const int64_t mean_pages = std::max<int64_t>(1, (s_.tokens - sinks - local) / s_.page);
    int64_t left = mean_pages * (p_.s.layers - first);
    std::vector<std::set<int64_t>> all(size_t(p_.s.layers));
    for (int64_t layer = first; layer < p_.s.layers; ++layer) {
      const auto n = int64_t(cache.EntryTokens(layer, 0).size()), counted = step ? n : n - rows;
      auto& seen = all[size_t(layer)];
      if (s_.tokens >= counted) {
        for (int64_t i = 0; i < n; ++i) seen.insert(i);
        left -= mean_pages;
        continue;
      }
      for (int64_t i = 0; i < n; ++i) {
        const int64_t page = i / s_.page;
        const bool whole = page * s_.page >= sinks && (page + 1) * s_.page <= counted - local;
        if (!whole) seen.insert(i);
      }
      const std::vector<double> x = Probe(layer, row, rows);
      std::vector<std::pair<double, int64_t>> order;
      for (int64_t page = 0; page < n / s_.page; ++page) {
        if (page * s_.page < sinks || (page + 1) * s_.page > counted - local) continue;
        order.push_back({Cosine(MeanKey(cache, layer, page), x), page});
      }
      int64_t pages = mean_pages;
      if (s_.dynamic) {
        auto& own = entropies_[size_t(layer)];
        own.push_back(Entropy(order));
        if (own.size() > 100) own.erase(own.begin());
        double sum = 0, mine = 0;
        for (int64_t above = layer; above < p_.s.layers; ++above) {
          const auto& of = entropies_[size_t(above)];
          const double mean = of.empty() ? 1 : std::accumulate(of.begin(), of.end(), 0.0) / double(of.size());
          sum += mean;
          if (above == layer) mine = mean;
        }
        pages = int64_t(std::nearbyint(double(left) * mine / sum));
        pages = std::min(std::max(pages, std::max<int64_t>(1, mean_pages / 2)), 2 * mean_pages);
        pages = std::min(pages, int64_t(order.size()));
        left -= pages;
      }
      std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
      for (int64_t k = 0; k < std::min(pages, int64_t(order.size())); ++k) {
        for (int64_t i = 0; i < s_.page; ++i) seen.insert(order[size_t(k)].second * s_.page + i);
      }
    }
    return all;
  }

  // Of one KV head; the question's rows are [question, question + rows).
  Entries ReKv(const KvCache& cache, int64_t layer, int64_t g, int64_t question, int64_t rows) const {
    std::vector<double> asked(size_t(p_.s.kv_heads * p_.s.head_dim), 0.0);
    for (int64_t row = question; row < question + rows; ++row) {
      const auto x = GroupMean(layer, row);
      for (size_t c = 0; c < x.size(); ++c) asked[c] += x[c] / double(rows);
    }
    std::map<std::pair<int, int>, std::vector<Entries>> frames;  // tokens that each head has of it
    for (int64_t head = 0; head < p_.s.kv_heads; ++head) {
      for (const int32_t token : cache.EntryTokens(layer, head)) {
        const TokenRecord& record = p_.layout[size_t(token)];
        if (record.kind == TokenRecord::Kind::kText) continue;
        auto& of = frames[{record.item, record.slice}];
        of.resize(size_t(p_.s.kv_heads));
        of[size_t(head)].insert(token);
      }
    }
    std::vector<std::pair<double, const std::vector<Entries>*>> order;
    for (auto& [id, of] : frames) {
      std::vector<double> rep;
      for (int64_t head = 0; head < p_.s.kv_heads; ++head) {
        const auto mean = MeanKeyOf(cache, layer, head, of[size_t(head)]);
        rep.insert(rep.end(), mean.begin(), mean.end());
      }
      const double dot = std::inner_product(rep.begin(), rep.end(), asked.begin(), 0.0);
      order.push_back({s_.cosine ? Cosine(rep, asked) : dot, &of});
    }
    std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
    std::vector<int64_t> taken(size_t(p_.s.kv_heads), 0);
    Entries seen;
    for (const int32_t token : cache.EntryTokens(layer, g)) {
      if (p_.layout[size_t(token)].kind == TokenRecord::Kind::kText) seen.insert(token);
    }
    for (size_t i = 0; i < order.size(); ++i) {
      if (s_.frames >= 0 && int64_t(i) >= s_.frames) break;
      bool fits = true;
      for (size_t head = 0; head < taken.size(); ++head) {
        taken[head] += int64_t((*order[i].second)[head].size());
        fits = fits && (s_.frames >= 0 || taken[head] <= s_.tokens);
      }
      if (!fits) break;
      seen.insert((*order[i].second)[size_t(g)].begin(), (*order[i].second)[size_t(g)].end());
    }
    return seen;
  }

  // One more row of a KV head's history: the largest probability of each entry; and what the next step attends to.
  void AddRow(int64_t layer, int64_t g, const std::vector<float>& of_entries) {
    auto& rows = history_[{layer, g}];
    auto& row = rows.emplace_back();
    for (size_t i = 0; i < of_entries.size(); ++i) {
      if (i % size_t(s_.page) == 0) row.push_back(0);
      row.back() = std::max(row.back(), double(of_entries[i]));
    }
  }
  Entries Predicted(const KvCache& cache, int64_t layer, int64_t g) const {
    const auto tokens = cache.EntryTokens(layer, g);
    const auto n = int64_t(tokens.size());
    if (s_.tokens >= n) return {tokens.begin(), tokens.end()};
    const int64_t sinks = std::min(s_.sinks, s_.tokens / 4) / s_.page;
    const int64_t local = std::min(s_.local, s_.tokens / 2) / s_.page;
    const int64_t pages = (n + s_.page - 1) / s_.page;
    const auto& rows = history_.at({layer, g});
    std::set<int64_t> chosen;
    std::vector<std::pair<double, int64_t>> order;
    for (int64_t page = 0; page < pages; ++page) {
      if (page < sinks || page >= pages - std::max<int64_t>(1, local)) {
        chosen.insert(page);
        continue;
      }
      double score = 0;
      for (int64_t age = 0; age < std::min(s_.history, int64_t(rows.size())); ++age) {
        const auto& row = rows[rows.size() - 1 - size_t(age)];
        if (page < int64_t(row.size())) score += std::pow(s_.decay, double(age)) * row[size_t(page)];
      }
      order.push_back({-score, page});
    }
    std::sort(order.begin(), order.end());
    const int64_t wanted = std::max<int64_t>(1, s_.tokens / s_.page - sinks - local);
    for (int64_t k = 0; k < std::min(wanted, int64_t(order.size())); ++k) chosen.insert(order[size_t(k)].second);
    return Of(tokens, chosen);
  }

 private:
  Entries Of(std::span<const int32_t> tokens, const std::set<int64_t>& pages) const {
    Entries entries;
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (pages.contains(int64_t(i) / s_.page)) entries.insert(tokens[i]);
    }
    return entries;
  }

  std::vector<double> GroupMean(int64_t layer, int64_t row) const {
    std::vector<double> x(size_t(p_.s.kv_heads * p_.s.head_dim), 0.0);
    for (int64_t h = 0; h < p_.heads(); ++h) {
      for (int64_t c = 0; c < p_.s.head_dim; ++c) {
        x[size_t(h / p_.s.group * p_.s.head_dim + c)] +=
            double(p_.layers[size_t(layer)].q_plain.Row(row)[h * p_.s.head_dim + c]) / double(p_.s.group);
      }
    }
    return x;
  }

  // The mean key of these tokens before rotation.
  std::vector<double> MeanKeyOf(const KvCache& cache, int64_t layer, int64_t head, const Entries& entries) const {
    std::vector<double> mean(size_t(p_.s.head_dim), 0.0);
    const auto tokens = cache.EntryTokens(layer, head);
    const auto keys = Keys(cache, layer, head);
    const int64_t half = p_.s.head_dim / 2;
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (!entries.contains(tokens[i])) continue;
      const Position& at = p_.positions[size_t(tokens[i])];
      for (int64_t f = 0; f < half; ++f) {
        const int32_t axis = f % 3 == 0 ? at.t : f % 3 == 1 ? at.h : at.w;
        const double angle = -double(float(axis) * p_.inv_freq[size_t(f)]);
        const double a = keys[i][size_t(f)], b = keys[i][size_t(f + half)];
        mean[size_t(f)] += (a * std::cos(angle) - b * std::sin(angle)) / double(entries.size());
        mean[size_t(f + half)] += (b * std::cos(angle) + a * std::sin(angle)) / double(entries.size());
      }
    }
    return mean;
  }
  std::vector<double> MeanKey(const KvCache& cache, int64_t layer, int64_t page) const {
    std::vector<double> all;
    for (int64_t head = 0; head < p_.s.kv_heads; ++head) {
      const auto tokens = cache.EntryTokens(layer, head).subspan(size_t(page * s_.page), size_t(s_.page));
      const Entries entries(tokens.begin(), tokens.end());
      const auto mean = MeanKeyOf(cache, layer, head, entries);
      all.insert(all.end(), mean.begin(), mean.end());
    }
    return all;
  }

  static double Cosine(const std::vector<double>& a, const std::vector<double>& b) {
    const auto dot = [](const auto& x, const auto& y) {
      return std::inner_product(x.begin(), x.end(), y.begin(), 0.0);
    };
    const double norms = std::sqrt(dot(a, a) * dot(b, b));
    return norms > 0 ? dot(a, b) / norms : 0;
  }

  std::vector<double> Probe(int64_t layer, int64_t row, int64_t rows) const {
    if (rows == 1) return GroupMean(layer, row);
    const size_t width = size_t(p_.s.kv_heads * p_.s.head_dim);
    std::vector<double> mean(width, 0.0), variance(width, 0.0), probe(width, 0.0);
    for (int64_t before = 0; before < row; ++before) {
      const auto x = GroupMean(layer, before);
      for (size_t c = 0; c < width; ++c) mean[c] += x[c] / double(row);
    }
    double all = 0;
    for (int64_t before = 0; before < row; ++before) {
      const auto x = GroupMean(layer, before);
      for (size_t c = 0; c < width; ++c) variance[c] += (x[c] - mean[c]) * (x[c] - mean[c]) / double(row);
    }
    for (const double v : variance) all += v / double(width);
    double total = 0;
    for (int64_t t = row; t < row + rows; ++t) {
      const auto x = GroupMean(layer, t);
      double weight = 0;
      for (size_t c = 0; c < width; ++c) {
        weight += (x[c] - mean[c]) * (x[c] - mean[c]) / (variance[c] + all / 100) / double(width);
      }
      total += weight;
      for (size_t c = 0; c < width; ++c) probe[c] += weight * x[c];
    }
    for (double& x : probe) x /= total;
    return probe;
  }

  static double Entropy(const std::vector<std::pair<double, int64_t>>& scores) {
    const auto n = double(scores.size());
    if (scores.size() < 2) return 1;
    double mean = 0, variance = 0, sum = 0, entropy = 0;
    for (const auto& [x, page] : scores) mean += x / n;
    for (const auto& [x, page] : scores) variance += (x - mean) * (x - mean) / n;
    if (variance == 0) return 1;
    for (const auto& [x, page] : scores) sum += std::exp((x - mean) / std::sqrt(variance));
    for (const auto& [x, page] : scores) {
      const double a = std::exp((x - mean) / std::sqrt(variance)) / sum;
      entropy -= a * std::log(a);
    }
    return entropy / std::log(n);
  }

  const Problem& p_;
  Settings s_;
  std::vector<std::vector<double>> entropies_;  // [layers]
  std::map<std::pair<int64_t, int64_t>, std::vector<std::vector<double>>> history_;
};

}  // namespace purekv::testing
