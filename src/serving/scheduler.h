// Who is served when: a queue with limits, and the one thread that drives the engine. A second thread of compute would
// only wait for the first one's cores. One job at a time, in the order in which they came.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "purekv/model.h"
#include "serving/job.h"
#include "serving/run_job.h"

namespace purekv {

struct SchedulerOptions {
  JobLimits limits;
  int64_t max_queue = 64;        // jobs that wait
  double queue_timeout_s = 900;  // what waits longer fails
};

// A job that has been taken.
class Job;

// Any thread may call it.
class Scheduler {
 public:
  Scheduler(std::shared_ptr<const Model> model, const SchedulerOptions& options);
  // Cancels what there is, and waits for it.
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // Null: the queue is full, or Drain has been called; the listener then hears nothing.
  std::shared_ptr<Job> Submit(JobRequest request, std::shared_ptr<JobListener> listener);
  // Ends it: at once while it waits, else within a step of the work that is done for it. Nothing when it has ended.
  void Cancel(const std::shared_ptr<Job>& job);
  // Fails what has waited too long; to be called now and then.
  void ExpireQueued();
  // Takes no more, and fails what waits; what runs goes on.
  void Drain();
  // The same, and ends what runs with kDraining.
  void Stop();

  int64_t waiting() const;
  int64_t running() const;
  // Seconds until a job that comes now would begin, as far as earlier ones tell.
  double ExpectedWait() const;

 private:
  using Clock = std::chrono::steady_clock;

  void Work();
  void Run(Job& job);
  // Takes out of the queue what `which` says. With the lock held.
  std::vector<std::shared_ptr<Job>> TakeQueued(const std::function<bool(const Job&)>& which);

  const std::shared_ptr<const Model> model_;
  const SchedulerOptions options_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Job>> queue_;
  std::shared_ptr<Job> running_;
  bool draining_ = false, ending_ = false;
  double seconds_of_jobs_ = 0;
  int64_t jobs_done_ = 0;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace purekv
