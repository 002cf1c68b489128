// infinipot-v: InfiniPot-V (arXiv 2506.15745) needs no attention. Of a stream's older frames it keeps the cells whose
// keys have changed most against the same places of the latest frames (TaR), then whatever has the largest values
// (VaN). Frames are those of the token records, also behind earlier compressions; how many of the reference frames'
// cells stay is bounded, as a small budget would hold nothing else.
#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <optional>
#include <tuple>
#include <utility>

#include "base/threads.h"
#include "policy/policies.h"
#include "policy/scores.h"
#include "policy/selector.h"

namespace purekv {
namespace {

using Frame = std::pair<int32_t, int32_t>;           // item, slice
using Cell = std::tuple<int32_t, int32_t, int32_t>;  // item, row, column

Frame FrameOf(const TokenRecord& token) {
  return {token.item, token.slice};
}

class InfiniPotV : public SinksAndRecentPolicy {
 public:
  explicit InfiniPotV(const OptionValues& values)
      : SinksAndRecentPolicy(values),
        tar_ratio_(values.Real("tar_ratio")),
        query_ratio_(values.Real("query_ratio")),
        text_(values.Is("text", "1")) {}

  // Two planes: TaR, of visual entries in older frames (others 0), and VaN.
  std::vector<Scores> Score(const LayerEntries& entries, const Observation&) const override {
    Scores changed(entries.kv.size());
    ParallelFor(entries.kv_heads(), [&](int64_t head) { changed[static_cast<size_t>(head)] = Changes(entries, head); });
    return {std::move(changed), ValueNorms(entries)};
  }

  KeptEntries Select(const LayerEntries& entries, const std::vector<Scores>& planes,
                     const Quota& quota) const override {
    KeptEntries kept(entries.kv.size());
    ParallelFor(entries.kv_heads(), [&](int64_t head) {
      const auto at = static_cast<size_t>(head);
      kept[at] = SelectHead(entries, head, planes[0][at], planes[1][at], quota.counts[at]);
    });
    return kept;
  }

 private:
  const TokenRecord& RecordOf(const LayerEntries& entries, int64_t head, int64_t entry) const {
    return entries.layout[static_cast<size_t>(entries.tokens[static_cast<size_t>(head)][static_cast<size_t>(entry)])];
  }

  // The first of the reference frames; what is visual and not before it is one of theirs. nullopt: nothing is visual.
  std::optional<Frame> FirstReference(const LayerEntries& entries, int64_t head) const {
    std::vector<Frame> frames;
    for (int64_t j = 0; j < entries.length(head); ++j) {
      const TokenRecord& token = RecordOf(entries, head, j);
      if (IsVisual(token)) frames.push_back(FrameOf(token));
    }
    std::sort(frames.begin(), frames.end());
    frames.erase(std::unique(frames.begin(), frames.end()), frames.end());
    if (frames.empty()) return std::nullopt;
    const auto count = static_cast<int64_t>(frames.size());
    const int64_t references = std::max<int64_t>(1, FloorShare(query_ratio_, count));
    return frames[static_cast<size_t>(count - references)];
  }

  // TaR: minus the mean cosine with the keys at the same place of the reference frames, which is that with the sum of
  // their normalised keys. 1 where there are none.
  std::vector<double> Changes(const LayerEntries& entries, int64_t head) const {
    const auto dim = static_cast<size_t>(entries.head_dim);
    const KvHeadView& kv = entries.kv[static_cast<size_t>(head)];
    std::vector<double> changes(static_cast<size_t>(kv.length), 0.0);
    const std::optional<Frame> first = FirstReference(entries, head);
    if (!first) return changes;
    const Frame& reference = *first;
    struct Place {
      std::vector<double> sum;
      int64_t keys = 0;
    };
    std::map<Cell, Place> places;
    std::vector<double> key(dim);
    const auto normalised = [&](int64_t entry) {
      KeyRow(kv, entry, entries.head_dim, key.data());
      double square = 0;
      for (const double x : key) square += x * x;
      const double factor = square > 0 ? 1 / std::sqrt(square) : 0;
      for (double& x : key) x *= factor;
    };
    const auto cell = [](const TokenRecord& token) { return Cell{token.item, token.row, token.column}; };
    for (int64_t j = 0; j < kv.length; ++j) {
      const TokenRecord& token = RecordOf(entries, head, j);
      if (!IsVisual(token) || FrameOf(token) < reference) continue;
      normalised(j);
      Place& place = places[cell(token)];
      place.sum.resize(dim, 0.0);
      for (size_t i = 0; i < dim; ++i) place.sum[i] += key[i];
      ++place.keys;
    }
    for (int64_t j = 0; j < kv.length; ++j) {
      const TokenRecord& token = RecordOf(entries, head, j);
      if (!IsVisual(token) || !(FrameOf(token) < reference)) continue;
      double& change = changes[static_cast<size_t>(j)];
      const auto found = places.find(cell(token));
      if (found == places.end()) {
        change = 1;
        continue;
      }
      normalised(j);
      double dot = 0;
      for (size_t i = 0; i < dim; ++i) dot += key[i] * found->second.sum[i];
      change = -dot / static_cast<double>(found->second.keys);
    }
    return changes;
  }

