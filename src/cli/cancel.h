// Ctrl-C: the first one asks the work to stop cleanly, the second ends the process.
#pragma once

#include <atomic>

namespace purekv::cli {

// Exit status after a Ctrl-C, as shells expect: 128 + SIGINT.
constexpr int kInterrupted = 130;

// Installs the handler (once; further calls only return the flag). The flag becomes true on the first SIGINT.
const std::atomic<bool>& CancelOnInterrupt();

}  // namespace purekv::cli
