// What the engine does for one job, from its media to its last answer.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <utility>

#include "purekv/model.h"
#include "serving/job.h"

namespace purekv {

struct JobLimits {
  int threads = 0;            // of SessionOptions
  int64_t max_answer = 4096;  // tokens of an answer where the request does not say
  int64_t max_positions = 0;  // tokens of prompt and answer; at most the model's
};

// Runs it in this thread and tells the listener all but how it ended. Throws Failure below; Cancelled when `cancel` was
// raised.
JobResult RunJob(const std::shared_ptr<const Model>& model, const JobLimits& limits, const JobRequest& request,
                 const std::atomic<bool>& cancel, JobListener& listener);

// A job that failed, as an exception.
class JobFailed : public std::exception {
 public:
  explicit JobFailed(JobFailure failure) : failure_(std::move(failure)) {}
  const JobFailure& failure() const { return failure_; }
  const char* what() const noexcept override { return failure_.message.text.c_str(); }

 private:
  JobFailure failure_;
};

}  // namespace purekv
