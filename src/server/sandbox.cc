#include "server/sandbox.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <vector>

#include "base/error.h"

namespace purekv::server {
namespace {

constexpr int kNiceness = 5;

#if defined(__x86_64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_AARCH64;
#else
constexpr uint32_t kArchitecture = 0;
#endif

// Reading and writing what is open, memory, threads, time, and the way out. (glibc's fstat is newfstatat.)
constexpr long kAllowed[] = {SYS_read,
                             SYS_write,
                             SYS_pread64,
                             SYS_pwrite64,
                             SYS_readv,
                             SYS_writev,
                             SYS_lseek,
                             SYS_close,
                             SYS_fstat,
                             SYS_newfstatat,
                             SYS_fcntl,
                             SYS_dup,
                             SYS_mmap,
                             SYS_munmap,
                             SYS_mremap,
                             SYS_mprotect,
                             SYS_madvise,
                             SYS_brk,
                             SYS_futex,
                             SYS_sched_yield,
                             SYS_sched_getaffinity,
                             SYS_set_robust_list,
                             SYS_rseq,
                             SYS_membarrier,
                             SYS_getpid,
                             SYS_gettid,
                             SYS_getrandom,
                             SYS_clock_gettime,
                             SYS_clock_getres,
                             SYS_clock_nanosleep,
                             SYS_nanosleep,
                             SYS_gettimeofday,
                             SYS_rt_sigaction,
                             SYS_rt_sigprocmask,
                             SYS_rt_sigreturn,
                             SYS_sigaltstack,
                             SYS_restart_syscall,
                             SYS_exit,
                             SYS_exit_group};

class Filter {
 public:
  void Add(uint16_t code, uint32_t value, uint8_t if_true = 0, uint8_t if_false = 0) {
    lines_.push_back({code, if_true, if_false, value});
  }
  void Return(uint32_t what) { Add(BPF_RET | BPF_K, what); }
  void Load(size_t offset) { Add(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(offset)); }
  void Allow(long call) {
    Add(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(call), 0, 1);
    Return(SECCOMP_RET_ALLOW);
  }
  // Allows the call where `mask` leaves `value` of the lower half of its argument `index`.
  void AllowWhere(long call, int index, uint32_t mask, uint32_t value) {
    Add(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(call), 0, 5);
    Load(offsetof(seccomp_data, args) + static_cast<size_t>(index) * sizeof(uint64_t));  // both are little-endian
    Add(BPF_ALU | BPF_AND | BPF_K, mask);
    Add(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1);
    Return(SECCOMP_RET_ALLOW);
    Load(offsetof(seccomp_data, nr));
  }
  std::vector<sock_filter>& lines() { return lines_; }

 private:
  std::vector<sock_filter> lines_;
};

Filter MakeFilter() {
  Filter filter;
  filter.Load(offsetof(seccomp_data, arch));
  filter.Add(BPF_JMP | BPF_JEQ | BPF_K, kArchitecture, 1, 0);
  filter.Return(SECCOMP_RET_KILL_PROCESS);
  filter.Load(offsetof(seccomp_data, nr));
  for (const long call : kAllowed) filter.Allow(call);
  constexpr uint32_t kThread = CLONE_VM | CLONE_THREAD, kAll = UINT32_MAX;
  filter.AllowWhere(SYS_clone, 0, kThread, kThread);
  filter.AllowWhere(SYS_prctl, 0, kAll, PR_SET_NAME);
  filter.AllowWhere(SYS_prlimit64, 0, kAll, 0);  // of this process: pthread_create asks for the size of stacks
  // Its flags lie in memory, where no filter looks; without it the C library takes clone.
  filter.Add(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 0, 1);
  filter.Return(SECCOMP_RET_ERRNO | ENOSYS);
  filter.Return(SECCOMP_RET_ERRNO | EPERM);
  return filter;
}

void SetLimit(__rlimit_resource_t which, rlim_t value, const char* what) {
  struct rlimit limit {};
  if (getrlimit(which, &limit) != 0) Fail(what, ": cannot be asked for: ", std::strerror(errno));
  limit.rlim_max = std::min(limit.rlim_max, value);
  limit.rlim_cur = limit.rlim_max;
  if (setrlimit(which, &limit) != 0) Fail(what, ": cannot be set: ", std::strerror(errno));
}

}  // namespace

void EndWithParent(int64_t parent) {
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent) _exit(1);
}

void LimitProcessor(double seconds) {
  SetLimit(RLIMIT_CPU, static_cast<rlim_t>(std::ceil(seconds)), "the limit of processor time");
  SetLimit(RLIMIT_CORE, 0, "the limit of core dumps");
  // Where it is behind others already, it stays there.
  errno = 0;
  const int now = getpriority(PRIO_PROCESS, 0);
  if (errno == 0 && now < kNiceness) setpriority(PRIO_PROCESS, 0, kNiceness);
}

void LimitMemory(int64_t bytes) {
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
  return;
#endif
#endif
  int64_t pages = 0;
  std::FILE* const file = std::fopen("/proc/self/statm", "re");
  const bool told = file != nullptr && std::fscanf(file, "%ld", &pages) == 1;
  if (file != nullptr) std::fclose(file);
  if (!told) Fail("/proc/self/statm: cannot be read");
  SetLimit(RLIMIT_AS, static_cast<rlim_t>(pages * sysconf(_SC_PAGESIZE) + bytes), "the limit of memory");
#else
  (void)bytes;
#endif
}

void ForbidAllButComputing() {
#if defined(__SANITIZE_ADDRESS__)
  return;  // the sanitizer opens files when threads begin
#endif
  if (kArchitecture == 0) Fail("seccomp: no filter for this processor's calls");
  Filter filter = MakeFilter();
  const sock_fprog program{static_cast<unsigned short>(filter.lines().size()), filter.lines().data()};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
    Fail("seccomp: cannot be set up: ", std::strerror(errno));
  }
}

}  // namespace purekv::server
