// How much memory a process may still take.
#pragma once

#include <cstdint>

namespace purekv {

// Bytes: what the system has to give without swapping (MemAvailable), or the rest of the control group's limit where
// that is less. 0 where nothing tells.
int64_t AvailableMemory();

}  // namespace purekv
