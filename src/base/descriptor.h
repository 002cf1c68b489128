// File descriptors that close themselves.
#pragma once

#include <string>
#include <utility>

namespace purekv {

class Descriptor {
 public:
  // -1: none.
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  ~Descriptor() { Close(); }
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    if (this != &other) {
      Close();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  int get() const { return fd_; }
  void Close();

 private:
  int fd_;
};

// Opens `path` for reading; a named pipe does not hang. An open file of this process by its name (/proc/self/fd/N) is
// that file and not looked up: a process that may open nothing can still read what it was given. Negative, with errno,
// when it cannot.
int OpenToRead(const std::string& path);

}  // namespace purekv
