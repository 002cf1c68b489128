#include "cli/cancel.h"

#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <vector>

namespace purekv::cli {
namespace {

// Handlers get a stack of their own: oneDNN's f32 products for AVX2 let the stack pointer point into their scratch on
// the heap, and a handler's frame written there destroyed the heap (every fourth Ctrl-C during calibrate ended in
// abort). Of the calling thread; the helpers of base/threads.h take no signals.
void UseSignalStack() {
  static std::vector<char> memory;
  if (!memory.empty()) return;
  constexpr size_t kHandler = size_t{64} << 10;
  memory.resize(static_cast<size_t>(std::max(sysconf(_SC_MINSIGSTKSZ), 0L)) + kHandler);
  stack_t stack{};
  stack.ss_sp = memory.data();
  stack.ss_size = memory.size();
  sigaltstack(&stack, nullptr);
}

std::atomic<bool> g_cancelled{false};
std::atomic<bool> g_deferred{false};
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may touch lock-free atomics only");

void OnInterrupt(int) {
  g_cancelled.store(true, std::memory_order_relaxed);
}

void Defer(int) {
  g_deferred.store(true, std::memory_order_relaxed);
}

}  // namespace

const std::atomic<bool>& CancelOnInterrupt() {
  static const bool installed = [] {
    UseSignalStack();
    struct sigaction action {};
    action.sa_handler = OnInterrupt;
    sigemptyset(&action.sa_mask);
    // The default action is back after the first: a second Ctrl-C kills, however stuck the work is.
    action.sa_flags = static_cast<int>(SA_RESETHAND) | SA_RESTART | SA_ONSTACK;
    return sigaction(SIGINT, &action, nullptr) == 0;
  }();
  (void)installed;
  return g_cancelled;
}

DeferInterrupt::DeferInterrupt() {
  UseSignalStack();
  struct sigaction action {};
  action.sa_handler = Defer;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART | SA_ONSTACK;
  sigaction(SIGINT, &action, &before_);
}

DeferInterrupt::~DeferInterrupt() {
  sigaction(SIGINT, &before_, nullptr);
  if (g_deferred.exchange(false)) raise(SIGINT);
}

}  // namespace purekv::cli
