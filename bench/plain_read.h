// The baseline of everything that waits for memory: reading as many bytes and nothing else.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace purekv::bench {

// Adds up all bytes of the stretches in vectors, on all threads, in pieces; inside a piece several sequential streams
// side by side, which keeps more requests to memory under way than one. How many streams, in how large pieces, is tried
// out at construction. (Asking ahead in the program besides changed nothing beyond the spread.)
class PlainRead {
 public:
  // (start, bytes) each; not copied.
  explicit PlainRead(std::vector<std::pair<const char*, int64_t>> memory);
  void Run() const;
  double bytes() const { return bytes_; }
  // "8 streams in pieces of 1024 KB"
  std::string chunking() const;

 private:
  struct Plan {
    int64_t streams = 1;
    int64_t piece = 0;
  };
  void Read(const Plan& plan) const;

  std::vector<std::pair<const char*, int64_t>> memory_;
  double bytes_ = 0;
  Plan plan_;
};

}  // namespace purekv::bench
