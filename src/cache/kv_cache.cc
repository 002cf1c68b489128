#include "cache/kv_cache.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "kernels/elementwise.h"

namespace purekv {

KvCache::KvCache(const KvCacheShape& shape) : shape_(shape) {
  PUREKV_CHECK(shape.layers >= 0 && shape.kv_heads >= 1 && shape.head_dim >= 1, shape.layers, " layers, ",
               shape.kv_heads, " heads of ", shape.head_dim);
  PUREKV_CHECK(shape.dtype != Dtype::kF16, "the cache holds f32 or bf16");
  entries_.resize(static_cast<size_t>(shape.layers * shape.kv_heads));
}

KvCache::Entries& KvCache::At(int64_t layer, int64_t head) {
  PUREKV_CHECK(layer >= 0 && layer < shape_.layers && head >= 0 && head < shape_.kv_heads, "layer ", layer, " head ",
               head);
  return entries_[static_cast<size_t>(layer * shape_.kv_heads + head)];
}

const KvCache::Entries& KvCache::At(int64_t layer, int64_t head) const {
  return const_cast<KvCache*>(this)->At(layer, head);
}

int64_t KvCache::AddTokens(std::span<const Position> positions) {
  const int64_t first = tokens();
  positions_.insert(positions_.end(), positions.begin(), positions.end());
  return first;
}

KvCache KvCache::Clone() const {
  KvCache copy(shape_);
  copy.positions_ = positions_;
  for (size_t i = 0; i < entries_.size(); ++i) {
    const Entries& from = entries_[i];
    Entries& to = copy.entries_[i];
    to.tokens = from.tokens;
    if (from.viewed) {
      to.viewed = from.viewed;
      to.viewed_keys = from.viewed_keys;
      to.viewed_values = from.viewed_values;
      copy.allocated_ += 2 * static_cast<int64_t>(from.tokens.size() * row_bytes());
      copy.peak_ = std::max(copy.peak_, copy.allocated_);
    } else if (!from.tokens.empty()) {
      copy.SetCapacity(to, static_cast<int64_t>(from.tokens.size()));
      std::memcpy(to.keys.data(), from.keys.data(), from.tokens.size() * row_bytes());
      std::memcpy(to.values.data(), from.values.data(), from.tokens.size() * row_bytes());
    }
  }
  return copy;
}

KvCache KvCache::Alias(int64_t count) const {
  PUREKV_CHECK(count >= 0 && count <= tokens(), count, " of ", tokens());
  KvCache alias(shape_);
  alias.AddTokens(positions().subspan(0, static_cast<size_t>(count)));
  for (int64_t layer = 0; layer < shape_.layers; ++layer) {
    for (int64_t head = 0; head < shape_.kv_heads; ++head) {
      const Entries& from = At(layer, head);
      const auto end = std::lower_bound(from.tokens.begin(), from.tokens.end(), static_cast<int32_t>(count));
      const KvHeadView view = Head(layer, head);
      // Nothing to let go of: who asked for the alias keeps this cache.
      const auto hold = from.viewed ? from.viewed : std::shared_ptr<const void>(&from, [](const void*) {});
      alias.View(layer, head, {from.tokens.begin(), end}, view.keys, view.values, hold);
      alias.At(layer, head).borrowed = from.viewed == nullptr || from.borrowed;
    }
  }
  alias.peak_ = std::max(peak_, alias.allocated_);
  alias.removed_ = removed_;
  return alias;
}

void KvCache::View(int64_t layer, int64_t head, std::span<const int32_t> tokens, const void* keys, const void* values,
                   std::shared_ptr<const void> hold) {
  Entries& entries = At(layer, head);
  PUREKV_CHECK(entries.tokens.empty() && entries.capacity == 0 && hold != nullptr, "layer ", layer, " head ", head,
               " holds ", entries.tokens.size());
  int32_t last = -1;
  for (const int32_t token : tokens) {
    PUREKV_CHECK(token > last && token < this->tokens(), "token ", token, " after ", last, " of ", this->tokens());
    last = token;
  }
  if (tokens.empty()) return;
  entries.tokens.assign(tokens.begin(), tokens.end());
  entries.viewed = std::move(hold);
  entries.viewed_keys = keys;
  entries.viewed_values = values;
  allocated_ += 2 * static_cast<int64_t>(tokens.size() * row_bytes());
  peak_ = std::max(peak_, allocated_);
}

// Keys, then values: both copies and the view count until the view is let go.
void KvCache::CopyViewed(Entries& entries, int64_t capacity) {
  const size_t bytes = entries.tokens.size() * row_bytes();
  const auto viewed = std::exchange(entries.viewed, nullptr);
  const void* const keys = std::exchange(entries.viewed_keys, nullptr);
  const void* const values = std::exchange(entries.viewed_values, nullptr);
  // What is borrowed from another cache was counted in place of memory of its own, not besides it.
  const bool borrowed = std::exchange(entries.borrowed, false);
  if (borrowed) allocated_ -= 2 * static_cast<int64_t>(bytes);
  SetCapacity(entries, capacity);
  std::memcpy(entries.keys.data(), keys, bytes);
  std::memcpy(entries.values.data(), values, bytes);
  if (!borrowed) allocated_ -= 2 * static_cast<int64_t>(bytes);
}

void KvCache::SetCapacity(Entries& entries, int64_t capacity) {
  PUREKV_CHECK(capacity >= static_cast<int64_t>(entries.tokens.size()), capacity, " for ", entries.tokens.size());
  if (entries.viewed) return CopyViewed(entries, capacity);
  const size_t row = row_bytes();
  for (Buffer* buffer : {&entries.keys, &entries.values}) {
    const auto before = static_cast<int64_t>(buffer->allocated());
    buffer->Resize(static_cast<size_t>(capacity) * row);
    allocated_ += static_cast<int64_t>(buffer->allocated()) - before;
    peak_ = std::max(peak_, allocated_);
  }
  // Rounding up to whole pages leaves room for a few more: use it before growing again.
  entries.capacity = static_cast<int64_t>(entries.keys.allocated() / row);
  entries.keys.Resize(static_cast<size_t>(entries.capacity) * row);
  entries.values.Resize(static_cast<size_t>(entries.capacity) * row);
}

void KvCache::Reserve(int64_t layer, int64_t count) {
  for (int64_t head = 0; head < shape_.kv_heads; ++head) {
    Entries& entries = At(layer, head);
    const int64_t needed = static_cast<int64_t>(entries.tokens.size()) + count;
    if (needed > entries.capacity) SetCapacity(entries, needed);
  }
}

void KvCache::Append(int64_t layer, MatrixView<const float> keys, MatrixView<const float> values, int64_t first_token) {
  std::vector<int32_t> tokens(static_cast<size_t>(keys.rows));
  std::iota(tokens.begin(), tokens.end(), static_cast<int32_t>(first_token));
  Append(layer, keys, values, tokens);
}

void KvCache::Append(int64_t layer, MatrixView<const float> keys, MatrixView<const float> values,
                     std::span<const int32_t> rows) {
  const int64_t count = keys.rows;
  const int64_t dim = shape_.head_dim;
  PUREKV_CHECK(values.rows == count && keys.cols == shape_.kv_heads * dim && values.cols == keys.cols, keys.rows, " x ",
               keys.cols, " keys, ", values.rows, " x ", values.cols, " values");
  PUREKV_CHECK(static_cast<int64_t>(rows.size()) == count, rows.size(), " tokens for ", count, " rows");
  for (size_t i = 0; i < rows.size(); ++i) {
    PUREKV_CHECK(rows[i] >= 0 && rows[i] < tokens() && (i == 0 || rows[i] > rows[i - 1]), "token ", rows[i], " of ",
                 tokens());
  }
  for (int64_t head = 0; head < shape_.kv_heads; ++head) {
    Entries& entries = At(layer, head);
    const auto length = static_cast<int64_t>(entries.tokens.size());
    // Growing moves page tables, not contents, so small steps are cheap and little stays unused.
    if (length + count > entries.capacity) SetCapacity(entries, length + std::max(count, length / 16 + 16));
    const size_t offset = static_cast<size_t>(length * dim) * DtypeSize(shape_.dtype);
    AnyMatrixView out{static_cast<char*>(entries.keys.data()) + offset, shape_.dtype, count, dim, dim};
    Convert(keys.Cols(head * dim, dim), out);
    out.data = static_cast<char*>(entries.values.data()) + offset;
    Convert(values.Cols(head * dim, dim), out);
    PUREKV_CHECK(rows.empty() || entries.tokens.empty() || entries.tokens.back() < rows.front(), "token ", rows.front(),
                 " behind ", entries.tokens.back());
    entries.tokens.insert(entries.tokens.end(), rows.begin(), rows.end());
  }
}

int64_t KvCache::Length(int64_t layer, int64_t head) const {
  return static_cast<int64_t>(At(layer, head).tokens.size());
}

KvHeadView KvCache::Head(int64_t layer, int64_t head) const {
  const Entries& entries = At(layer, head);
  const bool viewed = entries.viewed != nullptr;
  return {viewed ? entries.viewed_keys : entries.keys.data(),
          viewed ? entries.viewed_values : entries.values.data(),
          static_cast<int64_t>(entries.tokens.size()),
          shape_.head_dim,
          shape_.head_dim,
          shape_.dtype};
}

std::span<const int32_t> KvCache::EntryTokens(int64_t layer, int64_t head) const {
  return At(layer, head).tokens;
}

void KvCache::Keep(int64_t layer, int64_t head, std::span<const int32_t> kept, int64_t spare) {
  Entries& entries = At(layer, head);
  if (kept.size() == entries.tokens.size() && entries.viewed) return;  // all of it, where it lies
  if (entries.viewed) return KeepOfViewed(entries, kept, spare);
  const size_t row = row_bytes();
  auto* keys = static_cast<char*>(entries.keys.data());
  auto* values = static_cast<char*>(entries.values.data());
  int32_t last = -1;
  for (size_t i = 0; i < kept.size(); ++i) {
    const int32_t from = kept[i];
    PUREKV_CHECK(from > last && from < static_cast<int32_t>(entries.tokens.size()), "entry ", from, " after ", last,
                 " of ", entries.tokens.size());
    last = from;
    const auto source = static_cast<size_t>(from);
    if (source != i) {  // source > i always: rows never overlap
      std::memcpy(keys + i * row, keys + source * row, row);
      std::memcpy(values + i * row, values + source * row, row);
      entries.tokens[i] = entries.tokens[source];
    }
  }
  removed_ += static_cast<int64_t>(entries.tokens.size() - kept.size());
  entries.tokens.resize(kept.size());
  const int64_t capacity = static_cast<int64_t>(kept.size()) + spare;
  if (Buffer::Allocation(static_cast<size_t>(capacity) * row) >= entries.keys.allocated()) return;
  entries.tokens.shrink_to_fit();
  SetCapacity(entries, capacity);
}

// Only what stays is copied.
void KvCache::KeepOfViewed(Entries& entries, std::span<const int32_t> kept, int64_t spare) {
  const std::vector<int32_t> tokens = std::exchange(entries.tokens, {});
  const auto viewed = std::exchange(entries.viewed, nullptr);
  const auto* const keys = static_cast<const char*>(std::exchange(entries.viewed_keys, nullptr));
  const auto* const values = static_cast<const char*>(std::exchange(entries.viewed_values, nullptr));
  const size_t row = row_bytes();
  entries.borrowed = false;
  SetCapacity(entries, static_cast<int64_t>(kept.size()) + spare);
  entries.tokens.reserve(kept.size());
  for (size_t i = 0; i < kept.size(); ++i) {
    const auto from = static_cast<size_t>(kept[i]);
    PUREKV_CHECK(kept[i] >= 0 && from < tokens.size() && (i == 0 || kept[i] > kept[i - 1]), "entry ", kept[i], " of ",
                 tokens.size());
    std::memcpy(static_cast<char*>(entries.keys.data()) + i * row, keys + from * row, row);
    std::memcpy(static_cast<char*>(entries.values.data()) + i * row, values + from * row, row);
    entries.tokens.push_back(tokens[from]);
  }
  removed_ += static_cast<int64_t>(tokens.size() - kept.size());
  allocated_ -= 2 * static_cast<int64_t>(tokens.size() * row);
}

void KvCache::Truncate(int64_t count) {
  PUREKV_CHECK(count >= 0 && count <= tokens(), count, " of ", tokens());
  for (Entries& entries : entries_) {
    const auto end = std::lower_bound(entries.tokens.begin(), entries.tokens.end(), static_cast<int32_t>(count));
    if (end == entries.tokens.end()) continue;
    if (entries.viewed) CopyViewed(entries, static_cast<int64_t>(entries.tokens.size()));
    entries.tokens.erase(end, entries.tokens.end());
    SetCapacity(entries, static_cast<int64_t>(entries.tokens.size()));
  }
  positions_.resize(static_cast<size_t>(count));
}

int64_t KvCache::FullBytes(const KvCacheShape& shape, int64_t tokens) {
  const size_t one = Buffer::Allocation(static_cast<size_t>(tokens * shape.head_dim) * DtypeSize(shape.dtype));
  return static_cast<int64_t>(one) * 2 * shape.kv_heads * shape.layers;
}

}  // namespace purekv
