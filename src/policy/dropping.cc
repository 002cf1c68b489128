#include "policy/dropping.h"

#include <algorithm>

namespace purekv {

int64_t Dropping::Index(int64_t layer) const {
  const auto at = std::find_if(drops_.begin(), drops_.end(), [&](const DropLayer& one) { return one.layer == layer; });
  return at == drops_.end() ? -1 : at - drops_.begin();
}

bool Dropping::Wants(int64_t layer) const {
  if (by_ == DropsBy::kCopyingHeads) return !drops_.empty() && layer < drops_.back().layer;
  return Index(layer + 1) >= 0;
}

void Dropping::Look(const LayerEntries& entries, const std::vector<Ranking>& rankings, const Protection& protection,
                    int64_t first_token, int64_t rows) {
  const auto& tokens = entries.tokens[0];
  const std::span<const int32_t> ran(std::lower_bound(tokens.begin(), tokens.end(), first_token), tokens.end());
  const DropCandidates candidates = FindDropCandidates(entries, protection, ran, droppable_);
  std::vector<double> importance;
  if (by_ == DropsBy::kCopyingHeads) {
    standing_.resize(static_cast<size_t>(first_token + rows), 0.0);
    for (const Ranking& ranking : rankings) {
      AddStandings(ranking, copying_[static_cast<size_t>(entries.layer)], ran, candidates, standing_);
    }
    for (const int32_t token : ran) importance.push_back(standing_[static_cast<size_t>(token)]);
  } else {
    importance = MeanImportance(rankings[0].scores, ran.size());
  }
  const int64_t index = Index(entries.layer + 1);
  if (index < 0) return;
  int64_t droppable = 0;
  for (int64_t token = first_token; token < first_token + rows; ++token) {
    droppable += CanBeDropped(entries.layout[static_cast<size_t>(token)], droppable_) ? 1 : 0;
  }
  const int64_t count = FloorShare(drops_[static_cast<size_t>(index)].alive, droppable);
  const auto chosen = ChooseAlive(importance, ran, candidates, count);
  std::vector<int32_t>& alive = alive_[static_cast<size_t>(index)];
  alive.insert(alive.end(), chosen.begin(), chosen.end());
}

std::span<const int32_t> Dropping::Alive(int64_t layer, int64_t first_token) const {
  const int64_t index = Index(layer);
  if (index < 0) return {};
  const std::vector<int32_t>& alive = alive_[static_cast<size_t>(index)];
  return {std::lower_bound(alive.begin(), alive.end(), first_token), alive.end()};
}

std::vector<int64_t> Dropping::Counts() const {
  std::vector<int64_t> counts;
  for (const auto& alive : alive_) counts.push_back(static_cast<int64_t>(alive.size()));
  return counts;
}

}  // namespace purekv
