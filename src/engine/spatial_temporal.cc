#include "engine/spatial_temporal.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <tuple>
#include <utility>
#include <vector>

#include "base/error.h"

namespace purekv {
namespace {

using Kind = TokenRecord::Kind;
using Cell = std::pair<int32_t, int32_t>;  // row, column

constexpr int32_t kDiagonalRows = 32;  // rows of one part of single keys: one group of the bf16 products

bool IsGlobal(const SpatialTemporalPattern& pattern, std::span<const TokenRecord> layout, int64_t token) {
  return token < pattern.sinks || layout[static_cast<size_t>(token)].kind == Kind::kText;
}

bool IsAnchor(const SpatialTemporalPattern& pattern, int32_t slice) {
  if (pattern.anchor_every == SpatialTemporalPattern::kNoAnchors) return false;
  return slice == 0 || (pattern.anchor_every > 0 && slice % pattern.anchor_every == 0);
}

// Tokens that are no cell of a grid (negative coordinates) neighbour their like alone.
bool Near(const SpatialTemporalPattern& pattern, const TokenRecord& a, const TokenRecord& b) {
  if (a.row == b.row && a.column == b.column) return true;
  if (std::min({a.row, a.column, b.row, b.column}) < 0) return false;
  return std::abs(a.row - b.row) <= pattern.temporal_radius && std::abs(a.column - b.column) <= pattern.temporal_radius;
}

bool InWindow(const SpatialTemporalPattern& pattern, int32_t query_slice, int32_t key_slice) {
  return key_slice < query_slice &&
         (pattern.temporal_window == 0 || query_slice - key_slice <= pattern.temporal_window);
}

// Tokens of one video or image that are not seen by all anyway.
struct Item {
  std::map<int32_t, std::vector<int32_t>> frames;  // by slice; an image is one frame
  std::map<Cell, std::vector<int32_t>> columns;    // of videos: tokens outside the anchors
};

// Rows of the block that share a frame.
struct FrameRows {
  int32_t item = 0, slice = 0;
  std::vector<int32_t> rows;  // in the block
};

class Planner {
 public:
  Planner(const SpatialTemporalPattern& pattern, std::span<const TokenRecord> layout, std::span<const int32_t> rows,
          std::span<const int32_t> keys)
      : pattern_(pattern), layout_(layout), tokens_(rows) {
    plan_.rows = static_cast<int64_t>(rows.size());
    SortRows();
    SortKeys(keys);
  }

  SparsePlan Plan(std::span<const int32_t> keys) {
    CountDense(keys);
    std::vector<SparsePart> diagonal, columns, frames;
    for (const FrameRows& frame : frames_) {
      if (frame.rows.empty()) continue;
      frames.push_back(FramePart(frame));
      if (!SeesOwnFrame(frame)) AddDiagonal(frame, &diagonal);
    }
    if (pattern_.temporal) AddColumns(&columns);
    for (std::vector<SparsePart>* pass : {&diagonal, &columns, &frames}) {
      if (!pass->empty()) plan_.passes.push_back(std::move(*pass));
    }
    return std::move(plan_);
  }
  const PatternPairs& pairs() const { return pairs_; }

 private:
  const TokenRecord& Record(int32_t token) const { return layout_[static_cast<size_t>(token)]; }
  int32_t Token(int32_t row) const { return tokens_[static_cast<size_t>(row)]; }
  bool Global(int32_t token) const { return IsGlobal(pattern_, layout_, token); }
  // An image is one frame, however many grids it has.
  static int32_t FrameOf(const TokenRecord& record) { return record.kind == Kind::kVideo ? record.slice : 0; }
  bool IsVideo(const FrameRows& frame) const { return Record(Token(frame.rows.front())).kind == Kind::kVideo; }
  bool SeesOwnFrame(const FrameRows& frame) const { return pattern_.spatial || !IsVideo(frame); }

  // Rows into runs of text and frames.
  void SortRows() {
    std::map<std::pair<int32_t, int32_t>, size_t> place;
    for (int32_t row = 0; row < static_cast<int32_t>(tokens_.size()); ++row) {
      const TokenRecord& record = Record(Token(row));
      if (record.kind == Kind::kText) {
        std::vector<DenseRows>& dense = plan_.dense;
        if (dense.empty() || dense.back().first + dense.back().count != row) dense.push_back({row, 0});
        ++dense.back().count;
        continue;
      }
      const auto [at, fresh] = place.emplace(std::pair{record.item, FrameOf(record)}, frames_.size());
      if (fresh) frames_.push_back({record.item, FrameOf(record), {}});
      frames_[at->second].rows.push_back(row);
      items_[record.item];
    }
  }

