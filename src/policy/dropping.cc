#include "policy/dropping.h"

#include <algorithm>

#include "policy/drop.h"

namespace purekv {

int64_t Dropping::Index(int64_t layer) const {
  const auto at = std::find_if(drops_.begin(), drops_.end(), [&](const DropLayer& one) { return one.layer == layer; });
  return at == drops_.end() ? -1 : at - drops_.begin();
}

void Dropping::Choose(int64_t layer, const LayerEntries& entries, const Scores& scores, const Protection& protection,
                      int64_t first_token, int64_t rows) {
  const auto index = static_cast<size_t>(Index(layer));
  const auto& tokens = entries.tokens[0];
  const auto first = std::lower_bound(tokens.begin(), tokens.end(), first_token);
  int64_t visual = 0;
  for (int64_t token = first_token; token < first_token + rows; ++token) {
    visual += IsVisual(entries.layout[static_cast<size_t>(token)]) ? 1 : 0;
  }
  const int64_t count = FloorShare(drops_[index].alive, visual);
  const auto alive = ChooseAlive(entries, scores, protection, {first, tokens.end()}, count);
  alive_[index].insert(alive_[index].end(), alive.begin(), alive.end());
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
