#include "base/threads.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <fstream>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#ifdef PUREKV_OPENMP
#include <omp.h>
#endif

#include "base/error.h"

namespace purekv {
namespace {

thread_local int t_threads = 0;
thread_local bool t_inside = false;  // already in a parallel loop: run serially

int ReadSmallInt(const std::string& path) {
  std::ifstream file(path);
  int value = -1;
  file >> value;
  return file ? value : -1;
}

// Runs `worker` on `threads` threads, the caller's among them.
void RunTeam(int threads, const std::function<void()>& worker) {
#ifdef PUREKV_OPENMP
#pragma omp parallel num_threads(threads)
  worker();
#else
  std::vector<std::thread> team;
  team.reserve(static_cast<size_t>(threads - 1));
  for (int i = 1; i < threads; ++i) team.emplace_back(worker);
  worker();
  for (auto& thread : team) thread.join();
#endif
}

}  // namespace

int PhysicalCores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) {
    return static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  }
  std::set<std::pair<int, int>> cores;  // (package, core): hyper-threads of one core count once
  int logical = 0;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &set)) continue;
    ++logical;
    const std::string topology = "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
    const int package = ReadSmallInt(topology + "physical_package_id");
    const int core = ReadSmallInt(topology + "core_id");
    if (package < 0 || core < 0) {
      cores.insert({-1, cpu});
    } else {
      cores.insert({package, core});
    }
  }
  return std::max(1, std::min(logical, static_cast<int>(cores.size())));
}

void SetThreads(int threads) {
  PUREKV_CHECK(threads >= 1, threads);
  t_threads = threads;
#ifdef PUREKV_OPENMP
  omp_set_num_threads(threads);  // what oneDNN asks for; a setting of the calling thread only
#endif
}

int Threads() {
  if (t_threads == 0) SetThreads(PhysicalCores());
  return t_threads;
}

void ParallelFor(int64_t count, const std::function<void(int64_t)>& body) {
  const int threads = static_cast<int>(std::min<int64_t>(Threads(), count));
  if (threads <= 1 || t_inside) {
    for (int64_t i = 0; i < count; ++i) body(i);
    return;
  }
  std::atomic<int64_t> next{0};
  std::exception_ptr failure;
  std::mutex failure_mutex;
  RunTeam(threads, [&] {
    t_inside = true;
    for (int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) {
      try {
        body(i);
      } catch (...) {
        std::lock_guard<std::mutex> lock(failure_mutex);
        if (!failure) failure = std::current_exception();
        next.store(count);
      }
    }
    t_inside = false;
  });
  if (failure) std::rethrow_exception(failure);
}

void ParallelForRanges(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& body) {
  PUREKV_CHECK(grain >= 1, grain);
  ParallelFor((count + grain - 1) / grain, [&](int64_t i) { body(i * grain, std::min(count, (i + 1) * grain)); });
}

}  // namespace purekv