  void SortKeys(std::span<const int32_t> keys) {
    std::map<int32_t, int32_t> last_slice;
    for (const int32_t key : keys) {
      if (Global(key)) {
        globals_.push_back(key);
        continue;
      }
      const TokenRecord& record = Record(key);
      const auto item = items_.find(record.item);
      if (item == items_.end()) continue;  // no row of the block belongs to it
      const int32_t frame = FrameOf(record);
      const auto [last, fresh] = last_slice.emplace(record.item, frame);
      PUREKV_CHECK(fresh || last->second <= frame, "slices out of order: token ", key);
      last->second = frame;
      item->second.frames[frame].push_back(key);
      if (pattern_.temporal && record.kind == Kind::kVideo && !IsAnchor(pattern_, frame)) {
        item->second.columns[{record.row, record.column}].push_back(key);
      }
    }
  }

  void CountDense(std::span<const int32_t> keys) {
    size_t seen = 0;
    for (const int32_t token : tokens_) {
      while (seen < keys.size() && keys[seen] <= token) ++seen;
      pairs_.dense += static_cast<double>(seen);
      if (Record(token).kind == Kind::kText) pairs_.text_rows += static_cast<double>(seen);
    }
  }

  // What a frame's rows see but for other frames' cells: text and sinks before the frame, anchors, and then, token by
  // token, the frame itself and what text lies inside it.
  SparsePart FramePart(const FrameRows& frame) {
    SparsePart part;
    const int32_t first = Token(frame.rows.front());
    const auto inside = std::lower_bound(globals_.begin(), globals_.end(), first);
    part.keys.Add(std::span<const int32_t>(globals_.data(), static_cast<size_t>(inside - globals_.begin())));
    const int64_t before = part.keys.size();
    const Item& item = items_.at(frame.item);
    if (IsVideo(frame)) {
      for (const auto& [slice, tokens] : item.frames) {
        if (slice >= frame.slice) break;
        if (IsAnchor(pattern_, slice)) part.keys.Add(tokens);
      }
    }
    const int64_t anchors = part.keys.size() - before;

    static const std::vector<int32_t> kNone;
    const auto own_frame = item.frames.find(frame.slice);
    const std::vector<int32_t>& own = SeesOwnFrame(frame) && own_frame != item.frames.end() ? own_frame->second : kNone;
    auto text = inside;
    auto cell = own.begin();
    for (const int32_t row : frame.rows) {
      part.rows.Add(row);
      const int32_t token = Token(row);
      while ((text != globals_.end() && *text <= token) || (cell != own.end() && *cell <= token)) {
        const bool text_first = cell == own.end() || (text != globals_.end() && *text < *cell);
        part.keys.Add(text_first ? *text++ : *cell++);
      }
      part.ends.push_back(static_cast<int32_t>(part.keys.size()));
      pairs_.anchors += static_cast<double>(anchors);
      pairs_.spatial += static_cast<double>(cell - own.begin());
      pairs_.prefix += static_cast<double>(before + (text - inside));
    }
    return part;
  }

  // Rows that see of their own frame nothing but themselves.
  void AddDiagonal(const FrameRows& frame, std::vector<SparsePart>* pass) {
    SparsePart part;
    const auto close = [&] {
      if (!part.rows.empty()) pass->push_back(std::exchange(part, {}));
    };
    for (const int32_t row : frame.rows) {
      if (Global(Token(row))) continue;  // counted as such
      const auto place = static_cast<int32_t>(part.rows.size());
      part.rows.Add(row);
      part.keys.Add(Token(row));
      part.begins.push_back(place);
      part.ends.push_back(place + 1);
      pairs_.spatial += 1;
      if (part.rows.size() == kDiagonalRows) close();
    }
    close();
  }

  // For each cell: its rows in the block against that cell, or its neighbourhood, in earlier frames.
  void AddColumns(std::vector<SparsePart>* pass) {
    std::map<std::tuple<int32_t, int32_t, int32_t>, std::vector<int32_t>> rows;  // item, row, column
    for (const FrameRows& frame : frames_) {
      if (!IsVideo(frame)) continue;
      for (const int32_t row : frame.rows) {
        const TokenRecord& record = Record(Token(row));
        rows[{record.item, record.row, record.column}].push_back(row);
      }
    }
    for (auto& [place, list] : rows) {
      std::sort(list.begin(), list.end());
      AddColumn(list, pass);
    }
  }

