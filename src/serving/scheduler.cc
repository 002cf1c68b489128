#include "serving/scheduler.h"

#include <algorithm>
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

constexpr int64_t kEmbeddingsShare = 4;  // of the memory for what is kept: one part of so many

PrefixStoreOptions StoreOptionsOf(const SchedulerOptions& options, EmbeddingStore* embeddings) {
  PrefixStoreOptions store = options.prefixes;
  store.threads = options.limits.threads;
  store.others = [embeddings](int64_t most) { embeddings->Shrink(most); };
  return store;
}

Message Ending() {
  return Say("the server ends; ask again in a moment");
}

}  // namespace

Scheduler::Scheduler(std::shared_ptr<const Model> model, const SchedulerOptions& options)
    : model_(std::move(model)),
      options_(options),
      embeddings_(options.prefixes.memory / kEmbeddingsShare,
                  [this] { return options_.prefixes.memory - prefixes_.bytes(); }),
      prefixes_(model_, StoreOptionsOf(options, &embeddings_)) {
  PUREKV_CHECK(options.max_batch >= 1 && options.max_batch <= AnswerBatch::most() && options.decode_share >= 0 &&
                   options.decode_share <= 0.9,
               options.max_batch, " answers, share ", options.decode_share);
  thread_ = std::thread([this] { Work(); });
}

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
    const bool free = running_.empty() && queue_.empty();
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

std::shared_ptr<const Prefix> Scheduler::FindPrefix(const JobRequest& request) {
  if (request.cache != JobRequest::Cache::kUse) return nullptr;
  try {
    SessionOptions options;
    options.threads = options_.limits.threads;
    options.kv = request.kv;
    options.prefill = request.prefill;
    const Conversation conversation(model_, options);
    const std::optional<PrefixKey> key = PrefixKeyOf(request, conversation.PrepareChat(request.chat));
    return key ? prefixes_.Find(*key) : nullptr;
  } catch (const Error&) {
    return nullptr;
  }
}

std::vector<std::shared_ptr<const EmbeddedMedium>> Scheduler::FindEmbedded(const JobRequest& request) {
  if (request.cache != JobRequest::Cache::kUse) return {};
  return embeddings_.Find(EmbeddingKeysOf(request));
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
  for (const std::shared_ptr<Job>& job : running_) {
    job->draining = true;
    job->cancel = true;
  }
}

int64_t Scheduler::waiting() const {
  const std::lock_guard lock(mutex_);
  return static_cast<int64_t>(queue_.size());
}

int64_t Scheduler::running() const {
  const std::lock_guard lock(mutex_);
  return static_cast<int64_t>(running_.size());
}

double Scheduler::ExpectedWait() const {
  const std::lock_guard lock(mutex_);
  if (prompts_read_ == 0) return 0;
  return static_cast<double>(queue_.size() + 1) * seconds_of_reading_ / static_cast<double>(prompts_read_);
}

std::optional<double> Scheduler::SecondsPerToken() const {
  const std::lock_guard lock(mutex_);
  if (tokens_read_ == 0) return std::nullopt;
  return seconds_of_reading_ / static_cast<double>(tokens_read_);
}

void Scheduler::Work() {
  while (true) {
    std::shared_ptr<Job> next;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return ending_ || !queue_.empty() || !answering_.empty(); });
      if (queue_.empty() && answering_.empty()) return;
      const bool waits = std::any_of(answering_.begin(), answering_.end(),
                                     [](const Answering& one) { return one.run->waiting() > 0; });
      if (!queue_.empty() && !waits && batch_.size() < options_.max_batch) {
        next = std::move(queue_.front());
        queue_.pop_front();
        running_.push_back(next);
      }
    }
    if (next != nullptr) Read(next);
    Step();
  }
}

void Scheduler::Read(const std::shared_ptr<Job>& job) {
  const auto start = Clock::now();
  Answering reading{job, nullptr, Seconds(start - job->since)};
  since_ = start;
  owed_ = 0;
  int64_t tokens = 0;
  try {
    reading.run = std::make_unique<JobRun>(model_, options_.limits, job->request, job->cancel, *job->listener,
                                           prefixes_, embeddings_, [this] { return StepBetween(); });
    reading.run->Read();
    tokens = reading.run->tokens_read();
    answering_.push_back(std::move(reading));
  } catch (...) {
    Forget(*job);
    FailBy(*job, std::current_exception());
  }
  const std::lock_guard lock(mutex_);
  seconds_of_reading_ += Seconds(Clock::now() - start);
  tokens_read_ += tokens;
  ++prompts_read_;
}

double Scheduler::StepBetween() {
  const auto start = Clock::now();
  owed_ += Seconds(start - since_) * options_.decode_share / (1 - options_.decode_share);
  while (owed_ > 0 && !answering_.empty()) {
    const auto before = Clock::now();
    Step();
    owed_ -= Seconds(Clock::now() - before);
  }
  // What nobody wanted is not saved up for later.
  if (answering_.empty()) owed_ = 0;
  since_ = Clock::now();
  return Seconds(since_ - start);
}

void Scheduler::Step() {
  std::exception_ptr thrown;
  try {
    for (Answering& one : answering_) {
      while (one.run->waiting() > 0 && batch_.size() < options_.max_batch) one.run->Begin(batch_);
    }
    rows_ = batch_.size();
    batch_.Step();
  } catch (...) {
    thrown = std::current_exception();
    batch_.Clear();
  }
  for (auto one = answering_.begin(); one != answering_.end();) {
    const auto at = one++;
    if (thrown == nullptr && !at->run->ended()) continue;
    std::list<Answering> apart;
    apart.splice(apart.begin(), answering_, at);
    Job& job = *apart.front().job;
    Forget(job);
    if (thrown != nullptr) {
      FailBy(job, thrown);
    } else if (apart.front().run->cancelled()) {
      FailBy(job, std::make_exception_ptr(Cancelled()));
    } else {
      job.listener->Done(apart.front().run->Finish(apart.front().queue_s));
    }
  }
}

void Scheduler::Forget(const Job& job) {
  const std::lock_guard lock(mutex_);
  std::erase_if(running_, [&](const std::shared_ptr<Job>& one) { return one.get() == &job; });
}

void Scheduler::FailBy(Job& job, const std::exception_ptr& thrown) {
  try {
    std::rethrow_exception(thrown);
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
