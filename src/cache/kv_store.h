// A cache that is larger than memory (--kv-store file): where its entries lie, and what of them is in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/file.h"
#include "kernels/kv_view.h"

namespace purekv {

// The file that caches which share entries write to. Thread-safe.
class KvStore {
 public:
  // resident: bytes of entries that each cache may hold in memory. Throws Error where the directory is none.
  KvStore(std::string directory, int64_t resident);
  int64_t resident() const { return resident_; }
  // As ScratchFile::Append; the file is made with its first bytes.
  std::shared_ptr<const MappedFile> Append(std::span<const std::span<const std::byte>> pieces);

 private:
  std::string directory_;
  int64_t resident_;
  std::mutex mutex_;
  std::unique_ptr<ScratchFile> file_;
};

// Entries of mapped memory that are read often, copied: whole blocks of them, the least recently used out. The
// mapping's pages go back as soon as they are copied, so that what is held here is what is in memory.
class KvPageCache {
 public:
  explicit KvPageCache(int64_t most) : most_(most) {}

  // Entries that one block has, or as many as share a group of codes.
  static constexpr int64_t kBlock = 16;
  // Appends what `segment` shows to `out`, in blocks that are held here. row: bytes of a plain key, or value. Valid
  // until Begin. Throws Error (kUsage) where what has been asked for since does not fit.
  void Fetch(const KvSegment& segment, int64_t row, std::vector<KvSegment>* out);
  // Nothing that was fetched is needed any more.
  void Begin() { ++now_; }

  int64_t bytes() const { return bytes_; }
  // Copied from mappings so far.
  int64_t read() const { return read_; }

 private:
  // A stretch of entries, and where in it the block's keys lie. Not the address alone: another stretch may be mapped
  // there later.
  using Place = std::pair<int64_t, const void*>;
  struct Block {
    Place at;
    // Keys, then values. From the heap: thousands of blocks of two pages would be as many mappings.
    std::unique_ptr<std::byte, void (*)(void*)> memory{nullptr, std::free};
    int64_t values = 0, size = 0;  // where values begin, and all end
    int64_t used = 0;              // when
  };
  Block& Hold(const void* keys, const void* values, int64_t key_bytes, int64_t value_bytes, const KvMapping& mapping);

  int64_t most_;
  int64_t bytes_ = 0, read_ = 0, now_ = 0;
  std::list<Block> blocks_;  // most recently used first
  std::map<Place, std::list<Block>::iterator> places_;
};

}  // namespace purekv
