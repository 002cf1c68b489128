#include "policy/compression.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/error.h"
#include "policy/eviction.h"
#include "policy/selector.h"

namespace purekv {

Compression::Compression(const KvOptions& options, const KvCacheSpec& spec, int64_t heads, RopeSpec rope,
                         ModelFindings found)
    : setup_(MakePolicy(options, spec)),
      options_(options),
      spec_(WithCodecs(options, spec, found.bases)),
      encodes_(spec_.encodes()),
      heads_(heads),
      rope_(std::move(rope)),
      copying_(std::move(found.copying)),
      retrieval_(options, spec_, heads, rope_, std::move(found.predictor)) {
  if (active() && spec.full_layers() == 0) {
    FailUsage(Field{"kv.policy"}, " ", options.policy,
              ": every layer of this model keeps a window only; there is nothing to evict");
  }
  if (!options.drop_layers.empty() && !spec.plain()) {
    FailUsage(Field{"kv.drop_layers"}, ": cannot take effect: this model has layers ",
              spec.windowed() ? "with a window, which counts all tokens"
                              : "that read another's cache, where every token must be");
  }
  for (int64_t layer = 0; layer < spec.layers() && options.chunk > 0; ++layer) {
    if (!spec.full(layer)) continue;
    const Observer observer = setup_.policy->Observes(layer, options.tokens.value_or(spec.layers()));
    const bool so_far = setup_.info->so_far || !observer.sums_all();
    if (so_far && observer.queries_every == 0) continue;
    FailUsage(Field{"kv.chunk"}, ": ", Field{"kv.policy"}, " ", options.policy,
              " judges a key by queries of the whole part, so nothing can be evicted before all of it has been read",
              setup_.info->score_window.text.empty() ? "" : "; ", setup_.info->score_window);
  }
}

int64_t Compression::last_scoring_layer() const {
  int64_t layer = active() ? spec_.layers() - 1 : -1;
  const auto sums_many = [this](int64_t at) {
    // A large B: spans that B caps have their whole length.
    const Observer observer = setup_.policy->Observes(spec_.owner(at), int64_t{1} << 20);
    return spec_.full(spec_.owner(at)) && observer.kind == Observer::Kind::kColumnSums && !observer.few();
  };
  while (layer >= 0 && !sums_many(layer)) --layer;
  return layer;
}

int64_t Compression::least_kept() const {
  return active() ? std::min(prefix_, setup_.policy->Protects(plan_.base).count()) : 0;
}

int64_t Compression::SetPrefix(int64_t tokens, Droppable droppable, int64_t question) {
  PUREKV_CHECK(tokens >= 1, tokens);
  retrieval_.SetPart(tokens, question < 0 ? tokens : question, droppable == Droppable::kVisual);
  prefix_ = tokens;
  Adopt(PlanBudget(setup_, options_, spec_, copying_, tokens), droppable);
  return plan_.base;
}

PlannedBytes Compression::BytesOf(int64_t tokens, int64_t behind) const {
  return purekv::BytesOf(setup_, options_, spec_, PlanBudget(setup_, options_, spec_, copying_, tokens), tokens,
                         behind);
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
  kept_ = capacity_;
  cut_.assign(capacity_.size(), false);
  steps_ = behind_ = 0;
}

void Compression::Resume(int64_t tokens, int64_t base, const KvCache& cache) {
  prefix_ = tokens;
  HeadCounts lengths;
  for (int64_t layer = 0; layer < spec_.layers(); ++layer) {
    auto& heads = lengths.emplace_back();
    for (int64_t head = 0; head < spec_[layer].kv_heads; ++head) heads.push_back(cache.Length(layer, head));
  }
  // It was made for a cache without an index, which is the reader's own choice.
  KvOptions made = options_;
  made.attend = {};
  // What was shared out by copying, or online by mass, shows in the cache alone.
  if (setup_.by_copying() || setup_.by_mass()) {
    Adopt(BudgetPlan{base, lengths});
  } else if (active() && BudgetByEntries(made, spec_)) {
    Adopt(PlanBudget(setup_, made, spec_, {}, tokens));
  } else {
    Adopt(PlanFromBase(setup_, spec_, {}, tokens, base));
  }
  channels_chosen_.assign(static_cast<size_t>(spec_.layers()), true);  // with the entries
  kept_ = lengths;
  capacity_ = std::move(lengths);
}

void Compression::Begin(const PassingRows& rows, Then then, bool fresh) {
  PUREKV_CHECK(plan_.base >= 1 && rows.rows >= 1, "B ", plan_.base, ", ", rows.rows, " rows");
  rows_ = rows;
  then_ = then;
  observations_.Begin(rows, fresh);
}

void Compression::BeginPrefix(int64_t first_token, int64_t rows) {
  retrieval_.Begin(PassedRows::kPart, first_token, rows);
  if (!active()) {
    rows_ = {first_token, rows, false, PassingRows::kNever};
    then_ = Then::kCutToBudget;
    return;
  }
  cut_.assign(cut_.size(), false);  // by an earlier chunk, perhaps: this one cuts again
  Begin({first_token, rows, true, 0}, Then::kCutToBudget, true);
}

void Compression::BeginBehind(int64_t first_token, int64_t rows) {
  retrieval_.Begin(PassedRows::kBehind, first_token, rows);
  if (!active()) {
    then_ = Then::kGrow;
    return;
  }
  behind_ += rows;
  for (auto& heads : capacity_) {
    for (int64_t& capacity : heads) capacity += rows;
  }
  // Nothing is asked for unless something will be evicted again, and a window never reaches over what comes later.
  const bool observed = evicts_by_steps() && !setup_.policy->has_fixed_point();
  Begin({first_token, rows, observed, PassingRows::kNever}, Then::kGrow, true);
}

void Compression::BeginStep(int64_t token) {
  retrieval_.Begin(PassedRows::kStep, token, 1);
  if (!active()) {
    then_ = Then::kGrow;
    return;
  }
  ++steps_;
  if (setup_.info->holds) return Begin({token, 1, true, 0}, Then::kEvictOne, true);
  if (setup_.policy->has_fixed_point()) {
    return Begin({token, 1, false, PassingRows::kNever}, Then::kFixedPoint, false);
  }
  const int64_t every = setup_.decode_every;
  if (every == 0) return Begin({token, 1, false, PassingRows::kNever}, Then::kGrow, false);
  const int64_t left = (every - steps_ % every) % every;  // until the next compression
  Begin({token, 1, true, left}, left == 0 ? Then::kCutToCapacity : Then::kGrow, false);
}

LayerEntries Compression::Entries(int64_t layer, const KvCache& cache, const TokensSoFar& tokens) const {
  LayerEntries entries;
  entries.layer = layer;
  entries.heads = heads_ * static_cast<int64_t>(spec_.attending(layer).size());
  entries.head_dim = spec_[layer].head_dim;
  entries.base = plan_.BaseOf(layer);
  entries.layout = tokens.layout;
  entries.positions = tokens.positions;
  entries.rope = &rope_;
  entries.kv = cache.Heads(layer);
  for (int64_t head = 0; head < spec_[layer].kv_heads; ++head) {
    entries.tokens.push_back(cache.EntryTokens(layer, head));
    entries.counts.push_back(cache.EntryCounts(layer, head));
  }
  return entries;
}

void Compression::AfterLayer(int64_t layer, KvCache& cache, const TokensSoFar& tokens) {
  EvictAfterLayer(layer, cache, tokens);
  if (encodes_) EncodeAfterLayer(layer, cache, tokens);
}

void Compression::EncodeAfterLayer(int64_t layer, KvCache& cache, const TokensSoFar& tokens) {
  if (then_ == Then::kCutToBudget) {
    if (active() || cache.tokens() < rows_.end()) return;  // Cut and its like do it
  }
  if (const int64_t own = spec_.owner(layer); spec_.last_attending(own) == layer) Encode(own, cache, tokens);
}

bool Compression::WantsRotated(int64_t layer) const {
  const int64_t own = spec_.owner(layer);
  return then_ == Then::kCutToBudget && spec_[own].codec.key_channels > 0 &&
         (channels_chosen_.empty() || !channels_chosen_[static_cast<size_t>(own)]);
}

void Compression::AddRotated(int64_t layer, MatrixView<const float> q) {
  squares_.resize(static_cast<size_t>(spec_.layers()));
  squares_[static_cast<size_t>(layer)].Add(q, spec_[layer].kv_heads, spec_[layer].head_dim, setup_.channel_window);
}

void Compression::Encode(int64_t layer, KvCache& cache, const TokensSoFar& tokens) {
  const KvLayerSpec& spec = spec_[layer];
  const auto at = static_cast<size_t>(layer);
  channels_chosen_.resize(static_cast<size_t>(spec_.layers()), false);
  if (spec.codec.key_channels > 0 && !channels_chosen_[at] && !squares_.empty() && !squares_[at].empty()) {
    const std::vector<int64_t> attending = spec_.attending(layer);
    for (int64_t head = 0; head < spec.kv_heads; ++head) {
      std::vector<double> squares(static_cast<size_t>(spec.head_dim), 0.0);
      for (const int64_t one : attending) {
        const std::vector<double> mean = squares_[static_cast<size_t>(one)].Mean(head, spec.head_dim);
        for (size_t c = 0; c < squares.size(); ++c) squares[c] += mean[c] / static_cast<double>(attending.size());
      }
      cache.SetKeyChannels(
          layer, head, ChooseChannels(squares, cache.Head(layer, head), spec.codec.key_channels, setup_.channel_pairs));
    }
    for (const int64_t one : attending) squares_[static_cast<size_t>(one)] = {};
    channels_chosen_[at] = true;
  }
  cache.Encode(layer, tokens.positions);
}

std::vector<int64_t> Compression::Ready(int64_t layer) const {
  std::vector<int64_t> ready;
  for (int64_t one = layer; one >= 0; --one) {
    if (spec_.full(one) && CompressedBehind(*setup_.policy, spec_, one) == layer) ready.push_back(one);
  }
  // Others score with what these lend before anything of them goes.
  std::stable_partition(ready.begin(), ready.end(),
                        [this](int64_t one) { return setup_.policy->SumsFrom(one) == one; });
  return ready;
}

void Compression::EvictAfterLayer(int64_t layer, KvCache& cache, const TokensSoFar& tokens) {
  const int64_t own = spec_.owner(layer);
  if (!active() || then_ == Then::kGrow || !spec_.full(own) || spec_.last_attending(own) > layer) return;
  if (cache.tokens() < rows_.end()) return;  // passes of the same rows are still to come
  PUREKV_CHECK(tokens.size() >= cache.tokens(), tokens.size(), " records of ", cache.tokens());
  if (then_ == Then::kCutToBudget && repeats() > 0) return;  // AfterRepeating cuts
  if (then_ == Then::kEvictOne) return EvictOne(Entries(own, cache, tokens), cache);
  if (then_ == Then::kFixedPoint) return EvictAtFixedPoint(own, cache);
  if (then_ == Then::kCutToBudget && setup_.by_mass() && plan_.base < prefix_)
    return ScoreForMass(layer, cache, tokens);
  for (const int64_t one : Ready(layer)) {
    cache.Decode(one);  // a choice among all entries sees them as numbers
    Cut(Entries(one, cache, tokens), cache);
    Encode(one, cache, tokens);
  }
  observations_.EndLoans(layer);
}

void Compression::ScoreForMass(int64_t layer, KvCache& cache, const TokensSoFar& tokens) {
  planes_.resize(static_cast<size_t>(spec_.layers()));
  for (const int64_t one : Ready(layer)) {
    const LayerEntries entries = Entries(one, cache, tokens);
    observations_.Lend(entries);
    planes_[static_cast<size_t>(one)] = ScoresOf(setup_, entries, observations_.Of(entries));
  }
  observations_.EndLoans(layer);
  for (int64_t one = 0; one < spec_.layers(); ++one) {
    if (spec_.full(one) && CompressedBehind(*setup_.policy, spec_, one) > layer) return;
  }
  CutByMass(cache, tokens);
}

void Compression::CutByMass(KvCache& cache, const TokensSoFar& tokens) {
  std::vector<std::vector<double>> masses;
  for (int64_t layer = 0; layer < spec_.layers(); ++layer) {
    if (!spec_.full(layer)) continue;
    const auto& planes = planes_[static_cast<size_t>(layer)];
    PUREKV_CHECK(planes.size() == 1, planes.size(), " planes of scores");
    const Scores of_heads = setup_.policy->Masses(Entries(layer, cache, tokens), planes);
    auto& mean = masses.emplace_back(static_cast<size_t>(prefix_), 0.0);
    for (const std::vector<double>& head : of_heads) {
      PUREKV_CHECK(head.size() == mean.size(), head.size(), " entries of ", mean.size());
      for (size_t j = 0; j < mean.size(); ++j) mean[j] += head[j] / static_cast<double>(of_heads.size());
    }
  }
  const std::vector<int64_t> counts = PrefixCounts(masses, plan_.base, setup_.policy->Protects(plan_.base).count());
  auto next = counts.begin();
  for (int64_t layer = 0; layer < spec_.layers(); ++layer) {
    if (!spec_.full(layer)) continue;
    auto& planned = plan_.counts[static_cast<size_t>(layer)];
    std::fill(planned.begin(), planned.end(), *next++);
    const LayerEntries entries = Entries(layer, cache, tokens);
    const Quota quota = QuotaOf(setup_, planned, plan_.base);
    if (!FitsQuota(entries, quota)) Evict(entries, planes_[static_cast<size_t>(layer)], quota, true, cache);
    SetCapacity(layer, cache);
    observations_.Use(layer);
    Encode(layer, cache, tokens);
  }
  planes_.clear();
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
    for (int64_t head = 0; head < entries.kv_heads(); ++head, ++list) {
      KeepMerged(entries, head, kept[list], MergedByRule(entries, head, kept[list]), 0, cache);
    }
    SetCapacity(entries.layer, cache);
    observations_.Use(entries.layer);
    Encode(entries.layer, cache, tokens);
  }
}

