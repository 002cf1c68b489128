// prefixkv, elastic, roco, look-m, infinipot-v and kvmerger, the allocator prefix and the rules of merging once more
// (docs/policies.md), as slow plain loops in f64 over whole attention rows. Shares nothing with src/policy.
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

using Row = std::vector<double>;

struct PlainEntry {
  int32_t token = 0;
  int64_t count = 1;
  Row key, value;
};
using PlainHead = std::vector<PlainEntry>;

// What a head holds when its first n tokens have been cut to the budget of `options`.
class Methods : public ReferenceBudget {
 public:
  using ReferenceBudget::ReferenceBudget;

  std::vector<std::vector<PlainHead>> Heads() {
    std::vector<int64_t> counts(size_t(p_.s.layers), b_);
    if (b_ < n_) counts = LayerBudgets();
    if ((o_.allocator == "prefix" || (o_.allocator == "auto" && o_.policy == "prefixkv")) && b_ < n_) counts = Prefix();
    std::vector<std::vector<PlainHead>> heads;
    for (int64_t l = 0; l < p_.s.layers; ++l) {
      heads.emplace_back();
      for (int64_t g = 0; g < p_.s.kv_heads; ++g) {
        const int64_t count = std::min(n_, counts[size_t(l)]);
        if (count >= n_) {
          heads.back().push_back(All(l, g));
        } else if (o_.policy == "kvmerger") {
          heads.back().push_back(KvMerger(l, g, count));
        } else {
          heads.back().push_back(Merged(l, g, Kept(l, g, count)));
        }
      }
    }
    return heads;
  }

  // Of one head, the tokens that stay.
  std::set<int32_t> Kept(int64_t l, int64_t g, int64_t count) const {
    std::set<int32_t> kept;
    for (int32_t j = 0; j < n_; ++j) {
      if (Protected(j)) kept.insert(j);
    }
    if (o_.policy == "roco") {
      const auto [mean, deviation] = Roco(l, g);
      const int64_t free = count - int64_t(kept.size());
      Add(
          deviation, [](int32_t) { return true; }, std::min(free, Floor(Real("std_ratio", 0.3) * double(count))), kept);
      Add(
          mean, [](int32_t) { return true; }, count - int64_t(kept.size()), kept);
      return kept;
    }
    if (o_.policy == "infinipot-v") return InfiniPot(l, g, count, kept);
    if (o_.policy == "look-m" && Text("text_prior", "1") == "1") {
      Add(
          Score(l, g), [&](int32_t j) { return !Visual(j); }, count - int64_t(kept.size()), kept);
    }
    Add(
        Score(l, g), [](int32_t) { return true; }, count - int64_t(kept.size()), kept);
    return kept;
  }

 private:
  bool Protected(int32_t j) const { return j < sinks() || j >= n_ - recent(); }
  bool Visual(int32_t j) const { return p_.layout[size_t(j)].kind != TokenRecord::Kind::kText; }
  Row KeyOf(int64_t l, int64_t g, int64_t j) const {
    const float* const k = p_.layers[size_t(l)].k.Row(j) + g * p_.s.head_dim;
    return {k, k + p_.s.head_dim};
  }
  Row ValueOf(int64_t l, int64_t g, int64_t j) const {
    const float* const v = p_.layers[size_t(l)].v.Row(j) + g * p_.s.head_dim;
    return {v, v + p_.s.head_dim};
  }
  static double Dot(const Row& a, const Row& b) { return std::inner_product(a.begin(), a.end(), b.begin(), 0.0); }
  static double Norm(const Row& a) { return std::sqrt(Dot(a, a)); }
  static double Cos(const Row& a, const Row& b) {
    const double norms = Norm(a) * Norm(b);
    return norms > 0 ? Dot(a, b) / norms : 0;
  }
  // The key turned by minus its position, or plus.
  Row Turned(Row key, int64_t j, double sign) const {
    const Position& at = p_.positions[size_t(j)];
    const size_t half = key.size() / 2;
    for (size_t f = 0; f < half; ++f) {
      const int32_t place = f % 3 == 0 ? at.t : f % 3 == 1 ? at.h : at.w;
      const double angle = sign * double(float(place) * p_.inv_freq[f]);
      const double a = key[f], b = key[f + half];
      key[f] = a * std::cos(angle) - b * std::sin(angle);
      key[f + half] = a * std::sin(angle) + b * std::cos(angle);
    }
    return key;
  }

  PlainHead All(int64_t l, int64_t g) const {
    PlainHead head;
    for (int32_t j = 0; j < n_; ++j) head.push_back({j, 1, KeyOf(l, g, j), ValueOf(l, g, j)});
    return head;
  }

