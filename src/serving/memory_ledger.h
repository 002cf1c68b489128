// What memory is set apart for: the one budget of a scheduler's jobs and of what is kept for later ones.
#pragma once

#include <atomic>
#include <cstdint>
#include <limits>

namespace purekv {

// Any thread may call it.
class MemoryLedger {
 public:
  // bytes: of everything; 0: nothing is kept, and jobs take what they need.
  explicit MemoryLedger(int64_t bytes) : bytes_(bytes) {}

  int64_t capacity() const { return bytes_ > 0 ? bytes_ : std::numeric_limits<int64_t>::max(); }
  int64_t reserved() const { return reserved_; }  // by jobs
  // Bytes that what is kept may hold now.
  int64_t for_stores() const { return bytes_ - reserved_; }
  // Of jobs that took more than was set apart for them: a bug.
  int64_t overruns() const { return overruns_; }
  void CountOverrun() { ++overruns_; }

 private:
  friend class Reservation;
  const int64_t bytes_;
  std::atomic<int64_t> reserved_{0}, overruns_{0};
};

// A job's part of it, given back at the end.
class Reservation {
 public:
  explicit Reservation(MemoryLedger& ledger) : ledger_(ledger) {}
  ~Reservation() { Set(0); }
  Reservation(const Reservation&) = delete;
  Reservation& operator=(const Reservation&) = delete;

  void Set(int64_t bytes) {
    ledger_.reserved_ += bytes - bytes_;
    bytes_ = bytes;
  }
  int64_t bytes() const { return bytes_; }

 private:
  MemoryLedger& ledger_;
  int64_t bytes_ = 0;
};

}  // namespace purekv
