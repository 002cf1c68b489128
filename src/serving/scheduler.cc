#include "serving/scheduler.h"

#include <exception>
#include <utility>

#include "base/error.h"

namespace purekv {

class Job {
 public:
  Job(JobRequest what, std::shared_ptr<JobListener> who) : request(std::move(what)), listener(std::move(who)) {}

  void Fail(JobFailure::Reason reason, Message message) {
    listener->Failed({reason, std::move(message), std::nullopt});
  }

  JobRequest request;
  std::shared_ptr<JobListener> listener;
  std::chrono::steady_clock::time_point since = std::chrono::steady_clock::now();
  std::atomic<bool> cancel{false};
  std::atomic<bool> draining{false};  // why it was cancelled
};

namespace {

using Reason = JobFailure::Reason;

double Seconds(std::chrono::steady_clock::duration time) {
  return std::chrono::duration<double>(time).count();
}

void FailAll(const std::vector<std::shared_ptr<Job>>& jobs, Reason reason, const Message& message) {
  for (const std::shared_ptr<Job>& job : jobs) job->Fail(reason, message);
}

Message Ending() {
  return Say("the server ends; ask again in a moment");
}

}  // namespace

Scheduler::Scheduler(std::shared_ptr<const Model> model, const SchedulerOptions& options)
    : model_(std::move(model)), options_(options), thread_([this] { Work(); }) {}

Scheduler::~Scheduler() {
  Stop();
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

std::shared_ptr<Job> Scheduler::Submit(JobRequest request, std::shared_ptr<JobListener> listener) {
  auto job = std::make_shared<Job>(std::move(request), std::move(listener));
  {
    const std::lock_guard lock(mutex_);
    // What runs does not wait: a queue of no places still serves one after another.
    const bool free = running_ == nullptr && queue_.empty();
    if (draining_ || (!free && static_cast<int64_t>(queue_.size()) >= options_.max_queue)) return nullptr;
    queue_.push_back(job);
  }
  changed_.notify_one();
  return job;
}

std::vector<std::shared_ptr<Job>> Scheduler::TakeQueued(const std::function<bool(const Job&)>& which) {
  std::vector<std::shared_ptr<Job>> taken;
  for (auto at = queue_.begin(); at != queue_.end();) {
    if (!which(**at)) {
      ++at;
      continue;
    }
    taken.push_back(std::move(*at));
    at = queue_.erase(at);
  }
  return taken;
}

void Scheduler::Cancel(const std::shared_ptr<Job>& job) {
  job->cancel = true;
  std::vector<std::shared_ptr<Job>> taken;
  {
    const std::lock_guard lock(mutex_);
    taken = TakeQueued([&](const Job& one) { return &one == job.get(); });
  }
  FailAll(taken, Reason::kCancelled, Say("cancelled"));
}

void Scheduler::ExpireQueued() {
  std::vector<std::shared_ptr<Job>> taken;
  {
    const std::lock_guard lock(mutex_);
    const auto now = Clock::now();
    taken = TakeQueued([&](const Job& one) { return Seconds(now - one.since) > options_.queue_timeout_s; });
  }
  FailAll(taken, Reason::kQueueTimeout, Say("no turn came in ", options_.queue_timeout_s, " s of waiting"));
}

void Scheduler::Drain() {
  std::vector<std::shared_ptr<Job>> taken;
  {
    const std::lock_guard lock(mutex_);
    draining_ = true;
    taken = TakeQueued([](const Job&) { return true; });
  }
  FailAll(taken, Reason::kDraining, Ending());
}

void Scheduler::Stop() {
  Drain();
  const std::lock_guard lock(mutex_);
  if (running_ == nullptr) return;
  running_->draining = true;
  running_->cancel = true;
}

int64_t Scheduler::waiting() const {
  const std::lock_guard lock(mutex_);
  return static_cast<int64_t>(queue_.size());
}

int64_t Scheduler::running() const {
  const std::lock_guard lock(mutex_);
  return running_ == nullptr ? 0 : 1;
}

double Scheduler::ExpectedWait() const {
  const std::lock_guard lock(mutex_);
  if (jobs_done_ == 0) return 0;
  const double before = static_cast<double>(queue_.size()) + (running_ == nullptr ? 0 : 1);
  return before * seconds_of_jobs_ / static_cast<double>(jobs_done_);
}

void Scheduler::Work() {
  while (true) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return ending_ || !queue_.empty(); });
      if (queue_.empty()) return;
      running_ = std::move(queue_.front());
      queue_.pop_front();
    }
    const auto start = Clock::now();
    Run(*running_);
    const std::lock_guard lock(mutex_);
    seconds_of_jobs_ += Seconds(Clock::now() - start);
    ++jobs_done_;
    running_ = nullptr;
  }
}

void Scheduler::Run(Job& job) {
  const double waited = Seconds(Clock::now() - job.since);
  try {
    JobResult result = RunJob(model_, options_.limits, job.request, job.cancel, *job.listener);
    result.queue_s = waited;
    job.listener->Done(result);
  } catch (const Cancelled&) {
    const bool draining = job.draining;
    job.Fail(draining ? Reason::kDraining : Reason::kCancelled, draining ? Ending() : Say("cancelled"));
  } catch (const JobFailed& failed) {
    job.listener->Failed(failed.failure());
  } catch (const std::bad_alloc&) {
    job.Fail(Reason::kInternal, Say("out of memory"));
  } catch (const std::exception& error) {
    job.Fail(Reason::kInternal, Say(error.what()));
  }
}

}  // namespace purekv
