// Entries of a head that stay in a file.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "cache/kv_head.h"
#include "cache/kv_memory.h"

namespace purekv {

int64_t KvHead::Movable(int64_t block) const {
  int64_t count = 0;
  for (const Segment& one : codec_.on() ? encoded_ : segments_) count += Stays(one) ? 0 : one.length;
  return codec_.on() ? count : count / block * block;
}

std::vector<std::span<const std::byte>> KvHead::Pieces(int64_t movable, bool keys) const {
  std::vector<std::span<const std::byte>> pieces;
  const bool encoded = codec_.on();
  for (const Segment& one : encoded ? encoded_ : segments_) {
    if (Stays(one)) continue;
    const int64_t count = std::min(movable, one.length);
    movable -= count;
    if (count == 0) continue;
    const int64_t size = encoded ? (keys ? encoding_->keys : encoding_->values).Bytes(count) : count * row_;
    pieces.emplace_back(static_cast<const std::byte*>(keys ? one.memory->Keys() : one.memory->Values()),
                        static_cast<size_t>(size));
  }
  PUREKV_CHECK(movable == 0, movable, " entries are not in memory");
  return pieces;
}

void KvHead::MoveTo(int64_t movable, const void* keys, const void* values, const std::shared_ptr<const void>& hold,
                    std::span<const std::byte> mapping, KvByteCount& bytes) {
  auto memory = std::make_shared<Memory>();
  memory->file = hold;
  memory->file_keys = keys;
  memory->file_values = values;
  memory->mapping = {mapping, movable, NewStretch()};
  std::vector<Segment>& list = codec_.on() ? encoded_ : segments_;
  // Behind the last that stays, everything is in memory.
  size_t stay = 0;
  while (stay < list.size() && Stays(list[stay])) ++stay;
  std::vector<Segment> moved(list.begin() + static_cast<std::ptrdiff_t>(stay), list.end());
  list.resize(stay);
  int64_t left = -movable;
  for (const Segment& one : moved) {
    PUREKV_CHECK(!Stays(one), "a stretch in memory in front of one in a file");
    bytes.Add(-one.counted);
    left += one.length;
  }
  const int64_t counted =
      codec_.on() ? encoding_->keys.Bytes(movable) + encoding_->values.Bytes(movable) : 2 * movable * row_;
  list.push_back({std::move(memory), movable, counted});
  bytes.Add(counted);
  if (left > 0) {
    PUREKV_CHECK(!codec_.on(), left, " encoded entries stay in memory");
    // The newest ones, which do not fill a block.
    segments_.push_back({std::make_shared<Memory>(), 0, 0});
    capacity_ = 0;
    SetCapacity(left, bytes);
    Segment& tail = segments_.back();
    for (const bool key : {true, false}) {
      std::byte* to = Bytes(key ? tail.memory->keys : tail.memory->values);
      int64_t skip = movable;
      for (const Segment& one : moved) {
        const int64_t begin = std::min(skip, one.length);
        skip -= begin;
        const auto* const rows = static_cast<const std::byte*>(key ? one.memory->Keys() : one.memory->Values());
        const auto size = static_cast<size_t>((one.length - begin) * row_);
        if (size > 0) std::memcpy(to, rows + begin * row_, size);
        to += size;
      }
    }
    tail.length = left;
  } else if (!codec_.on()) {
    capacity_ = 0;
  }
  ListSegments();
}

int64_t KvHead::stored_bytes() const {
  int64_t bytes = 0;
  ForStored([&](const Segment& one, bool) { bytes += one.counted; });
  return bytes;
}

void KvHead::DropMapped() const {
  ForStored([&](const Segment& one, bool encoded) {
    for (const bool key : {true, false}) {
      const int64_t size = encoded ? (key ? encoding_->keys : encoding_->values).Bytes(one.length) : one.length * row_;
      DropMappedPages(
          {static_cast<const std::byte*>(key ? one.memory->Keys() : one.memory->Values()), static_cast<size_t>(size)},
          one.memory->mapping.bytes);
    }
  });
}

}  // namespace purekv
