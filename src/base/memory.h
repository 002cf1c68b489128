// Memory that is really given back: pages from the system, grown without copying, counted to the byte.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

namespace purekv {

// Owns a 64-byte aligned block. Blocks of a page or more come straight from the system (mmap) and go straight back, so
// that freeing shows in the resident size at once; smaller ones come from the heap.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes) { Resize(bytes); }
  ~Buffer() { Reset(); }
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  // Grows or shrinks; the first min(old, new) bytes stay. Page blocks move by page table (mremap): nothing is copied.
  // New bytes of page blocks are zero, of heap blocks undefined. Throws Error when the system refuses.
  void Resize(size_t bytes);
  void Reset();
  void* data() { return data_; }
  const void* data() const { return data_; }
  size_t size() const { return size_; }
  // Bytes really taken from the system or the heap: `size` rounded up to what was allocated.
  size_t allocated() const { return allocated_; }
  // What `allocated` is after Resize(bytes), whatever was there before. bytes at most SIZE_MAX / 2.
  static size_t Allocation(size_t bytes);
  static constexpr size_t kPage = 4096;        // from here on allocations are whole pages
  static constexpr size_t kHeapMultiple = 64;  // below: multiples of this

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
  size_t allocated_ = 0;
  bool mapped_ = false;
};

// Gives the whole pages inside these bytes back to the system, for memory of a Buffer whose contents are not needed any
// more: what is read there afterwards is undefined, what is written stays.
void ReleasePages(void* data, size_t bytes);

// From here on the heap of each thread keeps a few megabytes of what was freed at its end, however large blocks have
// been; as it comes, that grows to 64 MB, which ReleaseHeap does not reach.
void KeepHeapSmall();
// Gives back what the heap keeps of smaller blocks that were freed. Takes a while, and nobody gets memory meanwhile.
void ReleaseHeap();

// Highest resident set size of this process so far, and the one of now, in bytes (Linux: VmHWM, VmRSS).
int64_t PeakResidentBytes();
int64_t ResidentBytes();

}  // namespace purekv
