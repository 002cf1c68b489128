// Ctrl-C: the first one asks the work to stop cleanly, the second ends the process.
#pragma once

#include <signal.h>

#include <atomic>

namespace purekv::cli {

// Exit status after a Ctrl-C, as shells expect: 128 + SIGINT.
constexpr int kInterrupted = 130;

// Installs the handler (once; further calls only return the flag). The flag becomes true on the first SIGINT.
const std::atomic<bool>& CancelOnInterrupt();

// While it lives a Ctrl-C is put off; at its end it has the effect that it would have had. One at a time.
class DeferInterrupt {
 public:
  DeferInterrupt();
  ~DeferInterrupt();
  DeferInterrupt(const DeferInterrupt&) = delete;
  DeferInterrupt& operator=(const DeferInterrupt&) = delete;

 private:
  struct sigaction before_ {};
};

}  // namespace purekv::cli
