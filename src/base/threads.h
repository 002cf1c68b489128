// Data-parallel loops. Each thread that starts some has its own team of helpers, which sleep soon after the last loop:
// beside other work on the same cores nobody waits long for anybody. oneDNN runs inside our loops, on one thread each
// (kernels/onednn.h), so that there is no second team.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

namespace purekv {

// Physical cores this process may run on (affinity respected), at least 1.
int PhysicalCores();

// Threads that work started from the calling thread uses; a Session sets it on entry. 1 <= threads.
void SetThreads(int threads);
int Threads();

// Calls body(i) for i in [0, count), each exactly once, on up to Threads() threads, in any order. Returns when all are
// done. An exception thrown by a body is rethrown here (the first one). Nested calls run serially.
void ParallelFor(int64_t count, const std::function<void(int64_t)>& body);

// As ParallelFor over consecutive ranges of at most `grain` indices: body(begin, end).
void ParallelForRanges(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& body);

// While one lives, the loops that this thread starts end early and throw Cancelled once `flag` (may be null) is raised:
// for long work that leaves nothing half done behind, such as packing weights.
class CancelScope {
 public:
  explicit CancelScope(const std::atomic<bool>* flag);
  ~CancelScope();
  CancelScope(const CancelScope&) = delete;
  CancelScope& operator=(const CancelScope&) = delete;

 private:
  const std::atomic<bool>* before_;
};

}  // namespace purekv
