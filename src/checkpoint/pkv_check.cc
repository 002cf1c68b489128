#include "checkpoint/pkv_check.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <utility>

#include "base/error.h"

namespace purekv {
namespace {

constexpr int32_t kText = 0, kImage = 1, kVideo = 2;

// A medium's tokens: one per cell of merge x merge patches, slice by slice, row by row.
struct Cells {
  int64_t rows = 0, columns = 0;  // 0: the grid has no such cells
};

// Any merge that fits; how large it is in truth, the model knows. The grid's sides are at most 2^30.
Cells CellsOf(const MediaInfo& medium) {
  const auto [slices, height, width] = medium.grid;
  if (medium.tokens % slices != 0) return {};
  const int64_t cells = medium.tokens / slices;
  if (height * width % cells != 0) return {};
  const int64_t patches = height * width / cells;
  const auto merge = static_cast<int64_t>(std::llround(std::sqrt(static_cast<double>(patches))));
  if (merge * merge != patches || height % merge != 0 || width % merge != 0) return {};
  return {height / merge, width / merge};
}

template <class Word>
bool AllFinite(std::span<const std::byte> bytes, Word exponent) {
  // Without a branch in it, so that it runs at the speed of memory.
  unsigned bad = 0;
  for (size_t i = 0; i < bytes.size(); i += sizeof(Word)) {
    Word word;
    std::memcpy(&word, bytes.data() + i, sizeof(word));
    bad |= static_cast<unsigned>((word & exponent) == exponent);
  }
  return bad == 0;
}

// Which entry of a list has a number that is not finite; -1: none.
int64_t FindNotFinite(std::span<const std::byte> list, Dtype dtype, size_t row) {
  const auto finite = [&](std::span<const std::byte> bytes) {
    return dtype == Dtype::kF32 ? AllFinite<uint32_t>(bytes, 0x7F800000) : AllFinite<uint16_t>(bytes, 0x7F80);
  };
  if (finite(list)) return -1;
  size_t entry = 0;
  while (finite(list.subspan(entry * row, row))) ++entry;
  return static_cast<int64_t>(entry);
}

}  // namespace

void CheckPkvDescription(const PkvContents& contents, const std::string& path) {
  const std::string where = path + ": description";
  for (size_t item = 0; item < contents.media.size(); ++item) {
    const MediaInfo& medium = contents.media[item];
    const auto [slices, height, width] = medium.grid;
    if (CellsOf(medium).rows == 0) {
      Fail(where, ": media[", item, "]: tokens: ", medium.tokens, "; square cells of a grid of ", slices, " x ", height,
           " x ", width, " patches cannot be so many");
    }
    if (const size_t times = medium.slice_seconds.size(); times > 0 && static_cast<int64_t>(times) != slices) {
      Fail(where, ": media[", item, "]: slice_seconds: ", times, " numbers for ", slices, " slices");
    }
    const bool image = medium.kind == MediaSource::Kind::kImage;
    if (medium.frames < slices || (image && medium.frames != 1)) {
      Fail(where, ": media[", item, "]: frames: ", medium.frames, "; ",
           image ? "an image is one" : StrCat(slices, " slices take at least as many"));
    }
  }
  const KvStats& stats = contents.stats;
  if (stats.bytes_kept > stats.bytes_peak) {
    Fail(where, ": stats: bytes_peak: ", stats.bytes_peak, " is less than bytes_kept, ", stats.bytes_kept);
  }
  if (stats.tokens_alive.size() != contents.kv.drop_layers.size()) {
    Fail(where, ": stats: tokens_alive: ", stats.tokens_alive.size(), " numbers for ", contents.kv.drop_layers.size(),
         " drop layers");
  }
  if (!std::is_sorted(stats.tokens_alive.rbegin(), stats.tokens_alive.rend())) {
    Fail(where, ": stats: tokens_alive: grows from one drop layer to the next; what was dropped cannot come back");
  }
}

namespace {

// Walks the tokens of a context from the first to the last.
class TokenWalk {
 public:
  TokenWalk(const PkvContents& contents, std::string where) : contents_(contents), where_(std::move(where)) {}

  size_t token() const { return token_; }
  size_t item() const { return item_; }
  bool AtEnd() const { return token_ == static_cast<size_t>(contents_.tokens()); }
  bool AtText() const { return contents_.records[5 * token_] == kText; }
  // The next token is text.
  void Text() {
    Expect({kText, -1, -1, -1, -1});
    ++token_;
  }
  // The next tokens are the next medium's, slice by slice. between(): called in front of each slice but the first;
  // cell(token): of each cell.
  void Medium(const std::function<void()>& between, const std::function<void(size_t token)>& cell) {
    if (item_ == contents_.media.size()) {
      Fail(where_, ": token ", token_, " is of medium ", item_, "; there are ", item_);
    }
    const MediaInfo& medium = contents_.media[item_];
    const auto tokens = static_cast<size_t>(contents_.tokens());
    if (static_cast<uint64_t>(medium.tokens) > tokens - token_) {
      Fail(where_, ": ", tokens - token_, " tokens from medium ", item_, " on, which has ", medium.tokens);
    }
    const Cells cells = CellsOf(medium);
    const int32_t kind = medium.kind == MediaSource::Kind::kImage ? kImage : kVideo;
    for (int64_t i = 0; i < medium.tokens; ++i) {
      const int64_t row = i / cells.columns;
      if (i > 0 && i % (cells.rows * cells.columns) == 0) between();
      if (AtEnd()) Fail(where_, ": ", i, " of the ", medium.tokens, " tokens of medium ", item_);
      Expect({kind, static_cast<int32_t>(item_), static_cast<int32_t>(row / cells.rows),
              static_cast<int32_t>(row % cells.rows), static_cast<int32_t>(i % cells.columns)});
      cell(token_++);
    }
    ++item_;
  }