void Compression::Cut(const LayerEntries& entries, KvCache& cache) {
  const auto layer = static_cast<size_t>(entries.layer);
  const bool prefix = then_ == Then::kCutToBudget;
  const Quota quota = QuotaOf(setup_, prefix ? plan_.counts[layer] : capacity_[layer], entries.base);
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
    if (evicts) Evict(entries, planes, quota, prefix, cache);
  }
  if (prefix || quota.shared) SetCapacity(entries.layer, cache);
  observations_.Use(entries.layer);
}

void Compression::SetCapacity(int64_t layer, const KvCache& cache) {
  auto& capacity = capacity_[static_cast<size_t>(layer)];
  for (size_t head = 0; head < capacity.size(); ++head)
    capacity[head] = cache.Length(layer, static_cast<int64_t>(head));
  if (then_ != Then::kCutToBudget) return;
  kept_[static_cast<size_t>(layer)] = capacity;
  cut_[static_cast<size_t>(layer)] = true;
}

bool Compression::Settled(int64_t layer, const KvCache& cache) const {
  if (then_ != Then::kCutToBudget || !active() || !spec_.full(layer)) return true;
  // Every chunk of a prefix cuts again.
  return cache.tokens() >= prefix_ && cut_[static_cast<size_t>(layer)];
}

