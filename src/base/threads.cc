#include "base/threads.h"

#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <exception>
#include <fstream>
#include <mutex>
#include <set>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"

namespace purekv {
namespace {

thread_local int t_threads = 0;
thread_local bool t_inside = false;  // already in a parallel loop: run serially
thread_local const std::atomic<bool>* t_cancel = nullptr;

// How long a thread looks for work, or for the others to be done, before it sleeps. Between two loops of a decode step
// lie a few microseconds, and waking a sleeper takes ten and more: looking this long loses nothing on an idle machine.
// libgomp's default, milliseconds for each wait, loses a hundred times on a busy one: two threads beside one busy loop
// per core took up to 5.4 s for a short answer of the demo model, these 0.03 s.
constexpr std::chrono::microseconds kSpin{50};

void Pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

void FutexWait(std::atomic<uint32_t>* word, uint32_t expected) {
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, nullptr, nullptr, 0);
}

void FutexWake(std::atomic<uint32_t>* word, int threads) {
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, threads, nullptr, nullptr, 0);
}

// Looks at `done` for kSpin; whether it came true.
bool SpinUntil(const auto& done) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 16; ++i) {
      if (done()) return true;
      Pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return done();
}

int ReadSmallInt(const std::string& path) {
  std::ifstream file(path);
  int value = -1;
  file >> value;
  return file ? value : -1;
}

// Threads that are made while it lives take no signals that are sent to the process: handlers belong to threads of the
// program. And oneDNN's f32 products for AVX2 let the stack pointer point into their scratch on the heap, where a
// handler's frame would overwrite what lies below it.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    for (const int fault : {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGTRAP, SIGABRT}) sigdelset(&all, fault);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

// The helper threads of one calling thread. A job may be joined while it is open; its caller works too, closes it when
// nothing is left to begin, and waits for those who joined. A helper that does not get a core in time is thus never
// waited for.
class Team {  // NOLINT(clang-analyzer-optin.performance.Padding): words that two sides write lie apart
 public:
  Team() = default;
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;
  ~Team() {
    stop_.store(true, std::memory_order_release);
    Publish(INT_MAX);
    for (std::thread& helper : helpers_) helper.join();
  }

  // Runs `job` on the caller and at most `threads` - 1 helpers. It must end by itself once it has no work left, however
  // many of them run it, and must not throw.
  void Run(int threads, const std::function<void()>& job) {
    const auto wanted = static_cast<size_t>(threads - 1);
    while (helpers_.size() < wanted) {
      const SignalsBlocked blocked;
      try {
        helpers_.emplace_back([this, index = helpers_.size()] { Help(index); });
      } catch (const std::system_error&) {  // the system has no more threads for us: those that there are do it
        break;
      }
    }
    job_ = &job;
    wanted_ = wanted;
    state_.store(kOpen, std::memory_order_release);
    Publish(threads - 1);
    job();
    state_.fetch_and(~kOpen, std::memory_order_acq_rel);
    const auto nobody = [this] { return state_.load(std::memory_order_acquire) == 0; };
    if (SpinUntil(nobody)) return;
    while (true) {
      uint32_t state = state_.load(std::memory_order_acquire);
      if ((state & kHelpers) == 0) return;
      if ((state & kWaiting) == 0) {
        if (!state_.compare_exchange_strong(state, state | kWaiting)) continue;
        state |= kWaiting;
      }
      FutexWait(&state_, state);
    }
  }

 private:
  static constexpr uint32_t kOpen = 1U << 31;     // the job may be joined
  static constexpr uint32_t kWaiting = 1U << 30;  // its caller sleeps until the last helper has left
  static constexpr uint32_t kHelpers = kWaiting - 1;

  // Tells the helpers that something has changed.
  void Publish(int threads) {
    generation_.fetch_add(1);
    // A helper counts itself before it sleeps on the old generation: either it is seen here, or it sees the new one.
    if (sleepers_.load() > 0) FutexWake(&generation_, threads);
  }

  bool Join() {
    uint32_t state = state_.load(std::memory_order_acquire);
    while ((state & kOpen) != 0) {
      if (state_.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel)) return true;
    }
    return false;
  }

  void Leave() {
    if (state_.fetch_sub(1, std::memory_order_acq_rel) == (kWaiting | 1)) FutexWake(&state_, 1);
  }

  void Help(size_t index) {
    uint32_t seen = 0;
    while (true) {
      if (!SpinUntil([&] { return generation_.load(std::memory_order_acquire) != seen; })) {
        sleepers_.fetch_add(1);
        FutexWait(&generation_, seen);
        sleepers_.fetch_sub(1);
      }
      seen = generation_.load(std::memory_order_acquire);
      if (stop_.load(std::memory_order_acquire)) return;
      if (!Join()) continue;
      if (index < wanted_) (*job_)();  // both stand still while somebody has joined
      Leave();
    }
  }

  std::vector<std::thread> helpers_;
  const std::function<void()>* job_ = nullptr;
  size_t wanted_ = 0;  // helpers that take part
  std::atomic<bool> stop_{false};
  // Apart: the caller and the helpers write the one, all read the other.
  alignas(64) std::atomic<uint32_t> state_{0};
  alignas(64) std::atomic<uint32_t> generation_{0};
  std::atomic<int> sleepers_{0};
};

thread_local Team t_team;

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
}

int Threads() {
  if (t_threads == 0) SetThreads(PhysicalCores());
  return t_threads;
}

void ParallelFor(int64_t count, const std::function<void(int64_t)>& body) {
  const int threads = static_cast<int>(std::min<int64_t>(Threads(), count));
  const std::atomic<bool>* const cancel = t_cancel;
  const auto stop = [cancel] { return cancel != nullptr && cancel->load(std::memory_order_relaxed); };
  if (threads <= 1 || t_inside) {
    for (int64_t i = 0; i < count; ++i) {
      if (stop()) throw Cancelled();
      body(i);
    }
    return;
  }
  std::atomic<int64_t> next{0};
  std::exception_ptr failure;
  std::mutex failure_mutex;
  t_team.Run(threads, [&] {
    t_inside = true;
    for (int64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) {
      try {
        if (stop()) throw Cancelled();
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

CancelScope::CancelScope(const std::atomic<bool>* flag) : before_(std::exchange(t_cancel, flag)) {}

CancelScope::~CancelScope() {
  t_cancel = before_;
}

}  // namespace purekv
