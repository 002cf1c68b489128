// The encoded entries of a head.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "cache/kv_head.h"
#include "cache/kv_memory.h"

namespace purekv {

int64_t KvHead::unit() const {
  return encoding_ == nullptr ? 1 : std::max(encoding_->keys.unit(), encoding_->values.unit());
}

int64_t KvHead::EncodedBytes(int64_t entries) const {
  return encoding_ == nullptr
             ? 0
             : Allocation(encoding_->keys.Bytes(entries)) + Allocation(encoding_->values.Bytes(entries));
}

void KvHead::MakeEncoding(std::vector<int16_t> channels) {
  auto encoding = std::make_shared<KvEncoding>(
      KvEncoding{KvSide(codec_.keys, format_, head_dim_), KvSide(codec_.values, format_, head_dim_)});
  encoding->keys.channels = std::move(channels);
  if (codec_.basis != nullptr) {
    encoding->keys.basis = codec_.basis->keys.at(static_cast<size_t>(head_));
    encoding->values.basis = codec_.basis->values.at(static_cast<size_t>(head_));
  }
  encoding_ = std::move(encoding);
}

void KvHead::ResizeEncoded(int64_t entries, KvByteCount& bytes) {
  Segment& last = encoded_.back();
  last.memory->keys.Resize(static_cast<size_t>(encoding_->keys.Bytes(entries)));
  last.memory->values.Resize(static_cast<size_t>(encoding_->values.Bytes(entries)));
  bytes.Add(last.memory->allocated() - std::exchange(last.counted, last.memory->allocated()));
}

void KvHead::SetKeyChannels(std::vector<int16_t> channels) {
  PUREKV_CHECK(encoding_ == nullptr && static_cast<int64_t>(channels.size()) == codec_.key_channels, channels.size(),
               " channels of ", codec_.key_channels, ", or encoded entries are there");
  MakeEncoding(std::move(channels));
}

int64_t KvHead::Encode(std::span<const Position> positions, KvByteCount& bytes) {
  const int64_t there = plain();
  const int64_t count = codec_.on() ? there / codec_.residual * codec_.residual : 0;
  if (count == 0) return 0;
  // Of one piece all at once.
  const int64_t block = segments_.size() == 1 ? count : codec_.residual;
  if (encoding_ == nullptr) {
    PUREKV_CHECK(codec_.key_channels == 0, "no channels are chosen");
    MakeEncoding({});
  }
  const bool begun = !Owned(encoded_);
  if (begun) encoded_.push_back({std::make_shared<Memory>(), 0, 0});
  const int64_t before = encoded_.back().length;
  ResizeEncoded(before + count, bytes);
  Memory& memory = *encoded_.back().memory;
  Buffer rows;  // of a block that lies in several segments
  std::vector<Position> places;
  for (int64_t first = 0; first < count; first += block) {
    places.clear();
    for (int64_t i = 0; i < block && encoding_->keys.unit_positions() > 0; ++i) {
      places.push_back(positions[static_cast<size_t>(tokens_[static_cast<size_t>(encoded_length_ + first + i)])]);
    }
    for (const bool key : {true, false}) {
      const std::byte* from = PlainRow(first, key);
      if (PlainRow(first + block - 1, key) != from + (block - 1) * row_) {
        rows.Resize(static_cast<size_t>(block * row_));
        for (int64_t i = 0; i < block; ++i) {
          std::memcpy(Bytes(rows) + i * row_, PlainRow(first + i, key), static_cast<size_t>(row_));
        }
        from = Bytes(rows);
      }
      const KvSide& side = key ? encoding_->keys : encoding_->values;
      Buffer& out = key ? memory.keys : memory.values;
      if (EncodeEntries(side, from, block, Bytes(out) + side.Bytes(before + first), places)) continue;
      ResizeEncoded(before, bytes);
      if (begun) Release(encoded_, bytes);
      return -1;
    }
  }
  encoded_.back().length += count;
  encoded_length_ += count;
  // What is left of the plain ones.
  std::vector<int32_t> left(static_cast<size_t>(there - count));
  std::iota(left.begin(), left.end(), static_cast<int32_t>(count));
  if (left.empty()) {
    Release(segments_, bytes);
    capacity_ = 0;
  } else if (segments_.size() == 1 && OwnsTail()) {
    MoveRows(Bytes(segments_[0].memory->keys), left, static_cast<size_t>(row_));
    MoveRows(Bytes(segments_[0].memory->values), left, static_cast<size_t>(row_));
    segments_[0].length = there - count;
    SetCapacity(there - count, bytes);
  } else {
    Gather(left, there - count, bytes);
  }
  ListSegments();
  return count;
}

void KvHead::Decode(KvByteCount& bytes) {
  if (encoded_length_ == 0) return;
  const int64_t there = plain();
  std::vector<Segment> fresh = {{std::make_shared<Memory>(), 0, 0}};
  std::swap(fresh, segments_);
  SetCapacity(encoded_length_ + there, bytes);
  std::swap(fresh, segments_);
  Memory& memory = *fresh[0].memory;
  for (const bool key : {true, false}) {
    std::byte* to = Bytes(key ? memory.keys : memory.values);
    for (const Segment& one : encoded_) {
      DecodeEntries(key ? encoding_->keys : encoding_->values, key ? one.memory->Keys() : one.memory->Values(), 0,
                    one.length, to);
      to += one.length * row_;
    }
    for (int64_t i = 0; i < there; ++i, to += row_) std::memcpy(to, PlainRow(i, key), static_cast<size_t>(row_));
  }
  fresh[0].length = encoded_length_ + there;
  Release(encoded_, bytes);
  Release(segments_, bytes);
  encoded_length_ = 0;
  segments_ = std::move(fresh);
  ListSegments();
}

bool KvHead::KeepEncoded(std::span<const int32_t> kept, KvByteCount& bytes) {
  PUREKV_CHECK(unit() == 1 || kept.empty(), kept.size(), " of ", encoded_length_,
               " encoded entries whose groups are of ", unit());
  const auto count = static_cast<int64_t>(kept.size());
  if (kept.empty()) {
    Release(encoded_, bytes);
  } else if (encoded_.size() == 1 && Owned(encoded_)) {
    Memory& memory = *encoded_[0].memory;
    MoveRows(Bytes(memory.keys), kept, static_cast<size_t>(encoding_->keys.unit_bytes()));
    MoveRows(Bytes(memory.values), kept, static_cast<size_t>(encoding_->values.unit_bytes()));
    encoded_[0].length = count;
    // A step lets one go: not worth moving the rest at each.
    if (EncodedBytes(count) < memory.allocated() - memory.allocated() / 16) ResizeEncoded(count, bytes);
  } else {
    std::vector<Segment> before = std::exchange(encoded_, {});
    encoded_.push_back({std::make_shared<Memory>(), 0, 0});
    ResizeEncoded(count, bytes);
    Memory& memory = *encoded_[0].memory;
    size_t segment = 0;
    int64_t first = 0;  // entry of the segment's
    for (size_t i = 0; i < kept.size(); ++i) {
      while (kept[i] >= first + before[segment].length) first += before[segment++].length;
      for (const bool key : {true, false}) {
        const auto size = static_cast<size_t>((key ? encoding_->keys : encoding_->values).unit_bytes());
        const Memory& from = *before[segment].memory;
        std::memcpy(Bytes(key ? memory.keys : memory.values) + i * size,
                    static_cast<const std::byte*>(key ? from.Keys() : from.Values()) +
                        static_cast<size_t>(kept[i] - first) * size,
                    size);
      }
    }
    encoded_[0].length = count;
    Release(before, bytes);
  }
  encoded_length_ = count;
  return true;
}

void KvHead::CutEncoded(int64_t count, KvByteCount& bytes) {
  // Whole blocks stay as they are: what comes later fills one anew.
  const int64_t stay = unit() == 1 ? count : count / codec_.residual * codec_.residual;
  const int64_t rest = count - stay;
  if (rest > 0) {
    segments_.push_back({std::make_shared<Memory>(), 0, 0});
    SetCapacity(rest, bytes);
    int64_t first = 0;  // of the segment
    for (const Segment& one : encoded_) {
      const int64_t begin = std::max(stay, first), end = std::min(count, first + one.length);
      if (begin < end) {
        const Memory& memory = *one.memory;
        const auto at = static_cast<size_t>((begin - stay) * row_);
        DecodeEntries(encoding_->keys, memory.Keys(), begin - first, end - begin,
                      Bytes(segments_[0].memory->keys) + at);
        DecodeEntries(encoding_->values, memory.Values(), begin - first, end - begin,
                      Bytes(segments_[0].memory->values) + at);
      }
      first += one.length;
    }
    segments_[0].length = rest;
  }
  int64_t left = stay;
  size_t kept = 0;
  for (; kept < encoded_.size() && left > 0; ++kept) {
    Segment& one = encoded_[kept];
    one.length = std::min(one.length, left);
    left -= one.length;
  }
  for (size_t i = kept; i < encoded_.size(); ++i) bytes.Add(-encoded_[i].counted);
  encoded_.resize(kept);
  encoded_length_ = stay;
  if (encoded_.empty()) return;
  if (Owned(encoded_)) {
    ResizeEncoded(encoded_.back().length, bytes);
  } else {
    const int64_t counted = EncodedBytes(encoded_.back().length);
    bytes.Add(counted - std::exchange(encoded_.back().counted, counted));
  }
}

}  // namespace purekv
