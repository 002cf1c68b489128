// How many entries each head keeps: the budgets of docs/policies.md once more, as plain loops. Shares nothing with
// src/policy but the names of options.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "policy/policy_testing.h"

namespace purekv::testing {

class ReferenceBudget {
 public:
  ReferenceBudget(const Problem& problem, const KvOptions& options, int64_t tokens)
      : p_(problem), o_(options), n_(tokens), heads_(problem.heads()) {
    b_ = options.tokens ? *options.tokens : std::max<int64_t>(1, Floor(options.budget.value_or(1) * double(tokens)));
    if (options.bytes) {  // the largest that fits; 0: none
      for (b_ = n_; b_ > 0 && BytesHeld() > *options.bytes; --b_) {
      }
    }
  }

  int64_t base() const { return b_; }

  // Whether the policy has such an option.
  bool Takes(const std::string& option) const {
    const auto& options = FindPolicy(o_.policy).options;
    return std::any_of(options.begin(), options.end(), [&](const PolicyOption& one) { return one.name == option; });
  }

  int64_t sinks() const {
    if (o_.policy == "kvzip" && Text("sinks", "auto") == "auto") {
      int64_t before = 0;
      while (before < n_ && !IsVisual(p_.layout[size_t(before)])) ++before;
      return std::min<int64_t>(before > 0 && before < n_ ? before : 4, b_ / 4);
    }
    return Takes("sinks") ? std::min<int64_t>(Int("sinks", 4), b_ / 4) : 0;
  }
  int64_t recent() const {
    if (Takes("recent")) return std::min<int64_t>(Int("recent", 32), b_ / 2);
    if (o_.policy == "snapkv") return std::min<int64_t>(Int("window", 32), b_ / 2);
    if (o_.policy == "h2o" || o_.policy == "csp" || o_.policy == "look-m")
      return std::min<int64_t>(Floor(Real("recent_ratio", 0.5) * double(b_)), b_ / 2);
    return 0;
  }
  std::vector<int64_t> LayerBudgets() const {
    std::vector<int64_t> budgets(size_t(p_.s.layers), b_);
    if (allocator() != "pyramid" || p_.s.layers == 1) return budgets;
    const double lo =
        std::max({double(b_) / Real("beta", 20), double(sinks() + recent()), 2.0 * double(b_) - double(n_)});
    const double hi = 2.0 * double(b_) - lo;
    double sum = 0;
    int64_t before = 0;
    for (size_t l = 0; l < budgets.size(); ++l) {
      sum += hi - (hi - lo) * double(l) / double(budgets.size() - 1);
      const auto rounded = int64_t(std::floor(sum + 0.5 + 1e-6));
      budgets[l] = rounded - before;
      before = rounded;
    }
    return budgets;
  }

  std::string allocator() const {
    if (o_.allocator != "auto") return o_.allocator;
    return o_.policy == "purekv" && !PapersForm() ? "retrieval" : "uniform";
  }
  // Entries of one head, where the allocator is not ada. retrieval: c by halving, in place of the sorted heads.
  int64_t HeadBudget(int64_t l, int64_t g) const {
    if (allocator() != "retrieval") return LayerBudgets()[size_t(l)];
    const double gamma = Real("gamma", 1);
    const double guarded = double(sinks() + recent());
    std::vector<double> weights;
    for (const auto& heads : p_.copying) {
      for (const double one : heads) weights.push_back(std::pow(std::min(one, 1.0) + 0.005, gamma));
    }
    const auto held = [&](double c, size_t lists) {
      double sum = 0;
      for (size_t i = 0; i < lists; ++i) sum += std::min(double(n_), guarded + c * weights[i]);
      return sum;
    };
    double low = 0, high = 1e12;
    for (int round = 0; round < 200; ++round) {
      const double c = (low + high) / 2;
      (held(c, weights.size()) <= double(b_) * double(weights.size()) ? low : high) = c;
    }
    const auto up_to = [&](int64_t lists) { return int64_t(std::floor(held(low, size_t(lists)) + 0.5 + 1e-6)); };
    const int64_t list = l * p_.s.kv_heads + g;
    return up_to(list + 1) - up_to(list);
  }

 protected:
  bool PapersForm() const {
    bool paper = false;
    for (const char* key : {"sources", "window", "heads", "normalise", "below"}) {
      paper = paper || (o_.options.contains(key) && o_.options.at(key) != "auto");
    }
    return paper;
  }

  // Allocated for f32 keys and values behind the cut, one entry per head more where the policy holds.
  int64_t BytesHeld() const {
    const int64_t row = p_.s.head_dim * 4, heads = p_.s.kv_heads;
    const auto list = [&](int64_t n) {
      const int64_t unit = n * row < 4096 ? 64 : 4096;
      return (n * row + unit - 1) / unit * unit;
    };
    const int64_t more = o_.policy == "h2o" || o_.policy == "tova" || o_.policy == "streaming-llm" ? 1 : 0;
    int64_t bytes = 0;
    for (const int64_t count : b_ < n_ ? LayerBudgets() : std::vector<int64_t>(size_t(p_.s.layers), n_)) {
      const int64_t sum = heads * (count + more) * row, pages = std::min(heads, sum / 4096);
      const int64_t shared =
          sum + pages * (4096 - std::gcd(row, int64_t{4096})) + (heads - pages) * (64 - std::gcd(row, int64_t{64}));
      const int64_t longest = std::min(n_ + more, heads * (count + more));
      if (o_.policy == "kvzip") {  // all layers' lists share
        const int64_t lists = heads * p_.s.layers, all = lists * count * row, paged = std::min(lists, all / 4096);
        const int64_t bound =
            all + paged * (4096 - std::gcd(row, int64_t{4096})) + (lists - paged) * (64 - std::gcd(row, int64_t{64}));
        return 2 * std::min(bound, lists * list(std::min(n_, lists * count)));
      }
      bytes += 2 * (allocator() == "ada" ? std::min(shared, heads * list(longest)) : heads * list(count + more));
    }
    if (b_ >= n_ || allocator() != "retrieval") return bytes;
    bytes = 0;
    for (int64_t l = 0; l < p_.s.layers; ++l) {
      for (int64_t g = 0; g < heads; ++g) bytes += 2 * list(std::min(n_, HeadBudget(l, g)) + more);
    }
    return bytes;
  }

  static int64_t Floor(double x) { return int64_t(std::floor(x + 1e-6)); }
  std::string Text(const std::string& key, const std::string& fallback) const {
    const auto it = o_.options.find(key);
    return it == o_.options.end() ? fallback : it->second;
  }
  int64_t Int(const std::string& key, int64_t fallback) const {
    return std::stoll(Text(key, std::to_string(fallback)));
  }
  double Real(const std::string& key, double fallback) const { return std::stod(Text(key, std::to_string(fallback))); }

  const Problem& p_;
  const KvOptions& o_;
  int64_t n_, heads_, b_;
};

}  // namespace purekv::testing
