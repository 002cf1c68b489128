// A chat that has been taken, until its answer is there: first its media, then a job of the scheduler's.
#pragma once

#include <chrono>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "server/cancel_signal.h"
#include "server/media_in_making.h"
#include "server/reply.h"
#include "serving/scheduler.h"

namespace purekv::server {

// Any thread may call it. Owned by who hears of the client's going; the answer is owned by who works on it.
class ChatFlight {
 public:
  // id, route: of the request. owner: of what is kept of it.
  ChatFlight(std::weak_ptr<Reply> reply, std::string id, std::string route, std::string owner)
      : reply_(std::move(reply)), id_(std::move(id)), route_(std::move(route)), owner_(std::move(owner)) {}

  const std::string& id() const { return id_; }
  const std::string& route() const { return route_; }
  const std::string& owner() const { return owner_; }

  // Null: it has ended.
  std::shared_ptr<Reply> reply() const { return reply_.lock(); }
  const CancelSignal& cancel() const { return cancel_; }
  // Seconds since it was taken.
  double age() const { return SecondsSince(since_); }
  // Its turn has come, to be fetched or decoded.
  void Begin() {
    const std::lock_guard lock(mutex_);
    waited_ += waits_ ? SecondsSince(waits_since_) : 0;
    waits_ = false;
  }
  // It waits for one, or for another one.
  void Wait() {
    const std::lock_guard lock(mutex_);
    waits_since_ = Clock::now();
    waits_ = true;
  }
  // Whether it waits, and has not been ended; and for how long it has waited in all.
  bool waits() const {
    const std::lock_guard lock(mutex_);
    return waits_ && !cancel_.raised();
  }
  double waited() const {
    const std::lock_guard lock(mutex_);
    return waited_ + (waits_ ? SecondsSince(waits_since_) : 0);
  }
  // Whether it has not come to the scheduler yet.
  bool before_job() const {
    const std::lock_guard lock(mutex_);
    return !submitted_;
  }
  // Becomes a job, unless it was cancelled. maker: of its media, null without. False: the scheduler takes none.
  bool Submit(JobRequest request, MediaInMaking::Maker maker, Scheduler& scheduler) {
    std::shared_ptr<JobListener> listener = reply();
    if (maker != nullptr) listener = std::make_shared<MakingListener>(std::move(listener), std::move(maker));
    const std::lock_guard lock(mutex_);
    if (cancel_.raised()) return true;
    const std::shared_ptr<Job> job = scheduler.Submit(std::move(request), std::move(listener));
    job_ = job;
    submitted_ = job != nullptr;
    return submitted_;
  }
  // Ends it with this answer, before there is a job. problem: for the log.
  void Refuse(const ApiError& error, const std::string& problem = "") {
    const auto one = reply();  // who works on it lets go of it at the signal
    cancel_.Raise();
    if (one != nullptr) one->Refuse(error, problem);
  }
  // Ends its work, wherever that is. scheduler: null while there is no job.
  void Cancel(Scheduler* scheduler) {
    cancel_.Raise();
    std::shared_ptr<Job> job;
    {
      const std::lock_guard lock(mutex_);
      job = job_.lock();
    }
    if (job != nullptr && scheduler != nullptr) scheduler->Cancel(job);
  }

 private:
  using Clock = std::chrono::steady_clock;
  static double SecondsSince(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  }

  const std::weak_ptr<Reply> reply_;
  const std::string id_, route_, owner_;
  const Clock::time_point since_ = Clock::now();
  CancelSignal cancel_;
  mutable std::mutex mutex_;
  Clock::time_point waits_since_{};
  bool waits_ = false;
  double waited_ = 0;  // before
  // Not held: it holds who holds the exchange, which may hold this long after the answer.
  std::weak_ptr<Job> job_;
  bool submitted_ = false;
};

}  // namespace purekv::server