  std::vector<int32_t> SelectHead(const LayerEntries& entries, int64_t head, const std::vector<double>& changes,
                                  const std::vector<double>& norms, int64_t count) const {
    std::vector<int32_t> kept;
    std::vector<int32_t> rest = TakeProtected(entries.length(head), Protects(entries.base), kept);
    const auto record = [&](int32_t entry) -> const TokenRecord& { return RecordOf(entries, head, entry); };
    const auto left = [&] { return count - static_cast<int64_t>(kept.size()); };
    const std::optional<Frame> first = FirstReference(entries, head);
    if (text_ && first) {  // as long as at most three quarters are protected; text alone goes by its values
      std::erase_if(rest, [&](int32_t entry) {
        if (IsVisual(record(entry)) || static_cast<int64_t>(kept.size()) >= count * 3 / 4) return false;
        kept.push_back(entry);
        return true;
      });
    }
    const auto visual = [&](int32_t entry, bool latest) {
      return IsVisual(record(entry)) && (FrameOf(record(entry)) >= *first) == latest;
    };
    // Cells of the latest frames, the last frame first; then what has changed most against them.
    const int64_t of_frames = std::min(FloorShare(tar_ratio_, count), left());
    std::vector<int32_t> latest, older;
    for (const int32_t entry : rest) {
      if (visual(entry, true)) latest.push_back(entry);
      if (visual(entry, false)) older.push_back(entry);
    }
    std::stable_sort(latest.begin(), latest.end(),
                     [&](int32_t a, int32_t b) { return FrameOf(record(a)) > FrameOf(record(b)); });
    latest.resize(static_cast<size_t>(std::min(static_cast<int64_t>(latest.size()), 2 * of_frames / 3)));
    kept.insert(kept.end(), latest.begin(), latest.end());
    TakeBest(changes, std::move(older), of_frames - static_cast<int64_t>(latest.size()), kept);
    std::sort(kept.begin(), kept.end());
    std::vector<int32_t> others;
    std::set_difference(rest.begin(), rest.end(), kept.begin(), kept.end(), std::back_inserter(others));
    TakeBest(norms, std::move(others), left(), kept);
    std::sort(kept.begin(), kept.end());
    return kept;
  }

  double tar_ratio_, query_ratio_;
  bool text_;
};

}  // namespace

PolicyInfo InfiniPotVPolicy() {
  PolicyInfo info;
  info.name = "infinipot-v";
  info.summary = "keeps the cells of a video that have changed against its latest frames, then the largest values";
  info.paper = "InfiniPot-V, arXiv 2506.15745";
  info.cost = {"cosines of keys with those at the same places of the latest frames, norms of values: N d", "nothing"};
  info.options = {RealOption("tar_ratio", "0.5", 0, 1), RealOption("query_ratio", "0.25", 0, 1),
                  WordOption("text", {"1", "0"})};
  for (PolicyOption& option : SinksAndRecentPolicy::Options()) info.options.push_back(std::move(option));
  info.make = [](const OptionValues& values, const PolicyContext&) {
    return std::make_unique<const InfiniPotV>(values);
  };
  return info;
}

}  // namespace purekv
