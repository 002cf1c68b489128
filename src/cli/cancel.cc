#include "cli/cancel.h"

#include <csignal>

namespace purekv::cli {
namespace {

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
    struct sigaction action {};
    action.sa_handler = OnInterrupt;
    sigemptyset(&action.sa_mask);
    // The default action is back after the first: a second Ctrl-C kills, however stuck the work is.
    action.sa_flags = static_cast<int>(SA_RESETHAND) | SA_RESTART;
    return sigaction(SIGINT, &action, nullptr) == 0;
  }();
  (void)installed;
  return g_cancelled;
}

DeferInterrupt::DeferInterrupt() {
  struct sigaction action {};
  action.sa_handler = Defer;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, &before_);
}

DeferInterrupt::~DeferInterrupt() {
  sigaction(SIGINT, &before_, nullptr);
  if (g_deferred.exchange(false)) raise(SIGINT);
}

}  // namespace purekv::cli
