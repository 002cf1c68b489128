// What the system refused: no descriptors, no memory, no permission, a disk that does not answer. It says nothing of
// the input, and may pass.
#pragma once

#include <cstring>

#include "base/error.h"

namespace purekv {

// Of a file that is there (base/file.h): it could not be opened, read or mapped.
class Refused : public Error {
 public:
  using Error::Error;
};

// Throws Refused: the arguments, and what the system calls the reason.
template <class... Args>
[[noreturn]] void FailRefused(int reason, const Args&... args) {
  throw Refused(Error::Kind::kFailed, Say(args..., ": ", std::strerror(reason)));
}

}  // namespace purekv