  // Sums over all queries of attention, or of its square, mean over the group.
  Row Sums(int64_t l, int64_t g, int power) const {
    Row sums(size_t(n_), 0.0);
    for (int64_t h = g * p_.s.group; h < (g + 1) * p_.s.group; ++h) {
      for (int64_t i = 0; i < n_; ++i) {
        const Row& row = p_.Row(l, h, i);
        for (size_t j = 0; j <= size_t(i); ++j) sums[j] += std::pow(row[j], power) / double(p_.s.group);
      }
    }
    return sums;
  }
  std::pair<Row, Row> Roco(int64_t l, int64_t g) const {
    Row mean = Sums(l, g, 1), deviation = Sums(l, g, 2);
    for (int64_t j = 0; j < n_; ++j) {
      const double seen = double(n_ - j);
      mean[size_t(j)] /= seen;
      deviation[size_t(j)] = std::sqrt(std::max(0.0, deviation[size_t(j)] / seen - mean[size_t(j)] * mean[size_t(j)]));
    }
    return {mean, deviation};
  }
  Row Score(int64_t l, int64_t g) const {
    if (o_.policy != "prefixkv" && o_.policy != "elastic") return Sums(l, g, 1);
    Row mean(size_t(n_), 0.0);
    for (int64_t other = 0; other < p_.s.kv_heads; ++other) {
      const Row one = Sums(l, other, 1);
      for (size_t j = 0; j < one.size(); ++j) mean[j] += one[j] / double(p_.s.kv_heads);
    }
    return mean;
  }

  // The best that are not there yet and may be, one after the other.
  template <class May>
  void Add(const Row& score, const May& may, int64_t count, std::set<int32_t>& kept) const {
    for (; count > 0; --count) {
      int32_t best = -1;
      for (int32_t j = 0; j < n_; ++j) {
        if (kept.contains(j) || !may(j)) continue;
        if (best < 0 || score[size_t(j)] > score[size_t(best)]) best = j;
      }
      if (best < 0) return;
      kept.insert(best);
    }
  }

  std::set<int32_t> InfiniPot(int64_t l, int64_t g, int64_t count, std::set<int32_t> kept) const {
    bool any = false;
    for (int32_t j = 0; j < n_; ++j) any = any || Visual(j);
    for (int32_t j = 0; j < n_ && any && Text("text", "1") == "1"; ++j) {
      if (!Visual(j) && !kept.contains(j) && int64_t(kept.size()) < Floor(0.75 * double(count))) kept.insert(j);
    }
    std::set<std::pair<int32_t, int32_t>> all;
    const auto frame = [&](int32_t j) { return std::pair(p_.layout[size_t(j)].item, p_.layout[size_t(j)].slice); };
    for (int32_t j = 0; j < n_; ++j) {
      if (Visual(j)) all.insert(frame(j));
    }
    const std::vector<std::pair<int32_t, int32_t>> frames(all.begin(), all.end());
    const int64_t latest = std::max<int64_t>(1, Floor(Real("query_ratio", 0.25) * double(frames.size())));
    const auto reference = [&](int32_t j) {
      if (!Visual(j)) return false;
      const auto at = std::find(frames.begin(), frames.end(), frame(j)) - frames.begin();
      return at >= int64_t(frames.size()) - latest;
    };
    const int64_t t = std::min(Floor(Real("tar_ratio", 0.5) * double(count)), count - int64_t(kept.size()));
    int64_t taken = 0;
    for (auto it = frames.rbegin(); it != frames.rend(); ++it) {
      for (int32_t j = 0; j < n_; ++j) {
        if (!Visual(j) || frame(j) != *it || !reference(j) || kept.contains(j) || taken >= 2 * t / 3) continue;
        kept.insert(j);
        ++taken;
      }
    }
    Row changed(size_t(n_), 0.0), norms;
    for (int32_t j = 0; j < n_; ++j) {
      norms.push_back(Norm(ValueOf(l, g, j)));
      double sum = 0;
      int64_t found = 0;
      for (int32_t r = 0; r < n_; ++r) {
        const auto &a = p_.layout[size_t(j)], &b = p_.layout[size_t(r)];
        if (!reference(r) || a.item != b.item || a.row != b.row || a.column != b.column) continue;
        sum += Cos(KeyOf(l, g, j), KeyOf(l, g, r));
        ++found;
      }
      changed[size_t(j)] = found > 0 ? -sum / double(found) : 1;
    }
    Add(
        changed, [&](int32_t j) { return Visual(j) && !reference(j); }, t - taken, kept);
    Add(
        norms, [](int32_t) { return true; }, count - int64_t(kept.size()), kept);
    return kept;
  }

