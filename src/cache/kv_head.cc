#include "cache/kv_head.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "kernels/elementwise.h"

namespace purekv {
namespace {

// Up to so many bytes of keys, and of values, a shared head is copied when it grows: a segment of its own would take a
// page or more for each, and what is read at every step lies together.
constexpr int64_t kSmallHead = 64 << 10;

// What keys and values of exactly `length` entries take.
int64_t Exactly(int64_t length, int64_t row) {
  return 2 * static_cast<int64_t>(Buffer::Allocation(static_cast<size_t>(length * row)));
}

}  // namespace

KvHeadView KvHead::View() const {
  KvHeadView view{nullptr,   nullptr, length(), head_dim_,
                  head_dim_, format_, listed_,  biases_.empty() ? nullptr : biases_.data()};
  if (segments_.size() != 1) return view;
  const Memory& memory = *segments_[0].memory;
  view.keys = memory.file ? memory.file_keys : memory.keys.data();
  view.values = memory.file ? memory.file_values : memory.values.data();
  return view;
}

void KvHead::ListSegments() {
  listed_.clear();
  if (segments_.size() < 2) return;
  for (const Segment& one : segments_) {
    const Memory& memory = *one.memory;
    listed_.push_back({memory.file ? memory.file_keys : memory.keys.data(),
                       memory.file ? memory.file_values : memory.values.data(), one.length});
  }
}

bool KvHead::OwnsTail() const {
  if (segments_.empty() || segments_.back().memory->file || segments_.back().memory.use_count() > 1) return false;
  // Another head's last look at it, perhaps from another thread, comes before the first change.
  std::atomic_thread_fence(std::memory_order_acquire);
  return true;
}

void KvHead::SetCapacity(int64_t capacity, KvByteCount& bytes) {
  Segment& tail = segments_.back();
  Memory& memory = *tail.memory;
  PUREKV_CHECK(capacity >= tail.length, capacity, " for ", tail.length);
  // What was shared is the head's alone now: it counts as it is.
  const auto held = static_cast<int64_t>(memory.keys.allocated() + memory.values.allocated());
  bytes.Add(held - std::exchange(tail.counted, held));
  for (Buffer* buffer : {&memory.keys, &memory.values}) {
    const auto before = static_cast<int64_t>(buffer->allocated());
    buffer->Resize(static_cast<size_t>(capacity * row_));
    const int64_t more = static_cast<int64_t>(buffer->allocated()) - before;
    tail.counted += more;
    bytes.Add(more);
  }
  // Rounding up to whole pages leaves room for a few more: use it before growing again.
  capacity_ = static_cast<int64_t>(memory.keys.allocated()) / row_;
  memory.keys.Resize(static_cast<size_t>(capacity_ * row_));
  memory.values.Resize(static_cast<size_t>(capacity_ * row_));
}

void KvHead::Reserve(int64_t count, KvByteCount& bytes) {
  const bool in_file = !segments_.empty() && segments_.back().memory->file;
  const bool small = !segments_.empty() && !OwnsTail() && length() * row_ <= kSmallHead;
  if (in_file || small) {
    // The whole head, so that what is read at every step lies together in memory.
    std::vector<int32_t> all(tokens_.size());
    std::iota(all.begin(), all.end(), 0);
    return Gather(all, length() + count, bytes);
  }
  if (!OwnsTail()) {
    segments_.push_back({std::make_shared<Memory>(), 0, 0});
    capacity_ = 0;
  }
  const int64_t needed = segments_.back().length + count;
  if (needed > capacity_) SetCapacity(needed, bytes);
  ListSegments();
}

void KvHead::Append(MatrixView<const float> keys, MatrixView<const float> values, std::span<const int32_t> tokens,
                    KvByteCount& bytes) {
  const auto count = static_cast<int64_t>(tokens.size());
  PUREKV_CHECK(keys.rows == count && keys.cols == head_dim_ && values.rows == count && values.cols == head_dim_,
               keys.rows, " x ", keys.cols, " keys, ", values.rows, " x ", values.cols, " values, ", count, " tokens");
  if (count == 0) return;
  PUREKV_CHECK(tokens_.empty() || tokens_.back() < tokens.front(), "token ", tokens.front(), " behind ",
               tokens_.back());
  const int64_t have = OwnsTail() ? capacity_ - segments_.back().length : 0;
  // Growing moves page tables, not contents, so small steps are cheap and little stays unused.
  if (count > have) Reserve(std::max(count, length() / 16 + 16), bytes);
  Segment& tail = segments_.back();
  const auto to = static_cast<size_t>(tail.length * row_);
  const AnyMatrixView out{static_cast<char*>(tail.memory->keys.data()) + to, ElementDtype(format_), count, head_dim_,
                          head_dim_};
  Convert(keys, out);
  AnyMatrixView out_values = out;
  out_values.data = static_cast<char*>(tail.memory->values.data()) + to;
  Convert(values, out_values);
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  ResizeCounts(bytes);
  tail.length += count;
  if (!listed_.empty()) listed_.back().length = tail.length;
}

void KvHead::Keep(std::span<const int32_t> entries, int64_t spare, KvByteCount& bytes) {
  int32_t last = -1;
  for (const int32_t entry : entries) {
    PUREKV_CHECK(entry > last && entry < length(), "entry ", entry, " after ", last, " of ", length());
    last = entry;
  }
  const auto count = static_cast<int64_t>(entries.size());
  for (size_t i = 0; i < entries.size() && !counts_.empty(); ++i) {
    counts_[i] = counts_[static_cast<size_t>(entries[i])];
    if (!biases_.empty()) biases_[i] = biases_[static_cast<size_t>(entries[i])];
  }
  const bool in_place = segments_.empty() || (segments_.size() == 1 && OwnsTail());
  if (!in_place) {
    if (count < length()) Gather(entries, count + spare, bytes);
    ResizeCounts(bytes);
    ShrinkCounts();
    return;  // all of it: where it lies
  }
  if (segments_.empty()) return;
  auto* const keys = static_cast<char*>(segments_[0].memory->keys.data());
  auto* const values = static_cast<char*>(segments_[0].memory->values.data());
  const auto row = static_cast<size_t>(row_);
  for (size_t i = 0; i < entries.size(); ++i) {
    const auto from = static_cast<size_t>(entries[i]);
    if (from == i) continue;  // from > i always: rows never overlap
    std::memcpy(keys + i * row, keys + from * row, row);
    std::memcpy(values + i * row, values + from * row, row);
    tokens_[i] = tokens_[from];
  }
  tokens_.resize(entries.size());
  ResizeCounts(bytes);
  segments_[0].length = count;
  const auto wanted = static_cast<size_t>((count + spare) * row_);
  if (Buffer::Allocation(wanted) >= segments_[0].memory->keys.allocated()) return;
  tokens_.shrink_to_fit();
  ShrinkCounts();
  SetCapacity(count + spare, bytes);
}

void KvHead::ResizeCounts(KvByteCount& bytes) {
  if (counts_.empty()) return;
  counts_.resize(tokens_.size(), 1);
  if (!biases_.empty()) biases_.resize(tokens_.size(), 0.0F);
  const auto held = static_cast<int64_t>(counts_.size() * sizeof(int32_t) + biases_.size() * sizeof(float));
  bytes.Add(held - std::exchange(counted_, held));
}

void KvHead::SetCounts(std::span<const int32_t> counts, bool bias, KvByteCount& bytes) {
  PUREKV_CHECK(counts.size() == tokens_.size(), counts.size(), " counts of ", tokens_.size());
  counts_.assign(counts.begin(), counts.end());
  biases_.clear();
  for (const int32_t count : counts) {
    if (bias) biases_.push_back(std::log(static_cast<float>(count)));
  }
  ResizeCounts(bytes);
}

void KvHead::Rewrite(const KvRewrite& change, KvByteCount& bytes) {
  const auto count = static_cast<int64_t>(change.entries.size());
  PUREKV_CHECK(segments_.size() == 1 && OwnsTail(), segments_.size(), " segments");
  PUREKV_CHECK(change.keys.rows == count && change.values.rows == count && change.keys.cols == head_dim_ &&
                   change.values.cols == head_dim_ && change.counts.size() == change.entries.size(),
               change.keys.rows, " keys, ", change.values.rows, " values, ", change.counts.size(), " counts for ",
               count);
  if (count == 0) return;
  if (counts_.empty()) counts_.assign(tokens_.size(), 1);
  if (change.bias && biases_.empty()) biases_.assign(tokens_.size(), 0.0F);
  ResizeCounts(bytes);
  for (int64_t i = 0; i < count; ++i) {
    const int32_t entry = change.entries[static_cast<size_t>(i)];
    PUREKV_CHECK(entry >= 0 && entry < length(), "entry ", entry, " of ", length());
    const auto at = static_cast<size_t>(entry * row_);
    AnyMatrixView out{static_cast<char*>(segments_[0].memory->keys.data()) + at, ElementDtype(format_), 1, head_dim_,
                      head_dim_};
    Convert(change.keys.Rows(i, 1), out);
    out.data = static_cast<char*>(segments_[0].memory->values.data()) + at;
    Convert(change.values.Rows(i, 1), out);
    const int32_t tokens = change.counts[static_cast<size_t>(i)];
    counts_[static_cast<size_t>(entry)] = tokens;
    if (!biases_.empty()) biases_[static_cast<size_t>(entry)] = std::log(static_cast<float>(tokens));
  }
}

void KvHead::Gather(std::span<const int32_t> kept, int64_t capacity, KvByteCount& bytes) {
  const KvHeadView from = View();
  const std::vector<KvSegment> listed = std::exchange(listed_, {});
  std::vector<Segment> before = std::exchange(segments_, {});
  // Shared memory is another's as well: it leaves this count before the copy enters it. A file's stretch is this head's
  // alone, there beside the copy.
  for (Segment& one : before) {
    if (!one.memory->file) bytes.Add(-std::exchange(one.counted, 0));
  }
  segments_.push_back({std::make_shared<Memory>(), 0, 0});
  SetCapacity(capacity, bytes);
  auto* const keys = static_cast<char*>(segments_[0].memory->keys.data());
  auto* const values = static_cast<char*>(segments_[0].memory->values.data());
  const auto row = static_cast<size_t>(row_);
  KvHeadView source = from;
  source.segments = listed;
  for (size_t i = 0; i < kept.size(); ++i) {
    std::memcpy(keys + i * row, source.KeyRow(kept[i]), row);
    std::memcpy(values + i * row, source.ValueRow(kept[i]), row);
    tokens_[i] = tokens_[static_cast<size_t>(kept[i])];
  }
  tokens_.resize(kept.size());
  tokens_.shrink_to_fit();
  segments_[0].length = static_cast<int64_t>(kept.size());
  for (const Segment& one : before) bytes.Add(-one.counted);
}

void KvHead::Truncate(int32_t token, KvByteCount& bytes) {
  const auto end = std::lower_bound(tokens_.begin(), tokens_.end(), token);
  if (end == tokens_.end()) return;
  tokens_.erase(end, tokens_.end());
  ResizeCounts(bytes);
  int64_t left = length();
  size_t kept = 0;
  for (; kept < segments_.size() && left > 0; ++kept) {
    segments_[kept].length = std::min(segments_[kept].length, left);
    left -= segments_[kept].length;
  }
  for (size_t i = kept; i < segments_.size(); ++i) bytes.Add(-segments_[i].counted);
  segments_.resize(kept);
  capacity_ = 0;
  if (OwnsTail()) {
    SetCapacity(segments_.back().length, bytes);
  } else if (!segments_.empty()) {
    Segment& tail = segments_.back();
    const int64_t counted = tail.memory->file ? 2 * tail.length * row_ : Exactly(tail.length, row_);
    bytes.Add(counted - std::exchange(tail.counted, counted));
  }
  ListSegments();
}

void KvHead::ViewFile(std::span<const int32_t> tokens, const void* keys, const void* values,
                      std::shared_ptr<const void> hold, KvByteCount& bytes) {
  PUREKV_CHECK(tokens_.empty() && segments_.empty() && hold != nullptr, tokens_.size(), " entries already");
  if (tokens.empty()) return;
  tokens_.assign(tokens.begin(), tokens.end());
  auto memory = std::make_shared<Memory>();
  memory->file = std::move(hold);
  memory->file_keys = keys;
  memory->file_values = values;
  segments_.push_back({std::move(memory), length(), 2 * length() * row_});
  bytes.Add(segments_.back().counted);
}

void KvHead::Share(const KvHead& from, int32_t token, KvByteCount& bytes) {
  PUREKV_CHECK(tokens_.empty() && segments_.empty(), tokens_.size(), " entries already");
  PUREKV_CHECK(row_ == from.row_ && format_ == from.format_, row_, " bytes a row, not ", from.row_);
  const auto end = std::lower_bound(from.tokens_.begin(), from.tokens_.end(), token);
  tokens_.assign(from.tokens_.begin(), end);
  counts_.assign(from.counts_.begin(), from.counts_.begin() + std::min(from.counts_.size(), tokens_.size()));
  biases_.assign(from.biases_.begin(), from.biases_.begin() + std::min(from.biases_.size(), tokens_.size()));
  ResizeCounts(bytes);
  int64_t before = 0;  // entries of the segments so far
  for (size_t i = 0; i < from.segments_.size() && before < length(); ++i) {
    Segment one = from.segments_[i];
    one.length = std::min(one.length, length() - before);
    // Together what one piece would take.
    one.counted = one.memory->file ? 2 * one.length * row_ : Exactly(before + one.length, row_) - Exactly(before, row_);
    before += one.length;
    bytes.Add(one.counted);
    segments_.push_back(std::move(one));
  }
  ListSegments();
}

}  // namespace purekv
