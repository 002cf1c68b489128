// Adds the seconds of its life to a sum.
#pragma once

#include <chrono>

namespace purekv {

class StageTimer {
 public:
  explicit StageTimer(double* sum) : sum_(sum), start_(std::chrono::steady_clock::now()) {}
  ~StageTimer() { *sum_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }
  StageTimer(const StageTimer&) = delete;
  StageTimer& operator=(const StageTimer&) = delete;

 private:
  double* sum_;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace purekv