  // Slot by slot, to the layer that has the smallest share so far.
  std::vector<int64_t> Prefix() const {
    const int64_t guarded = sinks() + recent();
    std::vector<Row> sorted;
    Row totals;
    for (int64_t l = 0; l < p_.s.layers; ++l) {
      Row mean(size_t(n_), 0.0);
      for (int64_t g = 0; g < p_.s.kv_heads; ++g) {
        const Row one = Score(l, g);
        for (size_t j = 0; j < one.size(); ++j) mean[j] += one[j] / double(p_.s.kv_heads);
      }
      std::sort(mean.begin(), mean.end(), std::greater<>());
      totals.push_back(std::accumulate(mean.begin(), mean.end(), 0.0));
      sorted.push_back(mean);
    }
    std::vector<int64_t> x(size_t(p_.s.layers), 0);
    for (int64_t slot = 0; slot < p_.s.layers * (b_ - guarded); ++slot) {
      int64_t best = -1;
      double least = 0;
      for (int64_t l = 0; l < p_.s.layers; ++l) {
        if (x[size_t(l)] >= n_ - guarded) continue;
        const double share = std::accumulate(sorted[size_t(l)].begin(), sorted[size_t(l)].begin() + x[size_t(l)], 0.0) /
                             totals[size_t(l)];
        if (best < 0 || share < least) best = l, least = share;
      }
      ++x[size_t(best)];
    }
    for (int64_t& count : x) count += guarded;
    return x;
  }

  PlainHead Merged(int64_t l, int64_t g, const std::set<int32_t>& kept) const {
    std::string rule = o_.merge;
    const bool authors = o_.policy == "elastic" || o_.policy == "look-m";
    if (rule == "auto") rule = o_.policy == "elastic" ? "nearest" : o_.policy == "look-m" ? "pivotal" : "none";
    const bool align = rule != "values" && Text("merge_rotation", authors ? "keep" : "align") == "align";
    std::map<int32_t, PlainEntry> before;
    for (const PlainEntry& one : All(l, g)) before[one.token] = one;
    const auto compared = [&](int32_t j) { return align ? Turned(before[j].key, j, -1) : before[j].key; };
    struct Choice {
      int32_t target = -1;
      double cosine = 0;
    };
    std::map<int32_t, Choice> choices;
    const int64_t window = Int("merge_window", 0);
    for (int32_t e = 0; e < n_ && rule != "none"; ++e) {
      if (kept.contains(e)) continue;
      Choice best;
      std::vector<std::pair<int32_t, double>> all;
      for (const int32_t p : kept) {
        if (Protected(p)) continue;
        if (Text("merge_into", "all") == "kind" && Visual(p) != Visual(e)) continue;
        if (window > 0 && std::abs(p - e) > window) continue;
        all.emplace_back(p, rule == "nearest" ? -std::abs(double(p - e)) : Cos(compared(e), compared(p)));
      }
      double highest = -1e9;
      for (const auto& [p, score] : all) highest = std::max(highest, score);
      for (const auto& [p, score] : all) {
        if (best.target < 0 && score >= highest - 1e-5) best = {p, score};
      }
      if (best.target >= 0) choices[e] = best;
    }
    std::string threshold = Text("merge_threshold", "auto");
    if (threshold == "auto")
      threshold = o_.policy == "look-m" && (rule == "averaged" || rule == "weighted") ? "mean" : "off";
    if (rule == "nearest") threshold = "off";
    double least = -2;
    if (threshold == "mean" && !choices.empty()) {
      least = 0;
      for (const auto& [e, choice] : choices) least += choice.cosine / double(choices.size());
    } else if (threshold != "off" && threshold != "mean") {
      least = std::stod(threshold);
    }
    PlainHead head;
    for (const int32_t p : kept) {
      PlainEntry one = before[p];
      Row key = one.key, value = one.value;
      if (align && rule != "values") key = Turned(key, p, -1);
      double total = 1;
      Row keys = key, values = value;
      for (const auto& [e, choice] : choices) {
        if (choice.target != p || (rule != "nearest" && choice.cosine < least - 1e-12)) continue;
        const Row source = align && rule != "values" ? Turned(before[e].key, e, -1) : before[e].key;
        const Row& source_value = before[e].value;
        double weight = 1;
        if (rule == "weighted") weight = (1 + choice.cosine) / 2;
        if (rule == "values") {
          const double a = Norm(source_value), b = Norm(value);
          weight = a + b > 0 ? std::max(choice.cosine, 0.0) * a / (a + b) : 0;
        }
        for (size_t d = 0; d < key.size(); ++d) {
          const bool half = rule == "pivotal";
          keys[d] += weight * (half ? (source[d] + key[d]) / 2 : source[d]);
          values[d] += weight * (half ? (source_value[d] + value[d]) / 2 : source_value[d]);
        }
        total += weight;
        ++one.count;
      }
      if (one.count > 1) {
        for (size_t d = 0; d < key.size(); ++d) keys[d] /= total, values[d] /= total;
        if (rule != "values") one.key = align ? Turned(keys, p, 1) : keys;
        one.value = values;
      }
      head.push_back(one);
    }
    return head;
  }

