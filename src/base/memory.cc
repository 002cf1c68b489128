#include "base/memory.h"

#include <malloc.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "base/error.h"

namespace purekv {
namespace {

// ThreadSanitizer does not see mremap: what another thread did at the new place, before it gave it back, would look
// like a race. Its builds copy.
#ifdef __SANITIZE_THREAD__
constexpr bool kMovesPages = false;
#else
constexpr bool kMovesPages = true;
#endif

constexpr size_t kPage = Buffer::kPage;
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kAlign = Buffer::kHeapMultiple;

size_t RoundUp(size_t n, size_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

int64_t StatusField(const char* field) {
  std::FILE* file = std::fopen("/proc/self/status", "r");
  if (file == nullptr) return 0;
  char line[256];
  int64_t kib = 0;
  const size_t length = std::strlen(field);
  while (std::fgets(line, sizeof(line), file) != nullptr) {
    if (std::strncmp(line, field, length) == 0) {
      kib = std::strtoll(line + length, nullptr, 10);
      break;
    }
  }
  std::fclose(file);
  return kib * 1024;
}

}  // namespace

void ReleasePages(void* data, size_t bytes) {
  const auto address = reinterpret_cast<uintptr_t>(data);
  const uintptr_t begin = RoundUp(address, kPage);
  const uintptr_t end = (address + bytes) / kPage * kPage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

void KeepHeapSmall() {
  constexpr int kMapFrom = 4 << 20, kKept = 8 << 20;
  mallopt(M_MMAP_THRESHOLD, kMapFrom);
  mallopt(M_TRIM_THRESHOLD, kKept);
}

void ReleaseHeap() {
  malloc_trim(0);
}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  if (this != &other) {
    Reset();
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
    allocated_ = std::exchange(other.allocated_, 0);
    mapped_ = std::exchange(other.mapped_, false);
  }
  return *this;
}

void Buffer::Reset() {
  if (mapped_) {
    munmap(data_, allocated_);
  } else {
    std::free(data_);
  }
  data_ = nullptr;
  size_ = allocated_ = 0;
  mapped_ = false;
}

size_t Buffer::Allocation(size_t bytes) {
  return RoundUp(bytes, bytes >= kPage ? kPage : kAlign);
}

void Buffer::Resize(size_t bytes) {
  if (bytes == 0) {
    Reset();
    return;
  }
  if (bytes > SIZE_MAX / 2) Fail("memory: cannot allocate ", bytes, " bytes");
  const bool map = bytes >= kPage;
  const size_t allocate = Allocation(bytes);
  if (data_ != nullptr && mapped_ == map && allocate == allocated_) {
    size_ = bytes;
    return;
  }
  if (kMovesPages && data_ != nullptr && mapped_ && map) {
    void* moved = mremap(data_, allocated_, allocate, MREMAP_MAYMOVE);
    if (moved == MAP_FAILED) Fail("memory: the system refused ", allocate, " bytes: ", std::strerror(errno));
    data_ = moved;
  } else {
    void* fresh = nullptr;
    if (map) {
      fresh = mmap(nullptr, allocate, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (fresh == MAP_FAILED) Fail("memory: the system refused ", allocate, " bytes: ", std::strerror(errno));
    } else {
      fresh = std::aligned_alloc(kAlign, allocate);
      if (fresh == nullptr) Fail("memory: cannot allocate ", allocate, " bytes");
    }
    const size_t keep = std::min(size_, bytes);
    if (keep > 0) std::memcpy(fresh, data_, keep);
    Reset();
    data_ = fresh;
    mapped_ = map;
  }
  // Large blocks are weights and activations, read in full: huge pages save TLB misses. A hint; its failure is
  // harmless.
  if (map && allocate >= 8 * kHugePage) madvise(data_, allocate, MADV_HUGEPAGE);
  size_ = bytes;
  allocated_ = allocate;
}

int64_t PeakResidentBytes() {
  return StatusField("VmHWM:");
}
int64_t ResidentBytes() {
  return StatusField("VmRSS:");
}

}  // namespace purekv
