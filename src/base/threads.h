// Data-parallel loops. One pool (OpenMP's) serves our kernels and oneDNN, so that the two never compete for cores.
#pragma once

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

}  // namespace purekv
