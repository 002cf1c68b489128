#include "policy/drop.h"

#include <algorithm>
#include <charconv>
#include <cmath>

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
      FailUsage(kField, ": ", part, ": the share of visual tokens that stay must be above 0, at most 1");
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

std::vector<DropLayer> DefaultDropLayers(int64_t layers, int64_t first, double budget) {
  std::vector<DropLayer> drops;
  const auto add = [&](double depth, double share) {
    const auto at = static_cast<int64_t>(std::lround(depth * static_cast<double>(layers)));
    const DropLayer drop{std::max(at, first), share};
    if (drop.layer >= layers || drop.alive >= 1) return;
    if (!drops.empty() && drops.back().layer == drop.layer) drops.pop_back();
    drops.push_back(drop);
  };
  add(1.0 / 7, 1.25 * budget);
  add(3.0 / 7, 0.75 * budget);
  return drops;
}

std::vector<int32_t> ChooseAlive(const LayerEntries& entries, const Scores& scores, const Protection& protection,
                                 std::span<const int32_t> rows, int64_t visual) {
  std::vector<double> importance(rows.size(), 0.0);
  for (size_t head = 0; head < scores.size(); ++head) {
    PUREKV_CHECK(scores[head].size() >= rows.size() && entries.tokens[head].back() == rows.back(), rows.size(),
                 " rows, ", scores[head].size(), " entries");
    const auto tail = std::span(scores[head]).last(rows.size());
    for (size_t i = 0; i < rows.size(); ++i) importance[i] += tail[i] / static_cast<double>(scores.size());
  }
  // Where protection counts from the whole list of a head, and the rows are its end.
  const auto length = static_cast<int64_t>(scores[0].size());
  const int64_t before = length - static_cast<int64_t>(rows.size());
  std::vector<int32_t> alive, candidates;
  int64_t taken = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    const int64_t entry = before + static_cast<int64_t>(i);
    const bool is_visual = IsVisual(entries.layout[static_cast<size_t>(rows[i])]);
    const bool stays = entry < protection.sinks || entry >= length - protection.recent || i + 1 == rows.size();
    if (is_visual && !stays) {
      candidates.push_back(static_cast<int32_t>(i));
      continue;
    }
    alive.push_back(static_cast<int32_t>(i));
    taken += is_visual ? 1 : 0;
  }
  TakeBest(importance, std::move(candidates), visual - taken, alive);
  std::sort(alive.begin(), alive.end());
  for (int32_t& row : alive) row = rows[static_cast<size_t>(row)];
  return alive;
}

}  // namespace purekv
