// The one exception type of the library, and the line of text that it carries.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace purekv {

// One line for people. Options are named in it by the paths of their fields in the option structs: "kv.budget" is
// KvOptions::budget, "kv.option.sources" the key `sources` of KvOptions::options. Where these paths stand is known, so
// that a program whose users know an option by another name (a flag, a key of a request) can say that one.
struct Message {
  struct Field {
    size_t begin = 0, size = 0;  // bytes of `text`
  };
  std::string text;
  std::vector<Field> fields;  // ascending, without overlap

  // Path of the option that the line begins with, the one at fault; empty: it begins with something else, as with a
  // file's name.
  std::string field() const;
  // `text` with name(path) in place of every path.
  std::string Naming(const std::function<std::string(const std::string& path)>& name) const;
};

// What a user, a file or an option did wrong. `what()` is one line that names the file, field or tensor, says what is
// wrong and what would be right. kUsage: the caller asked for something impossible (exit status 2 of the command line).
// kFailed: the input or the machine did not allow the work (exit status 1).
class Error : public std::runtime_error {
 public:
  enum class Kind { kUsage, kFailed };
  Error(Kind kind, const std::string& text) : Error(kind, Message{text, {}}) {}
  Error(Kind kind, Message message)
      : std::runtime_error(message.text), kind_(kind), message_(std::make_shared<const Message>(std::move(message))) {}

  Kind kind() const { return kind_; }
  // what(), and where it names options.
  const Message& message() const { return *message_; }
  // Message::field of it.
  std::string field() const { return message_->field(); }

 private:
  Kind kind_;
  std::shared_ptr<const Message> message_;  // shared: an exception must be copied without throwing
};

// Thrown by what has a cancel flag (loading, Session::Read and Score, measuring) when it was raised.
class Cancelled : public Error {
 public:
  Cancelled() : Error(Kind::kFailed, "cancelled") {}
};

}  // namespace purekv