  void AddColumn(const std::vector<int32_t>& rows, std::vector<SparsePart>* pass) {
    const TokenRecord& lowest = Record(Token(rows.front()));
    const TokenRecord& highest = Record(Token(rows.back()));
    std::vector<int32_t> keys;
    const auto take = [&](const std::vector<int32_t>& column) {
      for (const int32_t key : column) {
        const int32_t slice = Record(key).slice;
        if (slice >= highest.slice) break;
        if (slice >= lowest.slice || InWindow(pattern_, lowest.slice, slice)) keys.push_back(key);
      }
    };
    const auto& columns = items_.at(lowest.item).columns;
    const auto radius = static_cast<int32_t>(pattern_.temporal_radius);
    if (radius == 0 || std::min(lowest.row, lowest.column) < 0) {
      if (const auto own = columns.find({lowest.row, lowest.column}); own != columns.end()) take(own->second);
    } else {
      // Row by row of the grid that there is: a radius may be far larger.
      for (auto at = columns.lower_bound({std::max(0, lowest.row - radius), std::max(0, lowest.column - radius)});
           at != columns.end() && at->first.first - lowest.row <= radius;) {
        if (at->first.second < lowest.column - radius || at->first.second < 0) {
          at = columns.lower_bound({at->first.first, std::max(0, lowest.column - radius)});
        } else if (at->first.second - lowest.column > radius) {
          at = columns.lower_bound({at->first.first + 1, std::max(0, lowest.column - radius)});
        } else {
          take(at->second);
          ++at;
        }
      }
      std::sort(keys.begin(), keys.end());
    }
    SparsePart part;
    for (const int32_t row : rows) {
      const int32_t slice = Record(Token(row)).slice;
      const auto begin = std::partition_point(keys.begin(), keys.end(), [&](int32_t key) {
        return Record(key).slice < slice && !InWindow(pattern_, slice, Record(key).slice);
      });
      const auto end = std::partition_point(begin, keys.end(), [&](int32_t key) { return Record(key).slice < slice; });
      if (begin == end) continue;
      part.rows.Add(row);
      part.begins.push_back(static_cast<int32_t>(begin - keys.begin()));
      part.ends.push_back(static_cast<int32_t>(end - keys.begin()));
      pairs_.temporal += static_cast<double>(end - begin);
    }
    if (part.rows.empty()) return;
    part.keys.Add(keys);
    pass->push_back(std::move(part));
  }

  const SpatialTemporalPattern& pattern_;
  std::span<const TokenRecord> layout_;
  std::span<const int32_t> tokens_;  // of the rows
  std::vector<FrameRows> frames_;
  std::vector<int32_t> globals_;
  std::map<int32_t, Item> items_;  // those that the rows belong to
  SparsePlan plan_;
  PatternPairs pairs_;
};

}  // namespace

void PatternPairs::Add(const PatternPairs& other) {
  text_rows += other.text_rows;
  prefix += other.prefix;
  spatial += other.spatial;
  anchors += other.anchors;
  temporal += other.temporal;
  dense += other.dense;
}

bool Sees(const SpatialTemporalPattern& pattern, std::span<const TokenRecord> layout, int64_t query, int64_t key) {
  if (key > query) return false;
  if (key == query) return true;
  const TokenRecord& q = layout[static_cast<size_t>(query)];
  const TokenRecord& k = layout[static_cast<size_t>(key)];
  if (q.kind == Kind::kText || IsGlobal(pattern, layout, key)) return true;
  if (q.item != k.item) return false;
  if (q.kind == Kind::kImage) return true;
  if (k.slice == q.slice) return pattern.spatial;
  if (IsAnchor(pattern, k.slice)) return true;
  return pattern.temporal && InWindow(pattern, q.slice, k.slice) && Near(pattern, q, k);
}

SparsePlan PlanSpatialTemporal(const SpatialTemporalPattern& pattern, std::span<const TokenRecord> layout,
                               std::span<const int32_t> rows, std::span<const int32_t> keys, PatternPairs* pairs) {
  PUREKV_CHECK(rows.empty() || rows.back() < static_cast<int32_t>(layout.size()), rows.back(), " of ", layout.size());
  Planner planner(pattern, layout, rows, keys);
  SparsePlan plan = planner.Plan(keys);
  if (pairs != nullptr) pairs->Add(planner.pairs());
  return plan;
}

}  // namespace purekv