  PlainHead KvMerger(int64_t l, int64_t g, int64_t count) const {
    const bool align = Text("merge_rotation", "keep") == "align";
    const Row attention = Sums(l, g, 1);
    std::set<int32_t> alone;
    for (int32_t j = 0; j < n_; ++j) {
      if (Protected(j)) alone.insert(j);
    }
    Add(
        attention, [](int32_t) { return true; },
        std::min(Floor(Real("heavy_ratio", 0.2) * double(count)), count - int64_t(alone.size())), alone);
    const auto key = [&](int32_t j) { return align ? Turned(KeyOf(l, g, j), j, -1) : KeyOf(l, g, j); };
    std::vector<std::pair<double, int32_t>> pairs;  // minus cosine, place
    for (int32_t j = 0; j + 1 < n_; ++j) {
      if (alone.contains(j) || alone.contains(j + 1) || Visual(j) != Visual(j + 1)) continue;
      pairs.emplace_back(-Cos(key(j), key(j + 1)), j);
    }
    std::sort(pairs.begin(), pairs.end());
    std::set<int32_t> joined;
    const std::string epsilon = Text("epsilon", "auto");
    for (const auto& [minus, j] : pairs) {
      if (epsilon == "auto" ? int64_t(joined.size()) < n_ - count : -minus >= std::stod(epsilon)) joined.insert(j);
    }
    std::vector<std::vector<int32_t>> runs;
    for (int32_t j = 0; j < n_; ++j) {
      if (j == 0 || !joined.contains(j - 1)) runs.emplace_back();
      runs.back().push_back(j);
    }
    const auto attended = [&](const std::vector<int32_t>& run) {
      double sum = 0;
      for (const int32_t j : run) sum += attention[size_t(j)];
      return sum;
    };
    while (int64_t(runs.size()) > count) {
      size_t lowest = runs.size();
      for (size_t i = 0; i < runs.size(); ++i) {
        if (alone.contains(runs[i][0])) continue;
        if (lowest == runs.size() || attended(runs[i]) <= attended(runs[lowest])) lowest = i;
      }
      runs.erase(runs.begin() + int64_t(lowest));
    }
    PlainHead head;
    for (const auto& run : runs) {
      int32_t pivot = run[0];
      for (const int32_t j : run) {
        if (attention[size_t(j)] > attention[size_t(pivot)]) pivot = j;
      }
      const auto far = [&](int32_t j) {
        double sum = 0;
        const Row a = key(j), b = key(pivot);
        for (size_t d = 0; d < a.size(); ++d) sum += (a[d] - b[d]) * (a[d] - b[d]);
        return sum;
      };
      double square = 0;
      for (const int32_t j : run) square += j == pivot ? 0 : far(j) / double(run.size() - 1);
      if (Text("sigma", "auto") != "auto") square = Real("sigma", 0) * Real("sigma", 0);
      PlainEntry one{pivot, int64_t(run.size()), Row(size_t(p_.s.head_dim), 0.0), Row(size_t(p_.s.head_dim), 0.0)};
      double total = 0;
      for (const int32_t j : run) {
        const double weight = square > 0 ? std::exp(-far(j) / (2 * square)) : 1;
        for (size_t d = 0; d < one.key.size(); ++d) {
          one.key[d] += weight * key(j)[d];
          one.value[d] += weight * ValueOf(l, g, j)[d];
        }
        total += weight;
      }
      for (size_t d = 0; d < one.key.size(); ++d) one.key[d] /= total, one.value[d] /= total;
      if (align) one.key = Turned(one.key, pivot, 1);
      head.push_back(one);
    }
    std::sort(head.begin(), head.end(), [](const PlainEntry& a, const PlainEntry& b) { return a.token < b.token; });
    return head;
  }
};

}  // namespace purekv::testing
