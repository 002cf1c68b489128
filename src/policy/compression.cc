#include "policy/compression.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/error.h"
#include "policy/eviction.h"
#include "policy/selector.h"

namespace purekv {

Compression::Compression(const KvOptions& options, const KvCacheSpec& spec, int64_t heads, std::vector<float> inv_freq,
                         CopyingHeads copying)
    : setup_(MakePolicy(options, spec)),
      options_(options),
      spec_(spec),
      heads_(heads),
      inv_freq_(std::move(inv_freq)),
      copying_(std::move(copying)) {
  if (active() && spec.shares()) {
    FailUsage(Field{"kv.policy"}, " ", options.policy,
              ": this model has layers that read another's cache; policy full alone runs on it");
  }
  if (active() && spec.full_layers() == 0) {
    FailUsage(Field{"kv.policy"}, " ", options.policy,
              ": every layer of this model keeps a window only; there is nothing to evict");
  }
  if (!options.drop_layers.empty() && !spec.plain()) {
    FailUsage(Field{"kv.drop_layers"},
              ": cannot take effect: windows count all tokens, and this model has layers with "
              "a window");
  }
  for (int64_t layer = 0; layer < spec.layers() && options.chunk > 0; ++layer) {
    if (!spec.full(layer)) continue;
    const Observer observer = setup_.policy->Observes(layer, options.tokens.value_or(spec.layers()));
    if (!observer.sums_all() && observer.queries_every == 0) continue;
    FailUsage(Field{"kv.chunk"}, ": policy ", options.policy,
              " judges a key by queries of the whole part, so nothing can be evicted before all of it has been read",
              setup_.info->score_window.text.empty() ? "" : "; ", setup_.info->score_window);
  }
}

int64_t Compression::last_scoring_layer() const {
  int64_t layer = active() ? spec_.layers() - 1 : -1;
  const auto sums_many = [this](int64_t at) {
    // A large B: spans that B caps have their whole length.
    const Observer observer = setup_.policy->Observes(at, int64_t{1} << 20);
    return spec_.full(at) && observer.kind == Observer::Kind::kColumnSums && !observer.few();
  };
  while (layer >= 0 && !sums_many(layer)) --layer;
  return layer;
}

int64_t Compression::SetPrefix(int64_t tokens, Droppable droppable) {
  PUREKV_CHECK(tokens >= 1, tokens);
  prefix_ = tokens;
  Adopt(PlanBudget(setup_, options_, spec_, copying_, tokens), droppable);
  return plan_.base;
}

void Compression::Adopt(BudgetPlan plan, Droppable droppable) {
  plan_ = std::move(plan);
  if (!active()) return;
  observations_ = Observations(setup_, spec_, heads_, plan_.base);
  PUREKV_CHECK(options_.drop_layers.empty() || setup_.policy->drops_by() != DropsBy::kCopyingHeads ||
                   static_cast<int64_t>(copying_.size()) == spec_.layers(),
               copying_.size(), " of ", spec_.layers(), " layers' copying is known");
  dropping_ = Dropping(options_.drop_layers, setup_.policy->drops_by(), droppable, copying_);
  capacity_.clear();
  for (int64_t layer = 0; layer < spec_.layers(); ++layer) {
    capacity_.emplace_back(static_cast<size_t>(spec_[layer].kv_heads), 0);
  }
  steps_ = 0;
}

void Compression::Resume(int64_t tokens, int64_t base, const KvCache& cache) {
  prefix_ = tokens;
  HeadCounts lengths;
  for (int64_t layer = 0; layer < spec_.layers(); ++layer) {
    auto& heads = lengths.emplace_back();
    for (int64_t head = 0; head < spec_[layer].kv_heads; ++head) heads.push_back(cache.Length(layer, head));
  }
  // What was shared out by copying shows in the cache alone.
  Adopt(setup_.by_copying() ? BudgetPlan{base, lengths} : PlanFromBase(setup_, spec_, {}, tokens, base));
  capacity_ = std::move(lengths);
}

void Compression::Begin(const PassingRows& rows, Then then, bool fresh) {
  PUREKV_CHECK(plan_.base >= 1 && rows.rows >= 1, "B ", plan_.base, ", ", rows.rows, " rows");
  rows_ = rows;
  then_ = then;
  observations_.Begin(rows, fresh);
}

void Compression::BeginPrefix(int64_t first_token, int64_t rows) {
  if (!active()) return;
  Begin({first_token, rows, true, 0}, Then::kCutToBudget, true);
}

void Compression::BeginBehind(int64_t first_token, int64_t rows) {
  if (!active()) return;
  for (auto& heads : capacity_) {
    for (int64_t& capacity : heads) capacity += rows;
  }
  // Nothing is asked for unless something will be evicted again, and a window never reaches over what comes later.
  Begin({first_token, rows, steps_alone(), PassingRows::kNever}, Then::kGrow, true);
}

void Compression::BeginStep(int64_t token) {
  if (!active()) return;
  ++steps_;
  if (setup_.info->holds) return Begin({token, 1, true, 0}, Then::kEvictOne, true);
  const int64_t every = setup_.decode_every;
  if (every == 0) return Begin({token, 1, false, PassingRows::kNever}, Then::kGrow, false);
  const int64_t left = (every - steps_ % every) % every;  // until the next compression
  Begin({token, 1, true, left}, left == 0 ? Then::kCutToCapacity : Then::kGrow, false);
}

LayerEntries Compression::Entries(int64_t layer, const KvCache& cache, const TokensSoFar& tokens) const {
  LayerEntries entries;
  entries.layer = layer;
  entries.heads = heads_;
  entries.head_dim = spec_[layer].head_dim;
  entries.base = plan_.base;
  entries.layout = tokens.layout;
  entries.positions = tokens.positions;
  entries.inv_freq = inv_freq_;
  entries.kv = cache.Heads(layer);
  for (int64_t head = 0; head < spec_[layer].kv_heads; ++head) {
    entries.tokens.push_back(cache.EntryTokens(layer, head));
  }
  return entries;
}

void Compression::AfterLayer(int64_t layer, KvCache& cache, const TokensSoFar& tokens) {
  if (!active() || then_ == Then::kGrow || !spec_.full(layer)) return;
  if (cache.tokens() < rows_.end()) return;  // passes of the same rows are still to come
  PUREKV_CHECK(tokens.size() >= cache.tokens(), tokens.size(), " records of ", cache.tokens());
  if (then_ == Then::kCutToBudget && repeats() > 0) return;  // AfterRepeating cuts
  if (then_ == Then::kEvictOne) return EvictOne(Entries(layer, cache, tokens), cache);
  if (setup_.policy->SumsFrom(layer) > layer) return;  // it waits
  Cut(Entries(layer, cache, tokens), cache);
  for (int64_t below = layer - 1; below >= 0 && setup_.policy->SumsFrom(below) == layer; --below) {
    if (spec_.full(below)) Cut(Entries(below, cache, tokens), cache);
  }
  observations_.EndLoan(layer);
}

int64_t Compression::repeats() const {
  if (!active() || !setup_.info->repeats || plan_.base >= prefix_) return 0;
  return setup_.policy->Observes(0, plan_.base).chunk;
}

void Compression::AfterRepeating(KvCache& cache, const TokensSoFar& tokens, int64_t begin) {
  PUREKV_CHECK(repeats() > 0 && then_ == Then::kCutToBudget && cache.tokens() == prefix_, cache.tokens(), " of ",
               prefix_);
  std::vector<LayerEntries> layers;
  Scores scores;  // of all layers' heads
  std::vector<std::span<const int32_t>> entry_tokens;
  Quota quota{.counts = {}, .shared = true, .least = 0};
  for (int64_t layer = 0; layer < spec_.layers(); ++layer) {
    if (!spec_.full(layer)) continue;
    LayerEntries& entries = layers.emplace_back(Entries(layer, cache, tokens));
    entries.repeated_from = begin;
    std::vector<Scores> planes = ScoresOf(setup_, entries, observations_.Of(entries));
    PUREKV_CHECK(planes.size() == 1, planes.size(), " planes of scores");
    std::move(planes[0].begin(), planes[0].end(), std::back_inserter(scores));
    entry_tokens.insert(entry_tokens.end(), entries.tokens.begin(), entries.tokens.end());
    quota.counts.resize(scores.size(), plan_.base);
  }
  const KeptEntries kept = SelectTop(scores, entry_tokens, setup_.policy->ProtectsOf(layers.front()), quota);
  size_t list = 0;
  for (const LayerEntries& entries : layers) {
    std::vector<int64_t>& capacity = capacity_[static_cast<size_t>(entries.layer)];
    for (int64_t head = 0; head < entries.kv_heads(); ++head, ++list) {
      Keep(entries.layer, head, kept[list], 0, cache);
      capacity[static_cast<size_t>(head)] = cache.Length(entries.layer, head);
    }
    observations_.Use(entries.layer);
  }
}

void Compression::Cut(const LayerEntries& entries, KvCache& cache) {
  const auto layer = static_cast<size_t>(entries.layer);
  std::vector<int64_t>& capacity = capacity_[layer];
  const bool prefix = then_ == Then::kCutToBudget;
  const Quota quota = QuotaOf(setup_, prefix ? plan_.counts[layer] : capacity, plan_.base);
  observations_.Lend(entries);
  const bool evicts = !FitsQuota(entries, quota);
  const bool drops = prefix && dropping_.Wants(entries.layer);
  if (evicts || drops) {
    const Observation observed = observations_.Of(entries);
    const std::vector<Scores> planes = ScoresOf(setup_, entries, observed);
    if (drops) {
      PUREKV_CHECK(planes.size() == 1, planes.size(), " planes of scores");
      dropping_.Look(entries, setup_.policy->DropRankings(entries, observed, planes[0]),
                     setup_.policy->Protects(plan_.base), rows_.first_token, rows_.rows);
    }
    const KeptEntries kept = evicts ? setup_.policy->Select(entries, planes, quota) : KeptEntries();
    for (size_t head = 0; head < kept.size(); ++head) {
      // Every byte above the budget goes back; while decoding the list will grow again, by what it takes at a time.
      const int64_t spare = prefix ? 0 : static_cast<int64_t>(kept[head].size()) / 16 + 16;
      Keep(entries.layer, static_cast<int64_t>(head), kept[head], spare, cache);
    }
  }
  for (size_t head = 0; head < capacity.size() && (prefix || quota.shared); ++head) {
    capacity[head] = cache.Length(entries.layer, static_cast<int64_t>(head));
  }
  observations_.Use(entries.layer);
}

void Compression::EvictOne(const LayerEntries& entries, KvCache& cache) {
  const std::vector<Scores> planes = ScoresOf(setup_, entries, observations_.Of(entries));
  for (int64_t head = 0; head < entries.kv_heads(); ++head) {
    const int64_t length = entries.length(head);
    const int64_t capacity = capacity_[static_cast<size_t>(entries.layer)][static_cast<size_t>(head)];
    if (length <= capacity) continue;
    PUREKV_CHECK(length == capacity + 1, length, " entries for ", capacity);
    const auto kept = AllButLowest(planes[0][static_cast<size_t>(head)], setup_.policy->Protects(plan_.base));
    // The next token wants the room of the one that goes.
    Keep(entries.layer, head, kept, 1, cache);
  }
}

void Compression::Keep(int64_t layer, int64_t head, std::span<const int32_t> entries, int64_t spare, KvCache& cache) {
  cache.Keep(layer, head, entries, spare);
  observations_.Keep(layer, head, entries);
}

std::span<const int32_t> Compression::Alive(int64_t layer) const {
  return then_ == Then::kCutToBudget ? dropping_.Alive(layer, rows_.first_token) : std::span<const int32_t>();
}

}  // namespace purekv
