#include "attention/scratch.h"

#include "base/memory.h"

namespace purekv {

char* ThreadScratch(int64_t bytes) {
  static thread_local Buffer buffer;
  if (buffer.size() < static_cast<size_t>(bytes)) buffer.Resize(static_cast<size_t>(bytes));
  return static_cast<char*>(buffer.data());
}

}  // namespace purekv
