#include "policy/budget.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <string>

#include "base/error.h"
#include "base/memory.h"

namespace purekv {
namespace {

constexpr double kFloorSlack = 1e-6;

// Lists of keys and of values, of rows of `row` bytes, that share heads * each entries out in a way that is not known,
// none of them holding more than `longest`.
int64_t SharedBytes(int64_t heads, int64_t row, int64_t each, int64_t longest) {
  // A list of a page or more loses less than a page to rounding, a shorter one less than a multiple of the heap; there
  // can only be so many of a page.
  const auto loss = [&](size_t unit) { return static_cast<int64_t>(unit) - std::gcd(row, static_cast<int64_t>(unit)); };
  const int64_t bytes = heads * each * row;
  const int64_t pages = std::min(heads, bytes / static_cast<int64_t>(Buffer::kPage));
  const int64_t bound = bytes + pages * loss(Buffer::kPage) + (heads - pages) * loss(Buffer::kHeapMultiple);
  const int64_t most = std::min(longest, heads * each);
  return 2 * std::min(bound, heads * static_cast<int64_t>(Buffer::Allocation(static_cast<size_t>(most * row))));
}

// The keys and values of a layer whose heads hold `counts` entries, at most `longest` each, and `more` on top; where
// heads share, as many on average, any of them at most `longest` and `more`.
int64_t LayerBytes(const CappedPart& part, size_t layer, std::span<const int64_t> counts, int64_t longest,
                   int64_t more) {
  const KvLayerSpec& spec = part.spec[static_cast<int64_t>(layer)];
  if (spec.reads_layer >= 0) return 0;
  const int64_t row = spec.row_bytes();
  int64_t bytes = 0;
  for (const int64_t count : counts) {
    const int64_t entries = std::min(count, longest) + more;
    if (!part.shared) bytes += 2 * static_cast<int64_t>(Buffer::Allocation(static_cast<size_t>(entries * row)));
    if (count < longest) bytes += entries * part.entry_bytes;  // what has been cut
  }
  // Shared: all heads have the same count (QuotaOf).
  if (part.shared) bytes += SharedBytes(spec.kv_heads, row, std::min(counts[0], longest) + more, longest + more);
  return bytes;
}

// The same of all layers whose entries a policy shares out over all of them together; the others keep their windows.
int64_t BytesTogether(const CappedPart& part, const HeadCounts& counts) {
  int64_t heads = 0, row = 0, entries = 0, apart = 0;
  for (size_t layer = 0; layer < counts.size(); ++layer) {
    const KvLayerSpec& spec = part.spec[static_cast<int64_t>(layer)];
    if (!spec.full()) {
      apart += LayerBytes(part, layer, counts[layer], part.tokens, 0);
      continue;
    }
    heads += spec.kv_heads;
    row = std::max(row, spec.row_bytes());
    entries = counts[layer][0];
  }
  const int64_t each = std::min(entries, part.tokens) + (part.holds ? 1 : 0);
  const int64_t beside = entries < part.tokens ? heads * each * part.entry_bytes : 0;
  return apart + SharedBytes(heads, row, each, part.tokens + (part.holds ? 1 : 0)) + beside;
}

// The most that is held while `rows` tokens are read, layer by layer, behind `before` that were read and cut.
int64_t BytesOfChunk(const CappedPart& part, const HeadCounts& counts, int64_t before, int64_t rows) {
  const auto held = [&](size_t layer, int64_t more) { return LayerBytes(part, layer, counts[layer], before, more); };
  const auto cut = [&](size_t layer) { return LayerBytes(part, layer, counts[layer], before + rows, 0); };
  int64_t now = 0;
  for (size_t layer = 0; layer < counts.size(); ++layer) now += held(layer, 0);
  int64_t most = now;
  for (size_t layer = 0; layer < counts.size(); ++layer) {
    now += held(layer, rows) - held(layer, 0);
    most = std::max(most, now);
    for (size_t one = 0; one <= layer; ++one) {
      if (part.cut_behind[one] == static_cast<int64_t>(layer)) now += cut(one) - held(one, rows);
    }
  }
  return most;
}

}  // namespace

int64_t FloorShare(double fraction, int64_t count) {
  return static_cast<int64_t>(std::floor(fraction * static_cast<double>(count) + kFloorSlack));
}

int64_t BaseBudget(const KvOptions& options, int64_t tokens) {
  int64_t base = tokens;
  if (options.budget) base = std::max<int64_t>(1, FloorShare(*options.budget, tokens));
  if (options.tokens) base = *options.tokens;
  return std::min(base, tokens);
}

int64_t HeldBytes(const CappedPart& part, const HeadCounts& counts, int64_t more) {
  int64_t held = 0;
  for (size_t layer = 0; layer < counts.size(); ++layer) {
    held += LayerBytes(part, layer, counts[layer], part.tokens, more);
  }
  return held;
}

int64_t CappedBytes(const CappedPart& part, const HeadCounts& counts) {
  PUREKV_CHECK(static_cast<int64_t>(counts.size()) == part.spec.layers() && counts.size() == part.cut_behind.size(),
               counts.size(), " counts, ", part.cut_behind.size(), " cuts, ", part.spec.layers(), " layers");
  int64_t most = 0;
  if (part.chunk > 0) {
    // What is held only grows: the most is there in the last whole chunk, or in the shorter one behind it.
    const int64_t whole = part.tokens / part.chunk, rest = part.tokens % part.chunk;
    if (whole > 0) most = BytesOfChunk(part, counts, (whole - 1) * part.chunk, part.chunk);
    if (rest > 0) most = std::max(most, BytesOfChunk(part, counts, whole * part.chunk, rest));
  }
  if (part.together) return std::max(most, BytesTogether(part, counts));
  // Behind the last cut; a policy that holds takes one entry in before it lets one go.
  return std::max(most, HeldBytes(part, counts, part.holds ? 1 : 0));
}

int64_t LargestBudget(int64_t bytes, const CappedPart& part, const std::function<HeadCounts(int64_t base)>& counts_of) {
  // Downwards, entry by entry: pyramid's rounding makes the bytes of B jump back now and then, and what is lost between
  // the entries alone and their allocations is few steps.
  const int64_t token_bytes = part.spec.token_bytes();
  PUREKV_CHECK(token_bytes > 0, token_bytes, " bytes a token");
  for (int64_t base = std::min(bytes / token_bytes, part.tokens); base >= 1; --base) {
    if (CappedBytes(part, counts_of(base)) <= bytes) return base;
  }
  const HeadCounts one = counts_of(1);
  const int64_t least = CappedBytes(part, one);
  if (part.chunk == 0) {
    FailUsage(Field{"kv.bytes"}, " ", bytes, ": too little for one token per layer and KV head of this model; ", least,
              " is the least");
  }
  CappedPart smaller = part;
  int64_t fits = 0;
  for (int64_t above = std::min(part.chunk, part.tokens); above - fits > 1;) {
    smaller.chunk = fits + (above - fits) / 2;
    (CappedBytes(smaller, one) <= bytes ? fits : above) = smaller.chunk;
  }
  const Message chunk = fits > 0 ? Say(", or ", Field{"kv.chunk"}, " ", fits) : Message();
  FailUsage(Field{"kv.bytes"}, " ", bytes,
            ": too little for one token per layer and KV head of this model while a chunk of ",
            std::min(part.chunk, part.tokens), " tokens is read into a layer on top; ", Field{"kv.bytes"}, " ", least,
            chunk, " would do");
}

Protection CappedProtection(int64_t sinks, int64_t recent, int64_t base) {
  return {std::min(sinks, base / 4), std::min(recent, base / 2)};
}

std::vector<int64_t> PyramidCounts(int64_t layers, int64_t base, int64_t tokens, int64_t protected_count, double beta) {
  const auto b = static_cast<double>(base);
  const double lo = std::max({b / beta, static_cast<double>(protected_count), 2 * b - static_cast<double>(tokens)});
  const double hi = 2 * b - lo;
  std::vector<int64_t> counts;
  int64_t before = 0;
  for (int64_t layer = 0; layer < layers; ++layer) {
    // The sum of the ramp over layers 0 .. layer, closed form.
    const auto n = static_cast<double>(layer + 1);
    const double slope = layers > 1 ? (hi - lo) / static_cast<double>(layers - 1) : 0;
    const double sum = layers > 1 ? n * hi - slope * n * (n - 1) / 2 : b;
    const auto up_to = static_cast<int64_t>(std::floor(sum + 0.5 + kFloorSlack));
    counts.push_back(up_to - before);
    before = up_to;
  }
  return counts;
}

std::vector<int64_t> PrefixCounts(const std::vector<std::vector<double>>& masses, int64_t base,
                                  int64_t protected_count) {
  struct Slot {
    double share;  // of the layer's mass without it
    int32_t layer;
    int32_t place;
  };
  std::vector<Slot> slots;
  for (size_t layer = 0; layer < masses.size(); ++layer) {
    std::vector<double> sorted = masses[layer];
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    PUREKV_CHECK(sorted.empty() || sorted.back() >= 0, "a mass of ", sorted.back(), " in layer ", layer);
    const double total = std::accumulate(sorted.begin(), sorted.end(), 0.0);
    const auto tokens = static_cast<int64_t>(sorted.size());
    double before = 0;
    for (int64_t x = 0; x < tokens - protected_count; ++x) {
      const double share = total > 0 ? before / total : static_cast<double>(x) / static_cast<double>(tokens);
      slots.push_back({share, static_cast<int32_t>(layer), static_cast<int32_t>(x)});
      before += sorted[static_cast<size_t>(x)];
    }
  }
  const int64_t wanted = static_cast<int64_t>(masses.size()) * (base - protected_count);
  PUREKV_CHECK(wanted >= 0 && wanted <= static_cast<int64_t>(slots.size()), wanted, " of ", slots.size());
  std::nth_element(slots.begin(), slots.begin() + wanted, slots.end(), [](const Slot& a, const Slot& b) {
    if (a.share != b.share) return a.share < b.share;
    return a.layer != b.layer ? a.layer < b.layer : a.place < b.place;
  });
  std::vector<int64_t> counts(masses.size(), protected_count);
  for (int64_t i = 0; i < wanted; ++i) ++counts[static_cast<size_t>(slots[static_cast<size_t>(i)].layer)];
  return counts;
}

std::vector<double> SharesAt(const std::vector<LayerShares>& shares, double budget) {
  PUREKV_CHECK(!shares.empty() && budget > 0 && budget <= 1, shares.size(), " budgets, asked for ", budget);
  const size_t layers = shares.front().layers.size();
  LayerShares below{0, std::vector<double>(layers, 0.0)}, above{1, std::vector<double>(layers, 1.0)};
  for (const LayerShares& one : shares) {
    if (one.budget >= budget) {
      above = one;
      break;
    }
    below = one;
  }
  const double way = (budget - below.budget) / (above.budget - below.budget);
  std::vector<double> at;
  for (size_t l = 0; l < layers; ++l) at.push_back(below.layers[l] + way * (above.layers[l] - below.layers[l]));
  return at;
}

std::vector<int64_t> ShareCounts(std::span<const double> shares, int64_t base, int64_t tokens,
                                 int64_t protected_count) {
  PUREKV_CHECK(!shares.empty() && protected_count < base && base <= tokens, protected_count, " protected, B ", base,
               " of ", tokens, ", ", shares.size(), " layers");
  const auto least = static_cast<double>(protected_count + 1), most = static_cast<double>(tokens);
  const auto all = static_cast<int64_t>(shares.size()) * base;
  auto left = static_cast<double>(all);  // of the layers that are at no bound
  std::vector<double> counts(shares.size(), 0.0);
  std::vector<bool> bound(shares.size(), false);
  for (bool changed = true; changed;) {
    // Bounds that give more in all than they take, or less: only those will still be in force when the rest has paid
    // for them.
    double given = 0, sum = 0;
    for (size_t l = 0; l < counts.size(); ++l) sum += bound[l] ? 0 : shares[l];
    for (size_t l = 0; l < counts.size(); ++l) {
      if (bound[l]) continue;
      counts[l] = left * shares[l] / sum;
      given += std::clamp(counts[l], least, most) - counts[l];
    }
    changed = false;
    double fixed = 0;
    for (size_t l = 0; l < counts.size(); ++l) {
      if (bound[l] || !((counts[l] < least && given >= 0) || (counts[l] > most && given <= 0))) continue;
      counts[l] = std::clamp(counts[l], least, most);
      bound[l] = changed = true;
      fixed += counts[l];
    }
    left -= fixed;
  }
  std::vector<int64_t> rounded;
  int64_t before = 0;
  double up = 0;
  for (const double count : counts) {
    up += count;
    const bool last = rounded.size() + 1 == counts.size();
    const int64_t up_to = last ? all : static_cast<int64_t>(std::floor(up + 0.5 + kFloorSlack));
    rounded.push_back(up_to - before);
    before = up_to;
  }
  return rounded;
}

void CheckLayerShares(const std::vector<LayerShares>& shares) {
  const Field field{"kv.prefix_shares"};
  for (size_t i = 0; i < shares.size(); ++i) {
    const auto& [budget, layers] = shares[i];
    if (!(budget > 0 && budget <= 1)) FailUsage(field, ": budget ", budget, ": out of range (0, 1]");
    if (i > 0 && budget <= shares[i - 1].budget) {
      FailUsage(field, ": budget ", budget, " after ", shares[i - 1].budget, ": budgets must ascend");
    }
    if (layers.empty() || layers.size() != shares.front().layers.size()) {
      FailUsage(field, ": budget ", budget, ": shares of ", layers.size(), " layers; ",
                std::max<size_t>(1, shares.front().layers.size()), " are expected");
    }
    for (const double share : layers) {
      if (!(share > 0 && share <= 1)) FailUsage(field, ": budget ", budget, ": share ", share, ": out of range (0, 1]");
    }
  }
}

std::vector<int64_t> RetrievalCounts(std::span<const double> copying, int64_t base, int64_t tokens,
                                     int64_t protected_count, double gamma) {
  PUREKV_CHECK(protected_count <= base && base < tokens && !copying.empty(), protected_count, " protected, B ", base,
               " of ", tokens, ", ", copying.size(), " heads");
  const auto lists = static_cast<int64_t>(copying.size());
  const auto spare = static_cast<double>(lists * (base - protected_count));
  const auto room = static_cast<double>(tokens - protected_count);
  // The heads that copy best are full one after the other, until c fits what is left of the others.
  std::vector<double> weights;
  for (const double share : copying) weights.push_back(std::pow(std::clamp(share, 0.0, 1.0) + kLeastCopying, gamma));
  std::vector<double> sorted = weights;
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
  double left = std::accumulate(sorted.begin(), sorted.end(), 0.0), c = spare / left;
  for (size_t full = 0; full < sorted.size() && c * sorted[full] > room; ++full) {
    left -= sorted[full];
    c = (spare - static_cast<double>(full + 1) * room) / std::max(left, 1e-12);
  }
  std::vector<int64_t> counts;
  int64_t before = 0;
  double sum = 0;
  for (const double weight : weights) {
    sum += static_cast<double>(protected_count) + std::min(room, c * weight);
    const bool last = counts.size() + 1 == copying.size();
    const int64_t up_to = last ? lists * base : static_cast<int64_t>(std::floor(sum + 0.5 + kFloorSlack));
    counts.push_back(up_to - before);
    before = up_to;
  }
  return counts;
}

}  // namespace purekv
