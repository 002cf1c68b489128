// Throwing errors (untrusted input) and stopping on broken assumptions (our own bugs).
#pragma once

#include <sstream>
#include <string>

#include "purekv/error.h"

namespace purekv {

// Concatenates anything that can be streamed.
template <class... Args>
std::string StrCat(const Args&... args) {
  std::ostringstream out;
  (out << ... << args);
  return out.str();
}

// `text` as one line of valid UTF-8 that a terminal only shows: newlines and tabs become spaces; control characters,
// marks of text direction and bytes that are no UTF-8 (names of files are bytes) become \xNN, byte by byte. Every line
// on stderr goes through here.
std::string OneLine(const std::string& text);

// Throw Error with the arguments concatenated.
template <class... Args>
[[noreturn]] void Fail(const Args&... args) {
  throw Error(Error::Kind::kFailed, OneLine(StrCat(args...)));
}
template <class... Args>
[[noreturn]] void FailUsage(const Args&... args) {
  throw Error(Error::Kind::kUsage, OneLine(StrCat(args...)));
}

// Prints the place and the numbers to stderr and aborts: a broken assumption inside the program is never survived.
[[noreturn]] void Abort(const char* file, int line, const std::string& message);

}  // namespace purekv

#define PUREKV_CHECK(condition, ...)                                                                        \
  do {                                                                                                      \
    if (!(condition)) ::purekv::Abort(__FILE__, __LINE__, ::purekv::StrCat(#condition, ": ", __VA_ARGS__)); \
  } while (0)