 private:
  void Expect(const std::array<int32_t, 5>& record) const {
    const auto found = contents_.records.subspan(5 * token_, 5);
    if (std::equal(found.begin(), found.end(), record.begin())) return;
    Fail(where_, ": record of token ", token_, ": kind ", found[0], ", item ", found[1], ", slice ", found[2], ", row ",
         found[3], ", column ", found[4], "; ", record[0], ", ", record[1], ", ", record[2], ", ", record[3], ", ",
         record[4], " is expected");
  }

  const PkvContents& contents_;
  std::string where_;
  size_t token_ = 0, item_ = 0;
};

}  // namespace

void CheckPkvTokens(const PkvContents& contents, const std::string& path) {
  const std::string where = path + ": section tokens";
  const auto tokens = static_cast<size_t>(contents.tokens());
  for (size_t i = 0; i < tokens; ++i) {
    if (contents.ids[i] < 0) Fail(where, ": id of token ", i, ": ", contents.ids[i], " is none");
    for (const int32_t axis : contents.positions.subspan(3 * i, 3)) {
      if (axis >= 0 && axis < contents.next_position) continue;
      Fail(where, ": position of token ", i, ": ", axis, "; at least 0 and below next_position, ",
           contents.next_position, ", is expected");
    }
  }
  TokenWalk walk(contents, where);
  const bool apart = std::any_of(contents.media.begin(), contents.media.end(),
                                 [](const MediaInfo& one) { return !one.slice_seconds.empty(); });
  if (apart) {  // text that is not of the prompt ids stands among the slices: which, the model knows
    const auto text = [&] {
      while (!walk.AtEnd() && walk.AtText()) walk.Text();
    };
    for (text(); !walk.AtEnd(); text()) walk.Medium(text, [](size_t) {});
  } else {
    const auto expect_id = [&](size_t token, int32_t id) {
      if (contents.ids[token] == id) return;
      Fail(where, ": id of token ", token, ": ", contents.ids[token], "; the prompt ids have ", id, " there");
    };
    for (const int32_t id : contents.prompt_ids) {
      if (walk.AtEnd()) {
        Fail(where, ": ", contents.prompt_ids.size(), " prompt ids make more than ", tokens, " tokens");
      }
      if (walk.AtText()) {
        walk.Text();
        expect_id(walk.token() - 1, id);
      } else {
        walk.Medium([] {}, [&](size_t token) { expect_id(token, id); });
      }
    }
    if (!walk.AtEnd()) {
      Fail(where, ": ", contents.prompt_ids.size(), " prompt ids make ", walk.token(), " of ", tokens, " tokens");
    }
  }
  if (walk.item() != contents.media.size()) {
    Fail(where, ": tokens of ", walk.item(), " of ", contents.media.size(), " media");
  }
}

void CheckPkvEntries(const PkvContents& contents, const std::string& path) {
  const auto heads = static_cast<size_t>(contents.kv_heads);
  const size_t row = static_cast<size_t>(contents.head_dim) * DtypeSize(contents.dtype);
  double kept = 0;
  for (size_t i = 0; i < contents.heads.size(); ++i) {
    const PkvHead& head = contents.heads[i];
    const size_t layer = i / heads;
    kept += static_cast<double>(head.tokens.size());
    for (size_t drop = 0; drop < contents.kv.drop_layers.size(); ++drop) {
      if (static_cast<int64_t>(layer) < contents.kv.drop_layers[drop].layer) continue;
      if (static_cast<int64_t>(head.tokens.size()) <= contents.stats.tokens_alive[drop]) continue;
      Fail(path, ": section index: layer ", layer, ", KV head ", i % heads, ": ", head.tokens.size(),
           " entries; at most ", contents.stats.tokens_alive[drop], " tokens reached it (tokens_alive)");
    }
    for (const auto& [name, list] : {std::pair{"key", head.keys}, std::pair{"value", head.values}}) {
      const int64_t entry = FindNotFinite(list, contents.dtype, row);
      if (entry < 0) continue;
      Fail(path, ": section entries: layer ", layer, ", KV head ", i % heads, ": the ", name, " of token ",
           head.tokens[static_cast<size_t>(entry)], " is not finite");
    }
  }
  const double mean = kept / static_cast<double>(contents.heads.size());
  if (!(std::abs(mean - contents.stats.tokens_kept_mean) <= 1e-9 * mean)) {
    Fail(path, ": description: stats: tokens_kept_mean: ", contents.stats.tokens_kept_mean, "; the heads hold ", mean,
         " on average");
  }
  for (size_t layer = 0; layer < contents.sums.size(); ++layer) {
    const PkvSums& sums = contents.sums[layer];
    if (sums.planes == 0 && sums.first_query != 0) {
      Fail(path, ": description: sum_first_query: ", sums.first_query, " for layer ", layer, ", which has no sums");
    }
    for (const auto list : sums.lists) {
      for (const double sum : list) {
        if (std::isfinite(sum) && sum >= 0) continue;
        Fail(path, ": section sums: layer ", layer, ": ", sum, "; sums of probabilities are finite and not negative");
      }
    }
  }
}

}  // namespace purekv
