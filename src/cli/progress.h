// A progress bar on stderr, for people only: shown when stderr is a terminal and the work has taken about a second.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "purekv/model.h"

namespace purekv::cli {

class Progress {
 public:
  Progress();
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // For SessionOptions::progress; this object must outlive the session's calls.
  ProgressFunction Function();
  void Show(const std::string& stage, int64_t done, int64_t total);
  // Takes the bar off the terminal; call before printing anything else.
  void Clear();
  // No bar for this stage from now on: text is streamed to the same terminal.
  void Mute(const std::string& stage) { muted_ = stage; }

 private:
  using Clock = std::chrono::steady_clock;
  bool enabled_;
  bool shown_ = false;
  Clock::time_point start_ = Clock::now();
  Clock::time_point last_ = start_;
  std::string muted_;
};

}  // namespace purekv::cli
