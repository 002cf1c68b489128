// The one exception type of the library.
#pragma once

#include <stdexcept>
#include <string>

namespace purekv {

// What a user, a file or a flag did wrong. `what()` is one line that names the file, flag, field or tensor, says what
// is wrong and what would be right. kUsage: the caller asked for something impossible (exit status 2 of the command
// line). kFailed: the input or the machine did not allow the work (exit status 1).
class Error : public std::runtime_error {
 public:
  enum class Kind { kUsage, kFailed };
  Error(Kind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  Kind kind() const { return kind_; }

 private:
  Kind kind_;
};

// Thrown by what has a cancel flag (loading, Session::Read and Score, measuring) when it was raised.
class Cancelled : public Error {
 public:
  Cancelled() : Error(Kind::kFailed, "cancelled") {}
};

}  // namespace purekv
