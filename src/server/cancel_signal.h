// A flag that who waits for a descriptor can wait for too.
#pragma once

#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>

#include "base/descriptor.h"
#include "base/error.h"

namespace purekv::server {

class CancelSignal {
 public:
  CancelSignal() : event_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (event_.get() < 0) Fail("cannot create an event: too many files are open");
  }

  // Any thread, any number of times.
  void Raise() {
    raised_ = true;
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(event_.get(), &one, sizeof(one));
  }
  bool raised() const { return raised_; }
  // Readable once it is raised; nobody reads it.
  int descriptor() const { return event_.get(); }

 private:
  std::atomic<bool> raised_{false};
  Descriptor event_;
};

}  // namespace purekv::server
