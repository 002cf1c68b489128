// Scratch memory of a thread, kept from task to task.
#pragma once

#include <cstdint>

namespace purekv {

// At least `bytes`, 64-byte aligned, contents undefined; the calling thread's own, valid until its next call. Taking a
// fresh block from the system for each tile of a vision window cost as much as the tile. Grows to the largest request:
// about 0.4 MB for a tile of head 128, more for tests only.
char* ThreadScratch(int64_t bytes);

}  // namespace purekv