void Compression::Evict(const LayerEntries& entries, const std::vector<Scores>& planes, const Quota& quota, bool prefix,
                        KvCache& cache) {
  const KeptEntries kept = setup_.policy->Select(entries, planes, quota);
  for (size_t head = 0; head < kept.size(); ++head) {
    // Every byte above the budget goes back; while decoding the list will grow again, by what it takes at a time.
    const int64_t spare = prefix ? 0 : static_cast<int64_t>(kept[head].size()) / 16 + 16;
    const auto at = static_cast<int64_t>(head);
    const std::vector<MergedEntry> merged = setup_.info->merges
                                                ? setup_.policy->Merges(entries, planes, at, quota.counts[head])
                                                : MergedByRule(entries, at, kept[head]);
    KeepMerged(entries, at, kept[head], merged, spare, cache);
  }
}

std::vector<MergedEntry> Compression::MergedByRule(const LayerEntries& entries, int64_t head,
                                                   std::span<const int32_t> kept) const {
  if (!setup_.merge.merges()) return {};
  return MergeInto(entries, head, kept, setup_.policy->ProtectsOf(entries), setup_.merge);
}

void Compression::EvictOne(const LayerEntries& entries, KvCache& cache) {
  const std::vector<Scores> planes = ScoresOf(setup_, entries, observations_.Of(entries));
  const auto layer = static_cast<size_t>(entries.layer);
  for (int64_t head = 0; head < entries.kv_heads(); ++head) {
    const int64_t length = entries.length(head);
    const int64_t capacity = capacity_[layer][static_cast<size_t>(head)];
    if (length <= capacity) continue;
    PUREKV_CHECK(length == capacity + 1, length, " entries for ", capacity);
    const int64_t count = plan_.counts[layer][static_cast<size_t>(head)];
    // The next token wants the room of the one that goes.
    Keep(entries.layer, head, AllBut(length, setup_.policy->Evicts(entries, planes, head, count)), 1, cache);
  }
}

