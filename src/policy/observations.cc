#include "policy/observations.h"

#include <algorithm>

#include "base/error.h"

namespace purekv {

Observations::Observations(const PolicySetup& setup, const KvCacheSpec& spec, int64_t heads, int64_t base)
    : setup_(setup), spec_(spec), heads_(heads), base_(base), layers_(static_cast<size_t>(spec.layers())) {
  for (int64_t layer = 0; layer < spec.layers(); ++layer) {
    const int64_t own = spec.owner(layer);
    if (!spec.full(own)) continue;
    const Observer observer = setup_.policy->Observes(own, base_);
    if (own == layer && observer.kind == Observer::Kind::kColumnSums) {
      At(layer).sums = AttentionSums(observer.planes(), spec[layer].kv_heads);
    }
    if (observer.queries_every > 0) At(layer).queries = QueryStats(heads, spec[layer].head_dim);
  }
}

void Observations::Begin(const PassingRows& rows, bool fresh) {
  rows_ = rows;
  if (!fresh) return;
  for (int64_t layer = 0; layer < spec_.layers(); ++layer) {
    if (!spec_.full(layer)) continue;
    const Observer observer = setup_.policy->Observes(layer, base_);
    if (observer.window > 0) At(layer).sums.Clear();
    if (observer.tail > 0) At(layer).sums.ClearPlane(observer.planes() - 1);
  }
}

Observer Observations::Request(int64_t layer) const {
  if (!rows_.observed) return {};
  const int64_t own = spec_.owner(layer);
  if (!spec_.full(own)) return {};
  const Observer observer = setup_.policy->Observes(own, base_);
  return observer.window > 0 && !rows_.InWindow(observer.window) ? observer.WithoutSums() : observer;
}

void Observations::AddQueries(int64_t layer, std::span<const int32_t> tokens, MatrixView<const float> q) {
  const Observer observer = Request(layer);
  At(layer).queries.Add(tokens, q, observer.first_token, observer.queries_every);
}

RowRange Observations::SumRows(int64_t layer, std::span<const int32_t> tokens) const {
  const auto rows = static_cast<int64_t>(tokens.size());
  const Observer observer = Request(layer);
  if (observer.kind != Observer::Kind::kColumnSums) return {};
  if (observer.window == 0) return {0, rows};
  return LastRows(observer.window, tokens);
}

RowRange Observations::TailRows(int64_t layer, std::span<const int32_t> tokens) const {
  const Observer observer = Request(layer);
  return observer.tail > 0 && rows_.InWindow(observer.tail) ? LastRows(observer.tail, tokens) : RowRange();
}

RowRange Observations::LastRows(int64_t window, std::span<const int32_t> tokens) const {
  const int64_t from = rows_.end() + rows_.until_scored - window;
  const int64_t begin = std::lower_bound(tokens.begin(), tokens.end(), from) - tokens.begin();
  return {begin, static_cast<int64_t>(tokens.size()) - begin};
}

AttentionSums& Observations::AnnounceSums(int64_t layer, std::span<const int32_t> queries, const KvCache& cache) {
  AttentionSums& sums = SumsOf(layer);
  if (spec_.owner(layer) != layer) return sums;  // the same queries once more: their owner has announced them
  std::vector<int64_t> lengths;
  for (int64_t head = 0; head < sums.kv_heads(); ++head) lengths.push_back(cache.Length(layer, head));
  sums.Announce(queries, lengths);
  return sums;
}

std::vector<int64_t> Observations::ScoredWith(int64_t source) const {
  std::vector<int64_t> layers;
  for (int64_t layer = 0; layer < spec_.layers(); ++layer) {
    if (layer != source && spec_.full(layer) && setup_.policy->SumsFrom(layer) == source) layers.push_back(layer);
  }
  return layers;
}

void Observations::Lend(const LayerEntries& entries) {
  const int64_t layer = entries.layer;
  if (ScoredWith(layer).empty()) return;
  Loan& loan = loans_[layer];
  loan = {At(layer).sums, {}};
  for (const auto& tokens : entries.tokens) loan.tokens.emplace_back(tokens.begin(), tokens.end());
}

void Observations::EndLoans(int64_t layer) {
  std::erase_if(loans_, [&](const auto& loan) {
    const std::vector<int64_t> others = ScoredWith(loan.first);
    return std::all_of(others.begin(), others.end(),
                       [&](int64_t one) { return CompressedBehind(*setup_.policy, spec_, one) <= layer; });
  });
}

Observation Observations::Of(const LayerEntries& entries) const {
  Observation observed;
  for (const int64_t layer : spec_.attending(entries.layer)) observed.queries.push_back(&At(layer).queries);
  observed.own = &At(entries.layer).sums;
  observed.maxima = &At(entries.layer).maxima;
  const int64_t from = setup_.policy->SumsFrom(entries.layer);
  observed.sum_group = static_cast<int64_t>(spec_.attending(from).size()) * heads_ / spec_[from].kv_heads;
  if (from == entries.layer) {
    observed.sums = &At(from).sums;
    observed.sum_tokens = entries.tokens;
    return observed;
  }
  const auto loan = loans_.find(from);
  PUREKV_CHECK(loan != loans_.end(), "layer ", entries.layer, " scores with the sums of ", from, ", which are gone");
  observed.sums = &loan->second.sums;
  observed.sum_tokens.assign(loan->second.tokens.begin(), loan->second.tokens.end());
  return observed;
}

void Observations::Use(int64_t layer) {
  if (setup_.policy->Observes(layer, base_).window > 0) At(layer).sums.Clear();
  for (const int64_t one : spec_.attending(layer)) At(one).queries.Clear();
  At(layer).maxima = {};
}

const AttentionSums* Observations::Continuing(int64_t layer) const {
  if (!setup_.steps_alone() || setup_.policy->has_fixed_point() || !spec_.full(layer)) return nullptr;
  const Observer observer = setup_.policy->Observes(layer, base_);
  // What a window saw, and the queries, were used up by the compression.
  return observer.sums_all() ? &At(layer).sums : nullptr;
}

void Observations::Restore(int64_t layer, int64_t first_query, int64_t last_query,
                           std::span<const std::span<const double>> lists) {
  PUREKV_CHECK(Continuing(layer) != nullptr, "layer ", layer);
  At(layer).sums.Restore(first_query, last_query, lists);
}

}  // namespace purekv
