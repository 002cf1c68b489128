#include "checkpoint/pkv_check.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/error.h"

namespace purekv {
namespace {

constexpr int32_t kText = 0, kImage = 1, kVideo = 2;

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
    // The sides are at most 2^30 each: their product may be more than a number holds.
    if ((medium.tokens - 1) / slices / height / width > 0) {
      Fail(where, ": media[", item, "]: tokens: ", medium.tokens, "; a grid of ", slices, " x ", height, " x ", width,
           " patches cannot make so many");
    }
    if (const size_t times = medium.slice_seconds.size(); times > 0 && static_cast<int64_t>(times) != slices) {
      Fail(where, ": media[", item, "]: slice_seconds: ", times, " numbers for ", slices, " slices");
    }
    // A still that is shown in every slice is one frame; a large one in tiles has one for each.
    const bool image = medium.kind == MediaSource::Kind::kImage;
    if (image ? medium.frames != 1 && medium.frames != slices : medium.frames < slices) {
      Fail(where, ": media[", item, "]: frames: ", medium.frames, "; ",
           image ? StrCat("an image is one, or one for each of its ", slices, " slices")
                 : StrCat(slices, " slices take at least as many"));
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

void CheckPkvTokens(const PkvContents& contents, const std::string& path) {
  const std::string where = path + ": section tokens";
  const auto tokens = static_cast<size_t>(contents.tokens());
  for (size_t i = 0; i < contents.prompt_ids.size(); ++i) {
    if (contents.prompt_ids[i] < 0) Fail(where, ": prompt id ", i, ": ", contents.prompt_ids[i], " is none");
  }
  for (size_t i = 0; i < tokens; ++i) {
    if (contents.ids[i] < 0) Fail(where, ": id of token ", i, ": ", contents.ids[i], " is none");
    for (const int32_t axis : contents.positions.subspan(3 * i, 3)) {
      if (axis >= 0 && axis < contents.next_position) continue;
      Fail(where, ": position of token ", i, ": ", axis, "; at least 0 and below next_position, ",
           contents.next_position, ", is expected");
    }
  }
  // Media stand in their order, text may stand among their tokens; which place is whose, the model knows.
  std::vector<int64_t> found(contents.media.size());
  size_t item = 0;
  for (size_t i = 0; i < tokens; ++i) {
    const auto record = contents.records.subspan(5 * i, 5);
    if (record[0] != kText && item < found.size() && found[item] == contents.media[item].tokens) ++item;
    // Of nothing, or a newline of the medium whose tokens it follows.
    const bool newline = item < found.size() && found[item] > 0 && record[1] == static_cast<int32_t>(item);
    const bool text = record[0] == kText && (record[1] == -1 || newline) &&
                      std::all_of(record.begin() + 2, record.end(), [](int32_t x) { return x == -1; });
    const auto visual = [&] {
      if (item == found.size() || record[1] != static_cast<int32_t>(item)) return false;
      const MediaInfo& medium = contents.media[item];
      if (record[0] != (medium.kind == MediaSource::Kind::kImage ? kImage : kVideo)) return false;
      auto [slices, height, width] = medium.grid;
      if (medium.map[0] > 0) {  // behind one tile that shows all of the image
        slices = 2;
        if (record[2] == 1) height = medium.map[0];
        if (record[2] == 1) width = medium.map[1];
      }
      const auto within = [](int32_t place, int64_t count) { return place >= 0 && place < count; };
      return within(record[2], slices) && within(record[3], height) && within(record[4], width);
    };
    if (text) continue;
    if (!visual()) {
      Fail(where, ": record of token ", i, ": kind ", record[0], ", item ", record[1], ", slice ", record[2], ", row ",
           record[3], ", column ", record[4], ": neither text nor a place of medium ", item, " of ", found.size());
    }
    ++found[item];
  }
  for (size_t one = 0; one < found.size(); ++one) {
    if (found[one] == contents.media[one].tokens) continue;
    Fail(where, ": ", found[one], " of the ", contents.media[one].tokens, " tokens of medium ", one);
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
