#include "policy/compressor.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "policy/drop.h"
#include "policy/scores.h"
#include "policy/selector.h"

namespace purekv {

Compressor::Compressor(const KvOptions& options, const KvCacheShape& shape, int64_t heads, std::vector<float> inv_freq)
    : setup_(MakePolicy(options, shape)),
      options_(options),
      shape_(shape),
      heads_(heads),
      inv_freq_(std::move(inv_freq)),
      layers_(static_cast<size_t>(shape.layers)) {
  PUREKV_CHECK(heads % shape.kv_heads == 0, heads, " heads over ", shape.kv_heads);
  for (int64_t layer = 0; layer < shape.layers && options.chunk > 0; ++layer) {
    const Observer observer = setup_.policy->Observes(layer, options.tokens.value_or(shape.layers));
    const bool all_queries = observer.kind == Observer::Kind::kColumnSums && observer.window == 0;
    if (!all_queries && observer.kind != Observer::Kind::kQueries) continue;
    FailUsage(Field{"kv.chunk"}, ": policy ", options.policy,
              " judges a key by queries of the whole part, so nothing can be evicted before all of it has been read",
              setup_.info->score_window.text.empty() ? "" : "; ", setup_.info->score_window);
  }
}

int64_t Compressor::last_scoring_layer() const {
  int64_t layer = active() ? shape_.layers - 1 : -1;
  while (layer >= 0 && setup_.policy->Observes(layer, 1).kind != Observer::Kind::kColumnSums) --layer;
  return layer;
}

int64_t Compressor::SetPart(int64_t tokens) {
  PUREKV_CHECK(tokens >= 1, tokens);
  if (!active()) {
    TakeBase(tokens, tokens);
  } else if (options_.bytes) {
    TakeBase(LargestBudget(*options_.bytes, Capped(tokens), [&](int64_t base) { return CountsOf(base, tokens); }),
             tokens);
  } else {
    TakeBase(BaseBudget(options_, tokens), tokens);
  }
  return base_;
}

std::vector<int64_t> Compressor::CountsOf(int64_t base, int64_t tokens) const {
  if (options_.allocator == "pyramid" && base < tokens) {
    return PyramidCounts(shape_.layers, base, tokens, setup_.policy->Protects(base).count(), setup_.beta);
  }
  return std::vector<int64_t>(static_cast<size_t>(shape_.layers), base);
}

CappedPart Compressor::Capped(int64_t tokens) const {
  CappedPart part{shape_, tokens, options_.chunk, options_.allocator == "ada", setup_.info->holds, {}};
  for (int64_t layer = 0; layer < shape_.layers; ++layer) {
    part.cut_behind.push_back(std::max(layer, setup_.policy->SumsFrom(layer)));
  }
  return part;
}

void Compressor::TakeBase(int64_t base, int64_t tokens) {
  base_ = base;
  counts_ = CountsOf(base, tokens);
  if (!active()) return;
  for (int64_t layer = 0; layer < shape_.layers; ++layer) {
    const Observer observer = setup_.policy->Observes(layer, base_);
    At(layer) = {};
    At(layer).capacity.assign(static_cast<size_t>(shape_.kv_heads), 0);
    if (observer.kind == Observer::Kind::kColumnSums) {
      At(layer).sums = AttentionSums(observer.planes(), shape_.kv_heads);
    } else if (observer.kind == Observer::Kind::kQueries) {
      At(layer).queries = QueryStats(heads_, shape_.head_dim);
    }
  }
  steps_ = 0;
  alive_.assign(options_.drop_layers.size(), {});
}

const AttentionSums* Compressor::ContinuingSums(int64_t layer) const {
  if (!steps_alone()) return nullptr;
  const Observer observer = setup_.policy->Observes(layer, base_);
  // What a window saw, and the queries, were used up by the compression.
  const bool continues = observer.kind == Observer::Kind::kColumnSums && observer.window == 0;
  return continues ? &At(layer).sums : nullptr;
}

void Compressor::Resume(int64_t tokens, int64_t base, const KvCache& cache) {
  PUREKV_CHECK(base >= 1 && base <= tokens, "B ", base, " of ", tokens);
  TakeBase(base, tokens);
  if (!active()) return;
  for (int64_t layer = 0; layer < shape_.layers; ++layer) {
    for (int64_t head = 0; head < shape_.kv_heads; ++head) {
      At(layer).capacity[static_cast<size_t>(head)] = cache.Length(layer, head);
    }
  }
}

void Compressor::RestoreSums(int64_t layer, int64_t first_query, int64_t last_query,
                             std::span<const std::span<const double>> lists) {
  PUREKV_CHECK(ContinuingSums(layer) != nullptr, "layer ", layer);
  At(layer).sums.Restore(first_query, last_query, lists);
}

void Compressor::Begin(Reading reading, int64_t first_token, int64_t rows) {
  if (!active()) return;
  PUREKV_CHECK(base_ >= 1 && rows >= 1, "B ", base_, ", ", rows, " rows");
  PUREKV_CHECK(reading != Reading::kStep || rows == 1, rows, " rows in one step");
  reading_ = reading;
  first_token_ = first_token;
  rows_ = rows;
  if (reading == Reading::kStep) ++steps_;
  for (LayerState& layer : layers_) {
    if (reading == Reading::kOnTop) {
      for (int64_t& capacity : layer.capacity) capacity += rows;
    }
    // A window never reaches over what was read before; a policy that holds looks at one step at a time.
    const bool windowed = setup_.policy->Observes(&layer - layers_.data(), base_).window > 0;
    if (windowed && (reading != Reading::kStep || setup_.info->holds)) layer.sums.Clear();
  }
}

Observer Compressor::Observes(int64_t layer) const {
  if (!active()) return {};
  // Behind the part nothing is asked for unless something will be evicted again.
  if (reading_ != Reading::kPart && !setup_.info->holds && setup_.decode_every == 0) return {};
  Observer observer = setup_.policy->Observes(layer, base_);
  const bool sums_all = observer.kind == Observer::Kind::kColumnSums && observer.window == 0;
  const bool queries = observer.kind == Observer::Kind::kQueries;
  if (reading_ == Reading::kOnTop && !sums_all && !queries) return {};
  return observer;
}

void Compressor::AddQueries(int64_t layer, std::span<const int32_t> tokens, MatrixView<const float> q) {
  const int64_t left_out = std::lower_bound(tokens.begin(), tokens.end(), Observes(layer).first_token) - tokens.begin();
  At(layer).queries.Add(q.Rows(left_out, q.rows - left_out));
}

RowRange Compressor::SumRows(int64_t layer, std::span<const int32_t> tokens) const {
  const auto rows = static_cast<int64_t>(tokens.size());
  const Observer observer = Observes(layer);
  if (observer.kind != Observer::Kind::kColumnSums) return {};
  if (observer.window == 0) return {0, rows};
  if (reading_ == Reading::kStep && !setup_.info->holds) {
    return {0, StepsLeft() < observer.window ? rows : 0};
  }
  const int64_t begin =
      std::lower_bound(tokens.begin(), tokens.end(), first_token_ + rows_ - observer.window) - tokens.begin();
  return {begin, rows - begin};
}

AttentionSums& Compressor::Sums(int64_t layer, std::span<const int32_t> queries, const KvCache& cache) {
  std::vector<int64_t> lengths;
  for (int64_t head = 0; head < shape_.kv_heads; ++head) lengths.push_back(cache.Length(layer, head));
  At(layer).sums.Announce(queries, lengths);
  return At(layer).sums;
}

int64_t Compressor::StepsLeft() const {
  return (setup_.decode_every - steps_ % setup_.decode_every) % setup_.decode_every;
}

bool Compressor::CompressesNow() const {
  if (reading_ == Reading::kPart) return true;
  return reading_ == Reading::kStep && setup_.decode_every > 0 && StepsLeft() == 0;
}

LayerEntries Compressor::Entries(int64_t layer, const KvCache& cache, std::span<const TokenRecord> layout) const {
  LayerEntries entries;
  entries.layer = layer;
  entries.heads = heads_;
  entries.head_dim = shape_.head_dim;
  entries.base = base_;
  entries.layout = layout;
  entries.positions = cache.positions();
  entries.inv_freq = inv_freq_;
  for (int64_t head = 0; head < shape_.kv_heads; ++head) {
    entries.kv.push_back(cache.Head(layer, head));
    entries.tokens.push_back(cache.EntryTokens(layer, head));
  }
  return entries;
}

bool Compressor::NextReads(int64_t layer, int64_t source) const {
  return layer + 1 < shape_.layers && setup_.policy->SumsFrom(layer + 1) == source;
}

bool Compressor::Awaited(int64_t layer) const {
  return layer > 0 && setup_.policy->SumsFrom(layer - 1) == layer;
}

void Compressor::TakeSnapshot(const LayerEntries& entries) {
  if (setup_.policy->SumsFrom(entries.layer) != entries.layer) return;
  if (!NextReads(entries.layer, entries.layer) && !Awaited(entries.layer)) return;
  snapshot_ = {entries.layer, At(entries.layer).sums, {}};
  for (const auto& tokens : entries.tokens) snapshot_.tokens.emplace_back(tokens.begin(), tokens.end());
}

Observation Compressor::Observed(const LayerEntries& entries) const {
  Observation observed;
  observed.queries = &At(entries.layer).queries;
  const int64_t from = setup_.policy->SumsFrom(entries.layer);
  if (from == entries.layer) {
    observed.sums = &At(from).sums;
    observed.sum_tokens = entries.tokens;
    return observed;
  }
  PUREKV_CHECK(snapshot_.layer == from, "layer ", entries.layer, " reads ", from, ", there is ", snapshot_.layer);
  observed.sums = &snapshot_.sums;
  observed.sum_tokens.assign(snapshot_.tokens.begin(), snapshot_.tokens.end());
  return observed;
}

Quota Compressor::QuotaOf(const LayerEntries& entries) const {
  Quota quota;
  quota.counts.assign(entries.kv.size(), Count(entries.layer));
  if (reading_ == Reading::kStep) quota.counts = At(entries.layer).capacity;
  if (options_.allocator == "ada") {
    quota.shared = true;
    quota.least = FloorShare(setup_.alpha, base_);
  }
  return quota;
}

void Compressor::AfterLayer(int64_t layer, KvCache& cache, std::span<const TokenRecord> layout) {
  if (!active() || cache.tokens() < first_token_ + rows_) return;  // chunks of the part are still to come
  PUREKV_CHECK(static_cast<int64_t>(layout.size()) >= cache.tokens(), layout.size(), " records of ", cache.tokens());
  if (reading_ == Reading::kStep && setup_.info->holds) return Hold(Entries(layer, cache, layout), cache);
  if (!CompressesNow() || setup_.policy->SumsFrom(layer) > layer) return;
  Compress(Entries(layer, cache, layout), cache);
  for (int64_t below = layer - 1; below >= 0 && setup_.policy->SumsFrom(below) == layer; --below) {
    Compress(Entries(below, cache, layout), cache);
  }
  if (!NextReads(layer, snapshot_.layer)) snapshot_ = {};
}

bool Compressor::KeepsAll(const LayerEntries& entries, const Quota& quota) {
  int64_t most = 0, lengths = 0;
  bool each = true;
  for (size_t head = 0; head < entries.kv.size(); ++head) {
    each = each && entries.kv[head].length <= quota.counts[head];
    lengths += entries.kv[head].length;
    most += quota.counts[head];
  }
  return quota.shared ? lengths <= most : each;
}

void Compressor::Compress(const LayerEntries& entries, KvCache& cache) {
  LayerState& state = At(entries.layer);
  const Quota quota = QuotaOf(entries);
  TakeSnapshot(entries);
  const Observation observed = Observed(entries);
  const bool evicts = !KeepsAll(entries, quota);
  const int64_t drop = reading_ == Reading::kPart ? DropAt(entries.layer + 1) : -1;
  std::vector<Scores> planes;
  if (evicts || drop >= 0) {
    planes = setup_.policy->Score(entries, observed);
    CheckScores(setup_.info->name, entries, planes);
  }
  if (drop >= 0) ChooseAlive(static_cast<size_t>(drop), entries, planes);
  if (evicts) {
    const KeptEntries kept = setup_.policy->Select(entries, planes, quota);
    for (int64_t head = 0; head < shape_.kv_heads; ++head) {
      Keep(entries.layer, head, kept[static_cast<size_t>(head)], cache);
    }
  }
  for (int64_t head = 0; head < shape_.kv_heads && (reading_ == Reading::kPart || quota.shared); ++head) {
    state.capacity[static_cast<size_t>(head)] = cache.Length(entries.layer, head);
  }
  // What a window saw is used up; sums over all queries go on.
  if (Observes(entries.layer).window > 0) state.sums.Clear();
  state.queries.Clear();
}

int64_t Compressor::DropAt(int64_t layer) const {
  const auto& drops = options_.drop_layers;
  const auto at = std::find_if(drops.begin(), drops.end(), [&](const DropLayer& one) { return one.layer == layer; });
  return at == drops.end() ? -1 : at - drops.begin();
}

void Compressor::ChooseAlive(size_t drop, const LayerEntries& entries, const std::vector<Scores>& planes) {
  PUREKV_CHECK(planes.size() == 1, planes.size(), " planes of scores");
  // No head has evicted any of the rows of this Begin yet: they are the end of every list.
  const auto& tokens = entries.tokens[0];
  const auto first = std::lower_bound(tokens.begin(), tokens.end(), first_token_);
  const std::span<const int32_t> rows(first, tokens.end());
  int64_t visual = 0;
  for (int64_t token = first_token_; token < first_token_ + rows_; ++token) {
    visual += IsVisual(entries.layout[static_cast<size_t>(token)]) ? 1 : 0;
  }
  const int64_t count = FloorShare(options_.drop_layers[drop].alive, visual);
  const auto alive = purekv::ChooseAlive(entries, planes[0], setup_.policy->Protects(base_), rows, count);
  alive_[drop].insert(alive_[drop].end(), alive.begin(), alive.end());
}

std::span<const int32_t> Compressor::Alive(int64_t layer) const {
  const int64_t drop = reading_ == Reading::kPart && active() ? DropAt(layer) : -1;
  if (drop < 0) return {};
  const std::vector<int32_t>& alive = alive_[static_cast<size_t>(drop)];
  return {std::lower_bound(alive.begin(), alive.end(), first_token_), alive.end()};
}

std::vector<int64_t> Compressor::AliveCounts() const {
  std::vector<int64_t> counts;
  for (const auto& alive : alive_) counts.push_back(static_cast<int64_t>(alive.size()));
  return counts;
}

// One step, one entry: the lowest score outside the protected spans.
void Compressor::Hold(const LayerEntries& entries, KvCache& cache) {
  const auto planes = setup_.policy->Score(entries, Observed(entries));
  CheckScores(setup_.info->name, entries, planes);
  for (int64_t head = 0; head < shape_.kv_heads; ++head) {
    const int64_t length = entries.length(head);
    const int64_t capacity = At(entries.layer).capacity[static_cast<size_t>(head)];
    if (length <= capacity) continue;
    PUREKV_CHECK(length == capacity + 1, length, " entries for ", capacity);
    const int32_t lowest = LowestEntry(planes[0][static_cast<size_t>(head)], setup_.policy->Protects(base_));
    std::vector<int32_t> kept(static_cast<size_t>(length));
    std::iota(kept.begin(), kept.end(), 0);
    kept.erase(kept.begin() + lowest);
    Keep(entries.layer, head, kept, cache);
  }
}

// Behind the part every byte above the budget goes back. While decoding the next tokens want room again: a policy that
// holds the one entry that it will let go, one that compresses every so many steps what a growing list takes at a time.
void Compressor::Keep(int64_t layer, int64_t head, std::span<const int32_t> entries, KvCache& cache) {
  const int64_t growth = setup_.info->holds ? 1 : static_cast<int64_t>(entries.size()) / 16 + 16;
  cache.Keep(layer, head, entries, reading_ == Reading::kStep ? growth : 0);
  At(layer).sums.Keep(head, entries);
}

}  // namespace purekv