void Compression::EvictAtFixedPoint(int64_t layer, KvCache& cache) {
  const std::vector<int64_t>& kept = kept_[static_cast<size_t>(layer)];
  for (size_t head = 0; head < kept.size(); ++head) {
    const auto at = static_cast<int64_t>(head);
    const int64_t length = cache.Length(layer, at);
    // Its share of what has been generated, beside what it kept and what came on top.
    if (length <= kept[head] + behind_ + steps_ * kept[head] / prefix_) continue;
    // No sums follow: nothing is scored again.
    cache.Keep(layer, at, AllBut(length, setup_.policy->FixedPoint(kept[head])), 1);
  }
}

void Compression::Keep(int64_t layer, int64_t head, std::span<const int32_t> entries, int64_t spare, KvCache& cache) {
  cache.Keep(layer, head, entries, spare);
  observations_.Keep(layer, head, entries);
}

void Compression::KeepMerged(const LayerEntries& entries, int64_t head, std::span<const int32_t> kept,
                             std::span<const MergedEntry> merged, int64_t spare, KvCache& cache) {
  if (merged.empty()) return Keep(entries.layer, head, kept, spare, cache);
  const MergedRows rows = Merge(entries, head, merged, setup_.merge);
  std::vector<int32_t> places;
  int64_t sources = 0;
  for (const MergedEntry& one : merged) {
    const auto place = std::lower_bound(kept.begin(), kept.end(), one.target);
    PUREKV_CHECK(place != kept.end() && *place == one.target, "entry ", one.target, " takes others in and is evicted");
    places.push_back(static_cast<int32_t>(place - kept.begin()));
    sources += static_cast<int64_t>(one.sources.size());
  }
  Keep(entries.layer, head, kept, spare, cache);
  cache.Rewrite(entries.layer, head, {places, rows.keys.View(), rows.values.View(), rows.counts, setup_.merge.bias},
                sources);
}

std::span<const int32_t> Compression::Alive(int64_t layer) const {
  return then_ == Then::kCutToBudget ? dropping_.Alive(layer, rows_.first_token) : std::span<const int32_t>();
}

}  // namespace purekv
