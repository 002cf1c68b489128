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

// An option in a message: the path of its field (purekv/error.h), "kv.budget". A program says it in its users' words
// (the command line: cli/field_names.h has the list of all paths), so messages below cli/ never name a flag.
struct Field {
  std::string path;
};

// Puts a Message together from anything that can be streamed, Fields, other Messages and Errors.
class MessageBuilder {
 public:
  template <class T>
  void Add(const T& part) {
    text_ << part;
  }
  void Add(const Field& field);
  void Add(const Message& message);
  void Add(const Error& error) { Add(error.message()); }
  Message Take();

 private:
  void Flush();  // what was streamed since the last field, as one line

  std::ostringstream text_;
  Message message_;
};

// The arguments as one line (OneLine), the fields among them marked.
template <class... Args>
Message Say(const Args&... args) {
  MessageBuilder builder;
  (builder.Add(args), ...);
  return builder.Take();
}

// Throw Error with the arguments concatenated as Say does it. The option at fault comes first:
// FailUsage(Field("kv.budget"), " ", budget, ": out of range (0, 1]").
template <class... Args>
[[noreturn]] void Fail(const Args&... args) {
  throw Error(Error::Kind::kFailed, Say(args...));
}
template <class... Args>
[[noreturn]] void FailUsage(const Args&... args) {
  throw Error(Error::Kind::kUsage, Say(args...));
}

// Prints the place and the numbers to stderr and aborts: a broken assumption inside the program is never survived.
[[noreturn]] void Abort(const char* file, int line, const std::string& message);

}  // namespace purekv

#define PUREKV_CHECK(condition, ...)                                                                        \
  do {                                                                                                      \
    if (!(condition)) ::purekv::Abort(__FILE__, __LINE__, ::purekv::StrCat(#condition, ": ", __VA_ARGS__)); \
  } while (0)
