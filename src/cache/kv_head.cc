#include "cache/kv_head.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "cache/kv_memory.h"
#include "kernels/elementwise.h"

namespace purekv {
namespace {

// Up to so many bytes of keys, and of values, a shared head is copied when it grows: a segment of its own would take a
// page or more for each, and what is read at every step lies together.
constexpr int64_t kSmallHead = 64 << 10;

// What plain keys and values of exactly `length` entries take.
int64_t Exactly(int64_t length, int64_t row) {
  return 2 * Allocation(length * row);
}

std::vector<int32_t> AllOf(int64_t count) {
  std::vector<int32_t> all(static_cast<size_t>(count));
  std::iota(all.begin(), all.end(), 0);
  return all;
}

}  // namespace

KvHeadView KvHead::View() const {
  KvHeadView view{nullptr,   nullptr, length(), head_dim_,
                  head_dim_, format_, listed_,  biases_.empty() ? nullptr : biases_.data()};
  if (!listed_.empty() || segments_.size() != 1) return view;
  view.keys = segments_[0].memory->Keys();
  view.values = segments_[0].memory->Values();
  return view;
}

void KvHead::ListSegments() {
  listed_.clear();
  const bool stays = segments_.size() == 1 && Stays(segments_[0]);
  if (encoded_.empty() && segments_.size() < 2 && !stays) return;
  for (const auto* list : {&encoded_, &segments_}) {
    for (const Segment& one : *list) {
      listed_.push_back({.keys = one.memory->Keys(),
                         .values = one.memory->Values(),
                         .length = one.length,
                         .encoding = list == &encoded_ ? encoding_.get() : nullptr,
                         .mapping = Stays(one) ? &one.memory->mapping : nullptr});
    }
  }
}

bool KvHead::Owned(const std::vector<Segment>& list) {
  if (list.empty() || list.back().memory->file || list.back().memory.use_count() > 1) return false;
  // Another head's last look at it, perhaps from another thread, comes before the first change.
  std::atomic_thread_fence(std::memory_order_acquire);
  return true;
}

int64_t KvHead::plain() const {
  int64_t count = 0;
  for (const Segment& one : segments_) count += one.length;
  return count;
}

const std::byte* KvHead::PlainRow(int64_t entry, bool key) const {
  for (const Segment& one : segments_) {
    const void* const rows = key ? one.memory->Keys() : one.memory->Values();
    if (entry < one.length) return static_cast<const std::byte*>(rows) + entry * row_;
    entry -= one.length;
  }
  PUREKV_CHECK(false, entry, " rows behind the last");
}

void KvHead::Release(std::vector<Segment>& list, KvByteCount& bytes) {
  for (const Segment& one : list) bytes.Add(-one.counted);
  list.clear();
}

void KvHead::SetCapacity(int64_t capacity, KvByteCount& bytes) {
  Segment& tail = segments_.back();
  Memory& memory = *tail.memory;
  PUREKV_CHECK(capacity >= tail.length, capacity, " for ", tail.length);
  // What was shared is the head's alone now: it counts as it is.
  bytes.Add(memory.allocated() - std::exchange(tail.counted, memory.allocated()));
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
  const bool stays = !segments_.empty() && Stays(segments_.back());
  // Of a file that others look at, too, each would make a copy of its own.
  const bool in_file =
      !segments_.empty() && segments_.back().memory->file && !stays && segments_.back().memory.use_count() == 1;
  const bool small = !segments_.empty() && !OwnsTail() && !stays && plain() * row_ <= kSmallHead;
  if (in_file || small) {
    // All of it, so that what is read at every step lies together in memory.
    Gather(AllOf(plain()), plain() + count, bytes);
    return ListSegments();
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
  // Growing moves page tables, not contents, so small steps are cheap and little stays unused: a sixteenth of what
  // grows, and what is shared does not. Plain entries of a head that encodes are few.
  const int64_t grows = OwnsTail() ? segments_.back().length : 0;
  const int64_t grow = codec_.on() || stored_bytes() > 0 ? 16 : grows / 16 + 16;
  if (count > have) Reserve(std::max(count, grow), bytes);
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

void KvHead::AppendAgain(int64_t count, int32_t token, KvByteCount& bytes) {
  PUREKV_CHECK(encoded_.empty() && counts_.empty() && count <= plain(), count, " of ", plain(), " plain entries");
  if (count == 0) return;
  Reserve(count, bytes);
  Segment& tail = segments_.back();
  for (const bool key : {true, false}) {
    std::byte* to = Bytes(key ? tail.memory->keys : tail.memory->values) + tail.length * row_;
    for (int64_t entry = 0; entry < count; ++entry, to += row_) {
      std::memcpy(to, PlainRow(entry, key), static_cast<size_t>(row_));
    }
  }
  for (int64_t i = 0; i < count; ++i) tokens_.push_back(token + static_cast<int32_t>(i));
  tail.length += count;
  ListSegments();
}

void KvHead::Keep(std::span<const int32_t> entries, int64_t spare, KvByteCount& bytes) {
  int32_t last = -1;
  for (const int32_t entry : entries) {
    PUREKV_CHECK(entry > last && entry < length(), "entry ", entry, " after ", last, " of ", length());
    last = entry;
  }
  for (size_t i = 0; i < entries.size(); ++i) {
    const auto from = static_cast<size_t>(entries[i]);
    tokens_[i] = tokens_[from];
    if (!counts_.empty()) counts_[i] = counts_[from];
    if (!biases_.empty()) biases_[i] = biases_[from];
  }
  tokens_.resize(entries.size());
  ResizeCounts(bytes);
  const auto first_plain = std::lower_bound(entries.begin(), entries.end(), encoded_length_);
  const auto of_encoded = static_cast<size_t>(first_plain - entries.begin());
  std::vector<int32_t> of_plain(first_plain, entries.end());
  for (int32_t& entry : of_plain) entry -= static_cast<int32_t>(encoded_length_);
  bool smaller = KeepPlain(of_plain, spare, bytes);
  if (static_cast<int64_t>(of_encoded) < encoded_length_) {
    smaller = KeepEncoded(entries.first(of_encoded), bytes) || smaller;
  }
  if (smaller) {
    tokens_.shrink_to_fit();
    ShrinkCounts();
  }
  ListSegments();
}

bool KvHead::KeepPlain(std::span<const int32_t> kept, int64_t spare, KvByteCount& bytes) {
  const auto count = static_cast<int64_t>(kept.size());
  if (segments_.empty()) return false;
  if (segments_.size() > 1 || !OwnsTail()) {
    if (count == plain()) return false;  // all of it: where it lies
    Gather(kept, count + spare, bytes);
    return true;
  }
  Memory& memory = *segments_[0].memory;
  MoveRows(Bytes(memory.keys), kept, static_cast<size_t>(row_));
  MoveRows(Bytes(memory.values), kept, static_cast<size_t>(row_));
  segments_[0].length = count;
  if (Allocation((count + spare) * row_) >= static_cast<int64_t>(memory.keys.allocated())) return false;
  SetCapacity(count + spare, bytes);
  return true;
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
  PUREKV_CHECK(encoded_.empty() && segments_.size() == 1 && OwnsTail(), encoded_.size(), " encoded segments, ",
               segments_.size(), " plain ones");
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
  std::vector<Segment> fresh = {{std::make_shared<Memory>(), 0, 0}};
  // Shared memory is another's as well: it leaves this count before the copy enters it. A file's stretch is this head's
  // alone, there beside the copy.
  for (Segment& one : segments_) {
    if (!one.memory->file) bytes.Add(-std::exchange(one.counted, 0));
  }
  std::swap(fresh, segments_);
  SetCapacity(capacity, bytes);
  std::swap(fresh, segments_);
  for (const bool key : {true, false}) {
    std::byte* to = Bytes(key ? fresh[0].memory->keys : fresh[0].memory->values);
    for (const int32_t entry : kept) {
      std::memcpy(to, PlainRow(entry, key), static_cast<size_t>(row_));
      to += row_;
    }
  }
  fresh[0].length = static_cast<int64_t>(kept.size());
  Release(segments_, bytes);
  segments_ = std::move(fresh);
}

void KvHead::Truncate(int32_t token, KvByteCount& bytes) {
  const auto end = std::lower_bound(tokens_.begin(), tokens_.end(), token);
  if (end == tokens_.end()) return;
  tokens_.erase(end, tokens_.end());
  ResizeCounts(bytes);
  capacity_ = 0;
  if (length() < encoded_length_) {
    Release(segments_, bytes);
    CutEncoded(length(), bytes);
    return ListSegments();
  }
  int64_t left = length() - encoded_length_;
  size_t kept = 0;
  for (; kept < segments_.size() && left > 0; ++kept) {
    segments_[kept].length = std::min(segments_[kept].length, left);
    left -= segments_[kept].length;
  }
  for (size_t i = kept; i < segments_.size(); ++i) bytes.Add(-segments_[i].counted);
  segments_.resize(kept);
  if (OwnsTail()) {
    SetCapacity(segments_.back().length, bytes);
  } else if (!segments_.empty()) {
    Segment& tail = segments_.back();
    const int64_t counted = tail.memory->file ? 2 * tail.length * row_ : Exactly(tail.length, row_);
    bytes.Add(counted - std::exchange(tail.counted, counted));
  }
  ListSegments();
}

void KvHead::ViewFile(std::span<const int32_t> tokens, const KvStored& stored, const std::shared_ptr<const void>& hold,
                      std::span<const std::byte> mapping, KvByteCount& bytes) {
  PUREKV_CHECK(tokens_.empty() && segments_.empty() && hold != nullptr, tokens_.size(), " entries already");
  const auto count = static_cast<int64_t>(tokens.size());
  PUREKV_CHECK(stored.encoded >= 0 && stored.encoded <= count && (stored.encoded == 0 || codec_.on()), stored.encoded,
               " encoded entries of ", count);
  if (tokens.empty()) return;
  tokens_.assign(tokens.begin(), tokens.end());
  const auto add = [&](std::vector<Segment>& list, const void* keys, const void* values, int64_t entries,
                       int64_t counted) {
    auto memory = std::make_shared<Memory>();
    memory->file = hold;
    memory->file_keys = keys;
    memory->file_values = values;
    memory->mapping = {mapping, entries, NewStretch()};
    list.push_back({std::move(memory), entries, counted});
    bytes.Add(counted);
  };
  if (codec_.key_channels > 0 && !stored.key_channels.empty()) SetKeyChannels(stored.key_channels);
  if (stored.encoded > 0) {
    if (encoding_ == nullptr) MakeEncoding({});
    encoded_length_ = stored.encoded;
    add(encoded_, stored.encoded_keys, stored.encoded_values, stored.encoded,
        encoding_->keys.Bytes(stored.encoded) + encoding_->values.Bytes(stored.encoded));
  }
  const int64_t behind = count - stored.encoded;
  if (behind > 0) add(segments_, stored.keys, stored.values, behind, 2 * behind * row_);
  ListSegments();
}

void KvHead::Share(const KvHead& from, int32_t token, KvByteCount& bytes) {
  PUREKV_CHECK(tokens_.empty() && segments_.empty(), tokens_.size(), " entries already");
  PUREKV_CHECK(row_ == from.row_ && format_ == from.format_ && (from.encoded_.empty() || codec_ == from.codec_), row_,
               " bytes a row, not ", from.row_, ", or another codec");
  const auto end = std::lower_bound(from.tokens_.begin(), from.tokens_.end(), token);
  tokens_.assign(from.tokens_.begin(), end);
  counts_.assign(from.counts_.begin(), from.counts_.begin() + std::min(from.counts_.size(), tokens_.size()));
  biases_.assign(from.biases_.begin(), from.biases_.begin() + std::min(from.biases_.size(), tokens_.size()));
  ResizeCounts(bytes);
  encoding_ = from.encoding_;
  const auto share = [&](const std::vector<Segment>& list, std::vector<Segment>& to, int64_t count, const auto& taken) {
    int64_t before = 0;  // entries of the segments so far
    for (size_t i = 0; i < list.size() && before < count; ++i) {
      Segment one = list[i];
      one.length = std::min(one.length, count - before);
      // Together what one piece would take.
      one.counted = one.memory->file ? one.counted : taken(before + one.length) - taken(before);
      before += one.length;
      bytes.Add(one.counted);
      to.push_back(std::move(one));
    }
  };
  const auto of_plain = [this](int64_t entries) { return Exactly(entries, row_); };
  const auto of_encoded = [this](int64_t entries) { return EncodedBytes(entries); };
  encoded_length_ = from.encoded_length_;
  share(from.encoded_, encoded_, encoded_length_, of_encoded);
  if (length() < encoded_length_) {
    CutEncoded(length(), bytes);
  } else {
    share(from.segments_, segments_, length() - encoded_length_, of_plain);
    for (Segment& one : segments_) {
      if (!one.memory->file) continue;
      const int64_t counted = 2 * one.length * row_;
      bytes.Add(counted - std::exchange(one.counted, counted));
    }
  }
  ListSegments();
}

}  // namespace purekv
