#include "policy/observations.h"

#include <algorithm>

#include "base/error.h"

namespace purekv {

Observations::Observations(const PolicySetup& setup, const KvCacheSpec& spec, int64_t heads, int64_t base)
    : setup_(setup), spec_(spec), base_(base), layers_(static_cast<size_t>(spec.layers())) {
  for (int64_t layer = 0; layer < spec.layers(); ++layer) {
    if (!spec.full(layer)) continue;
    const Observer observer = setup_.policy->Observes(layer, base_);
    if (observer.kind == Observer::Kind::kColumnSums) {
      At(layer).sums = AttentionSums(observer.planes(), spec[layer].kv_heads);
    }
    if (observer.queries_every > 0) At(layer).queries = QueryStats(heads, spec[layer].head_dim);
  }
}

void Observations::Begin(const PassingRows& rows, bool fresh) {
  rows_ = rows;
  if (!fresh) return;
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    const Observer observer = setup_.policy->Observes(static_cast<int64_t>(layer), base_);
    if (observer.window > 0) layers_[layer].sums.Clear();
    if (observer.tail > 0) layers_[layer].sums.ClearPlane(observer.planes() - 1);
  }
}

Observer Observations::Request(int64_t layer) const {
  if (!rows_.observed || !spec_.full(layer)) return {};
  const Observer observer = setup_.policy->Observes(layer, base_);
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
  AttentionSums& sums = At(layer).sums;
  std::vector<int64_t> lengths;
  for (int64_t head = 0; head < sums.kv_heads(); ++head) lengths.push_back(cache.Length(layer, head));
  sums.Announce(queries, lengths);
  return sums;
}

bool Observations::AboveReads(int64_t layer, int64_t source) const {
  for (++layer; layer < spec_.layers(); ++layer) {
    if (spec_.full(layer)) return setup_.policy->SumsFrom(layer) == source;
  }
  return false;
}

bool Observations::BelowReads(int64_t layer, int64_t source) const {
  for (--layer; layer >= 0; --layer) {
    if (spec_.full(layer)) return setup_.policy->SumsFrom(layer) == source;
  }
  return false;
}

void Observations::Lend(const LayerEntries& entries) {
  const int64_t layer = entries.layer;
  if (setup_.policy->SumsFrom(layer) != layer) return;
  if (!AboveReads(layer, layer) && !BelowReads(layer, layer)) return;
  loan_ = {layer, At(layer).sums, {}};
  for (const auto& tokens : entries.tokens) loan_.tokens.emplace_back(tokens.begin(), tokens.end());
}

void Observations::EndLoan(int64_t layer) {
  if (!AboveReads(layer, loan_.layer)) loan_ = {};
}

Observation Observations::Of(const LayerEntries& entries) const {
  Observation observed;
  observed.queries = &At(entries.layer).queries;
  observed.own = &At(entries.layer).sums;
  observed.maxima = &At(entries.layer).maxima;
  const int64_t from = setup_.policy->SumsFrom(entries.layer);
  if (from == entries.layer) {
    observed.sums = &At(from).sums;
    observed.sum_tokens = entries.tokens;
    return observed;
  }
  PUREKV_CHECK(loan_.layer == from, "layer ", entries.layer, " reads ", from, ", there is ", loan_.layer);
  observed.sums = &loan_.sums;
  observed.sum_tokens.assign(loan_.tokens.begin(), loan_.tokens.end());
  return observed;
}

void Observations::Use(int64_t layer) {
  if (setup_.policy->Observes(layer, base_).window > 0) At(layer).sums.Clear();
  At(layer).queries.Clear();
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
