// Who is served when: a queue with limits, and the one thread that drives the engine. A second thread of compute would
// only wait for the first one's cores. One prompt is read at a time: reading is bound by compute, and two at once would
// double the peak and delay the first. Clients take turns, each one's jobs in the order in which they came; those that
// go on from what has been read come first. A job begins when the memory that it may take is there, so that what has
// begun is never stopped for want of it; what is kept for later jobs makes room. Answers grow side by side, a token
// each at a step, also between the blocks of a prompt that is being read; so are prompts of which little is left.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "engine/answer_batch.h"
#include "purekv/model.h"
#include "serving/embedding_store.h"
#include "serving/job.h"
#include "serving/job_run.h"
#include "serving/memory_ledger.h"
#include "serving/prefix_store.h"
#include "serving/session_store.h"

namespace purekv {

struct SchedulerOptions {
  JobLimits limits;
  int64_t max_queue = 64;        // jobs that wait; while others wait a client may have half of the places
  double queue_timeout_s = 900;  // what waits longer fails
  int64_t max_batch = 8;         // answers that grow side by side, at most AnswerBatch::most()
  // memory: of embeddings, too, which make way for prefixes and take a quarter at most, and of what jobs take; 0: jobs
  // take what they need, and nothing is kept. threads, limit: of the scheduler.
  PrefixStoreOptions prefixes;
  double session_ttl_s = 900;  // sessions that nobody goes on with end
  double decode_share = 0.5;   // of the time while a prompt is read that answers of others get, [0, 0.9]
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
  // Fails what has waited too long, and ends sessions; to be called now and then.
  void Expire();
  // Takes no more, and fails what waits; what runs goes on.
  void Drain();
  // The same, and ends what runs with kDraining.
  void Stop();

  PrefixStore& prefixes() { return prefixes_; }
  // Lets go a prefix, and what the tower has made of its media. False: this owner has none of this id.
  bool ForgetPrefix(const std::string& id, const std::string& owner);
  const SessionStore& sessions() const { return sessions_; }
  const EmbeddingStore& embeddings() const { return embeddings_; }
  // What has been read of this chat before and may be used, so that nobody needs to look at its media. Null: nothing,
  // or what is wrong with the request, which its job will be told.
  std::shared_ptr<const Prefix> FindPrefix(const JobRequest& request);
  // What the tower has made of all its media before, where that may be used; empty: not all of them.
  std::vector<std::shared_ptr<const EmbeddedMedium>> FindEmbedded(const JobRequest& request);
  int64_t waiting() const;
  int64_t running() const;
  const MemoryLedger& ledger() const { return ledger_; }
  int64_t rows() const { return rows_; }  // of the last step of decoding
  // Seconds until a job that comes now would begin, as far as earlier ones tell.
  double ExpectedWait() const;
  // Of reading a prompt; nothing until one has been read.
  std::optional<double> SecondsPerToken() const;

 private:
  using Clock = std::chrono::steady_clock;

  // A job whose prompt has been read.
  struct Answering {
    std::shared_ptr<Job> job;
    std::unique_ptr<JobRun> run;
    double queue_s = 0;
  };

  using Jobs = std::list<std::shared_ptr<Job>>;  // from one to another without memory that there might not be

  void Work();
  // Jobs in the order in which they would be read. With the lock held.
  std::vector<std::shared_ptr<Job>> InOrder() const;
  // The next job whose memory is there, out of the queue, ready to be read. Null: there is none now.
  std::shared_ptr<Job> NextToRead();
  // NextToRead; where that cannot be found out the first of the queue fails, so that the others come nearer.
  std::shared_ptr<Job> NextOrFail() noexcept;
  // The same of those that another prompt can be interrupted for.
  std::shared_ptr<Job> NextShort();
  // Whether one more prompt may be read now: its answers find room.
  bool MayRead() const;
  // Out of the queue, into what runs. False: it has been cancelled.
  bool Start(const std::shared_ptr<Job>& job);
  // Whether the memory of one that has been prepared is there; what is kept makes room. False, too: it has been failed,
  // and has no run.
  bool Admits(const std::shared_ptr<Job>& job);
  bool MakeRoom(int64_t bytes);
  // False: it has been failed, or somebody has cancelled it. In the queue.
  bool Prepare(const std::shared_ptr<Job>& job);
  bool TakeOut(const std::shared_ptr<Job>& job);
  void Read(const std::shared_ptr<Job>& job);
  // As many steps as the time since the last call owes the answers. Returns the seconds that they took.
  double StepBetween();
  // Answers that have not begun and fit join; then a token for each; jobs whose answers have ended are told.
  void Step();
  // Tells those that were taken out of the queue; what they had been prepared with goes in the engine's thread.
  void End(Jobs taken, JobFailure::Reason reason, const Message& message);
  void LetGoOfEnded();
  // Of running_.
  void Forget(const Job& job);
  // Takes out of the queue what `which` says. With the lock held.
  Jobs TakeQueued(const std::function<bool(const Job&)>& which);

  const std::shared_ptr<const Model> model_;
  const SchedulerOptions options_;
  MemoryLedger ledger_;
  EmbeddingStore embeddings_;
  PrefixStore prefixes_;
  SessionStore sessions_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  Jobs queue_;
  Jobs ended_;                                 // while they waited; what they had been prepared with is still there
  std::vector<std::string> served_;            // clients that wait, the one whose turn was last at the end
  std::vector<std::shared_ptr<Job>> running_;  // their prompt is being read, or their answers grow
  bool draining_ = false, ending_ = false;
  double seconds_of_reading_ = 0;
  int64_t prompts_read_ = 0, tokens_read_ = 0;
  // The engine thread's own.
  AnswerBatch batch_;
  std::atomic<int64_t> rows_{0};
  std::list<Answering> answering_;
  Clock::time_point since_;     // when other work than the answers' began
  double owed_ = 0;             // seconds that the answers may have before it goes on
  bool interruptible_ = false;  // the prompt that is being read is a long one, and no other is read in between
  std::thread thread_;          // last: it uses all of the above
};

}  // namespace purekv
