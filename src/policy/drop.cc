#include "policy/drop.h"

#include <algorithm>
#include <charconv>
#include <numeric>

#include "base/error.h"
#include "policy/selector.h"

namespace purekv {
namespace {

const Field kField{"kv.drop_layers"};

constexpr char kForm[] = "LAYER:SHARE,... (4:0.25,12:0.15)";

template <class T>
bool ReadNumber(std::string_view text, T* value) {
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, *value);
  return error == std::errc() && stop == end && !text.empty();
}

}  // namespace

std::vector<DropLayer> ParseDropLayers(const std::string& text) {
  std::vector<DropLayer> drops;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t comma = std::min(text.find(',', begin), text.size());
    const std::string part = text.substr(begin, comma - begin);
    const size_t colon = part.find(':');
    DropLayer drop;
    if (colon == std::string::npos || !ReadNumber(std::string_view(part).substr(0, colon), &drop.layer) ||
        !ReadNumber(std::string_view(part).substr(colon + 1), &drop.alive)) {
      FailUsage(kField, ": '", part, "' at place ", drops.size() + 1, " is not LAYER:SHARE; the list looks like ",
                kForm);
    }
    drops.push_back(drop);
    begin = comma + 1;
  }
  CheckDropLayers(drops);
  return drops;
}

std::string DropLayersText(const std::vector<DropLayer>& drops) {
  std::string text;
  for (const DropLayer& drop : drops) text += StrCat(text.empty() ? "" : ",", drop.layer, ":", drop.alive);
  return text;
}

void CheckDropLayers(const std::vector<DropLayer>& drops) {
  for (size_t i = 0; i < drops.size(); ++i) {
    const DropLayer& drop = drops[i];
    const std::string part = StrCat("'", drop.layer, ":", drop.alive, "'");
    if (drop.layer < 1) {
      FailUsage(kField, ": ", part, ": the layer must be at least 1: what is dropped is chosen by the layer before it");
    }
    if (!(drop.alive > 0 && drop.alive <= 1)) {
      FailUsage(kField, ": ", part, ": the share of tokens that stay must be above 0, at most 1");
    }
    if (i == 0) continue;
    if (drop.layer <= drops[i - 1].layer) {
      FailUsage(kField, ": ", part, " after layer ", drops[i - 1].layer, ": layers must ascend");
    }
    if (drop.alive >= drops[i - 1].alive) {
      FailUsage(kField, ": ", part, " after share ", drops[i - 1].alive,
                ": shares must descend; what was dropped cannot come back");
    }
  }
}

std::vector<DropLayer> DefaultDropLayers(int64_t layers, int64_t first, double budget, const CopyingHeads& copying) {
  constexpr double kLeastShare = 0.2, kCopyingBelow = 1.0 / 3;
  int64_t layer = (layers + 1) / 2;
  if (!copying.empty()) {
    std::vector<double> below(copying.size() + 1, 0.0);
    for (size_t i = 0; i < copying.size(); ++i) {
      below[i + 1] = std::accumulate(copying[i].begin(), copying[i].end(), below[i]);
    }
    const auto enough = std::lower_bound(below.begin(), below.end(), kCopyingBelow * below.back());
    if (below.back() > 0) layer = enough - below.begin();
  }
  const DropLayer drop{std::max(layer, first), std::max(kLeastShare, budget)};
  if (drop.layer >= layers || drop.alive >= 1) return {};
  return {drop};
}

DropCandidates FindDropCandidates(const LayerEntries& entries, const Protection& protection,
                                  std::span<const int32_t> rows, Droppable droppable) {
  // Protection counts from the whole list of a head, and the rows are its end.
  const auto length = static_cast<int64_t>(entries.tokens[0].size());
  const int64_t before = length - static_cast<int64_t>(rows.size());
  DropCandidates candidates;
  for (size_t i = 0; i < rows.size(); ++i) {
    const int64_t entry = before + static_cast<int64_t>(i);
    const bool counts = CanBeDropped(entries.layout[static_cast<size_t>(rows[i])], droppable);
    const bool stays = entry < protection.sinks || entry >= length - protection.recent || i + 1 == rows.size();
    (counts && !stays ? candidates.rest : candidates.stay).push_back(static_cast<int32_t>(i));
    candidates.taken += counts && stays ? 1 : 0;
  }
  return candidates;
}

std::vector<double> MeanImportance(const Scores& scores, size_t rows) {
  std::vector<double> importance(rows, 0.0);
  for (const auto& head : scores) {
    PUREKV_CHECK(head.size() >= rows, rows, " rows, ", head.size(), " entries");
    const auto tail = std::span(head).last(rows);
    for (size_t i = 0; i < rows; ++i) importance[i] += tail[i] / static_cast<double>(scores.size());
  }
  return importance;
}

void AddStandings(const Ranking& ranking, std::span<const double> copying, std::span<const int32_t> rows,
                  const DropCandidates& candidates, std::span<double> standing) {
  // As Cormack, Clarke and Buettcher have it; 1 was no better, and neither was each token's best place.
  constexpr double kPlaces = 60;
  const Scores& scores = ranking.scores;
  PUREKV_CHECK(copying.size() == scores.size(), copying.size(), " of ", scores.size(), " heads");
  for (size_t head = 0; head < scores.size(); ++head) {
    PUREKV_CHECK(scores[head].size() >= rows.size(), rows.size(), " rows, ", scores[head].size(), " entries");
    const auto by = std::span(scores[head]).last(rows.size());
    std::vector<int32_t> order = candidates.rest;
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t b) { return by[static_cast<size_t>(a)] > by[static_cast<size_t>(b)]; });
    const double weight = ranking.share * (copying[head] + kLeastCopying);
    for (size_t i = 0; i < order.size(); ++i) {
      const auto token = static_cast<size_t>(rows[static_cast<size_t>(order[i])]);
      standing[token] += weight / (static_cast<double>(i + 1) + kPlaces);
    }
  }
}

std::vector<int32_t> ChooseAlive(std::span<const double> importance, std::span<const int32_t> rows,
                                 DropCandidates candidates, int64_t count) {
  std::vector<int32_t>& alive = candidates.stay;
  TakeBest(importance, std::move(candidates.rest), count - candidates.taken, alive);
  std::sort(alive.begin(), alive.end());
  for (int32_t& row : alive) row = rows[static_cast<size_t>(row)];
  return std::move(alive);
}

}  // namespace purekv
