#include "cache/kv_store.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "base/error.h"
#include "kernels/kv_codec.h"

namespace purekv {

KvStore::KvStore(std::string directory, int64_t resident) : directory_(std::move(directory)), resident_(resident) {
  if (!DirectoryExists(directory_)) Fail(directory_, ": no such directory, where a cache is to be kept");
}

std::shared_ptr<const MappedFile> KvStore::Append(std::span<const std::span<const std::byte>> pieces) {
  const std::lock_guard lock(mutex_);
  if (file_ == nullptr) file_ = std::make_unique<ScratchFile>(directory_);
  return file_->Append(pieces);
}

void KvPageCache::Fetch(const KvSegment& segment, int64_t row, std::vector<KvSegment>* out) {
  const KvEncoding* const encoding = segment.encoding;
  // A block has whole units of both sides.
  const int64_t block =
      encoding == nullptr ? kBlock : std::max({kBlock, encoding->keys.unit(), encoding->values.unit()});
  const auto bytes = [&](int64_t entries, bool keys) {
    if (encoding == nullptr) return entries * row;
    const KvSide& side = keys ? encoding->keys : encoding->values;
    return (entries + side.unit() - 1) / side.unit() * side.unit_bytes();
  };
  for (int64_t at = segment.first; at < segment.first + segment.length;) {
    const int64_t begin = at / block * block;
    const int64_t end = std::min(begin + block, segment.first + segment.length);
    const int64_t whole = std::min(begin + block, segment.mapping->entries);
    const Block& held = Hold(static_cast<const char*>(segment.keys) + bytes(begin, true),
                             static_cast<const char*>(segment.values) + bytes(begin, false), bytes(whole - begin, true),
                             bytes(whole - begin, false), *segment.mapping);
    const std::byte* const memory = held.memory.get();
    out->push_back({memory, memory + held.values, end - at, encoding, at - begin});
    at = end;
  }
}

KvPageCache::Block& KvPageCache::Hold(const void* keys, const void* values, int64_t key_bytes, int64_t value_bytes,
                                      const KvMapping& mapping) {
  const Place place{mapping.id, keys};
  const int64_t behind = ScratchFile::Padded(key_bytes), size = behind + ScratchFile::Padded(value_bytes);
  if (const auto found = places_.find(place); found != places_.end()) {
    blocks_.splice(blocks_.begin(), blocks_, found->second);
    PUREKV_CHECK(found->second->values == behind && found->second->size == size, "a block of ", found->second->size,
                 " bytes, now ", size);
    found->second->used = now_;
    return *found->second;
  }
  while (bytes_ + size > most_) {
    if (blocks_.empty() || blocks_.back().used == now_) {
      FailUsage(Field{"kv.store.resident"}, " ", most_,
                ": does not hold what a step reads of one layer; more is needed, or fewer entries a step (",
                Field{"kv.attend_tokens"}, ")");
    }
    bytes_ -= blocks_.back().size;
    places_.erase(blocks_.back().at);
    blocks_.pop_back();
  }
  Block& block = blocks_.emplace_front();
  block.at = place;
  auto* const to = static_cast<std::byte*>(std::aligned_alloc(64, static_cast<size_t>(size)));
  if (to == nullptr) throw std::bad_alloc();
  block.memory.reset(to);
  block.values = behind;
  block.size = size;
  block.used = now_;
  std::memcpy(to, keys, static_cast<size_t>(key_bytes));
  std::memcpy(to + behind, values, static_cast<size_t>(value_bytes));
  DropMappedPages({static_cast<const std::byte*>(keys), static_cast<size_t>(key_bytes)}, mapping.bytes);
  DropMappedPages({static_cast<const std::byte*>(values), static_cast<size_t>(value_bytes)}, mapping.bytes);
  bytes_ += size;
  read_ += key_bytes + value_bytes;
  places_[place] = blocks_.begin();
  return block;
}

}  // namespace purekv
