// A job that the scheduler has taken, and how it is told that it failed.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <memory>
#include <utility>

#include "base/error.h"
#include "serving/job.h"
#include "serving/job_run.h"

namespace purekv {

class Job {
 public:
  Job(JobRequest what, std::shared_ptr<JobListener> who) : request(std::move(what)), listener(std::move(who)) {}

  // Where memory has ended it is told without words; where that cannot be, nobody is, and others are served all the
  // same.
  void Fail(JobFailure::Reason reason, const Message& message) noexcept;
  // By what has been thrown.
  void FailBy(const std::exception_ptr& thrown) noexcept;

  JobRequest request;
  std::shared_ptr<JobListener> listener;
  std::chrono::steady_clock::time_point since = std::chrono::steady_clock::now();
  std::atomic<bool> cancel{false};
  std::atomic<bool> draining{false};  // why it was cancelled
  // The engine thread's own.
  std::unique_ptr<JobRun> run;  // once it has been prepared
  int64_t known = 0;            // changes of what is kept, when it was
  int64_t overtaken = 0;        // by jobs whose memory was there

 private:
  JobFailure FailureOf(const std::exception_ptr& thrown) const;
  // failure: makes it; `reason` where that, or telling it, throws.
  void Tell(const auto& failure, JobFailure::Reason reason) noexcept;
};

// What jobs are told when the program ends.
Message JobsEnding();

}  // namespace purekv
