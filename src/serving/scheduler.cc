#include "serving/scheduler.h"

#include <algorithm>
#include <new>
#include <tuple>
#include <utility>

#include "base/error.h"
#include "serving/taken_job.h"

namespace purekv {
namespace {

using Reason = JobFailure::Reason;

double Seconds(std::chrono::steady_clock::duration time) {
  return std::chrono::duration<double>(time).count();
}

constexpr int64_t kMostOvertaken = 8;    // then nobody begins before it does
constexpr int64_t kEmbeddingsShare = 4;  // of the memory for what is kept: one part of so many

PrefixStoreOptions StoreOptionsOf(const SchedulerOptions& options, const MemoryLedger& ledger,
                                  EmbeddingStore* embeddings) {
  PrefixStoreOptions store = options.prefixes;
  store.threads = options.limits.threads;
  store.limit = [&ledger] { return ledger.for_stores(); };
  store.others = [embeddings](int64_t most) { embeddings->Shrink(most); };
  return store;
}

}  // namespace

Scheduler::Scheduler(std::shared_ptr<const Model> model, const SchedulerOptions& options)
    : model_(std::move(model)),
      options_(options),
      ledger_(options.prefixes.memory),
      embeddings_(options.prefixes.memory / kEmbeddingsShare,
                  [this] { return ledger_.for_stores() - prefixes_.bytes(); }),
      prefixes_(model_, StoreOptionsOf(options, ledger_, &embeddings_)) {
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
    const auto mine = std::count_if(queue_.begin(), queue_.end(),
                                    [&](const auto& one) { return one->request.client == job->request.client; });
    const bool others = mine < static_cast<int64_t>(queue_.size());
    if (others && mine >= std::max<int64_t>(1, options_.max_queue / 2)) return nullptr;
    queue_.push_back(job);
  }
  changed_.notify_one();
  return job;
}

Scheduler::Jobs Scheduler::TakeQueued(const std::function<bool(const Job&)>& which) {
  Jobs taken;
  for (auto at = queue_.begin(); at != queue_.end();) {
    const auto one = at++;
    if (which(**one)) taken.splice(taken.end(), queue_, one);
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
    return key && !key->whole ? prefixes_.Find(*key) : nullptr;
  } catch (const Error&) {
    return nullptr;
  }
}

std::vector<std::shared_ptr<const EmbeddedMedium>> Scheduler::FindEmbedded(const JobRequest& request) {
  if (request.cache != JobRequest::Cache::kUse) return {};
  return embeddings_.Find(EmbeddingKeysOf(request));
}

bool Scheduler::ForgetPrefix(const std::string& id, const std::string& owner) {
  const auto listed = prefixes_.Named(id, owner);
  if (!listed || !prefixes_.Remove(id, owner)) return false;
  const PrefixKey& key = listed->record->key;
  for (const PrefixKey::Medium& medium : key.media) embeddings_.Forget(key.owner, key.salt, medium);
  return true;
}

void Scheduler::End(Jobs taken, Reason reason, const Message& message) {
  for (const std::shared_ptr<Job>& job : taken) job->Fail(reason, message);
  {
    const std::lock_guard lock(mutex_);
    ended_.splice(ended_.end(), taken);
  }
  changed_.notify_one();
}

void Scheduler::LetGoOfEnded() {
  Jobs ended;
  {
    const std::lock_guard lock(mutex_);
    ended.swap(ended_);
  }
  for (const std::shared_ptr<Job>& job : ended) job->run.reset();
}

void Scheduler::Cancel(const std::shared_ptr<Job>& job) {
  job->cancel = true;
  const Message message = Say("cancelled");
  Jobs taken;
  {
    const std::lock_guard lock(mutex_);
    taken = TakeQueued([&](const Job& one) { return &one == job.get(); });
  }
  End(std::move(taken), Reason::kCancelled, message);
}

void Scheduler::Expire() {
  sessions_.Expire(options_.session_ttl_s);
  const Message message = Say("no turn came in ", options_.queue_timeout_s, " s of waiting");
  Jobs taken;
  {
    const std::lock_guard lock(mutex_);
    const auto now = Clock::now();
    taken = TakeQueued([&](const Job& one) { return Seconds(now - one.since) > options_.queue_timeout_s; });
  }
  End(std::move(taken), Reason::kQueueTimeout, message);
}

void Scheduler::Drain() {
  const Message message = JobsEnding();
  Jobs taken;
  {
    const std::lock_guard lock(mutex_);
    draining_ = true;
    taken = TakeQueued([](const Job&) { return true; });
  }
  End(std::move(taken), Reason::kDraining, message);
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
    bool may_read = false;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return ending_ || !queue_.empty() || !answering_.empty() || !ended_.empty(); });
      if (queue_.empty() && answering_.empty() && ended_.empty()) return;
      may_read = !queue_.empty() && MayRead();
    }
    LetGoOfEnded();
    if (const std::shared_ptr<Job> next = may_read ? NextOrFail() : nullptr) Read(next);
    Step();
  }
}

std::vector<std::shared_ptr<Job>> Scheduler::InOrder() const {
  // Whose turn it is: those who have not been served since they came, then the one served longest ago.
  const auto turn = [&](const std::string& client) {
    const auto at = std::find(served_.begin(), served_.end(), client);
    return at == served_.end() ? -1 : at - served_.begin();
  };
  struct Place {
    bool ready;
    size_t nth;  // of its client's
    std::ptrdiff_t turn;
    std::shared_ptr<Job> job;
  };
  std::vector<Place> places;
  for (const std::shared_ptr<Job>& job : queue_) {
    const auto before = std::count_if(places.begin(), places.end(),
                                      [&](const Place& one) { return one.job->request.client == job->request.client; });
    places.push_back({job->request.prefix != nullptr, static_cast<size_t>(before), turn(job->request.client), job});
  }
  std::stable_sort(places.begin(), places.end(), [](const Place& a, const Place& b) {
    return std::tuple(!a.ready, a.nth, a.turn) < std::tuple(!b.ready, b.nth, b.turn);
  });
  std::vector<std::shared_ptr<Job>> jobs;
  jobs.reserve(places.size());
  for (Place& one : places) jobs.push_back(std::move(one.job));
  return jobs;
}

bool Scheduler::TakeOut(const std::shared_ptr<Job>& job) {
  const std::lock_guard lock(mutex_);
  return !TakeQueued([&](const Job& one) { return &one == job.get(); }).empty();
}

bool Scheduler::Prepare(const std::shared_ptr<Job>& job) {
  const int64_t changes = prefixes_.changes() + embeddings_.changes();
  if (job->run != nullptr && (job->run->goes_on() || job->known == changes)) return true;
  job->run.reset();  // what it could go on from may be there now
  job->known = changes;
  try {
    auto run = std::make_unique<JobRun>(model_, options_.limits, job->request, job->cancel, *job->listener, prefixes_,
                                        embeddings_, sessions_, ledger_, [this] { return StepBetween(); });
    run->Prepare();
    job->run = std::move(run);
    return true;
  } catch (...) {
    if (TakeOut(job)) job->FailBy(std::current_exception());
    return false;
  }
}

bool Scheduler::Admits(const std::shared_ptr<Job>& job) {
  try {
    return MakeRoom(job->run->need());
  } catch (...) {
    job->run.reset();
    if (TakeOut(job)) job->FailBy(std::current_exception());
    return false;
  }
}

bool Scheduler::MakeRoom(int64_t bytes) {
  const auto free = [&] {
    return ledger_.capacity() - ledger_.reserved() - prefixes_.bytes() - embeddings_.bytes() - bytes;
  };
  if (free() >= 0) return true;
  sessions_.Free(-free());
  if (free() < 0) embeddings_.Shrink(std::max<int64_t>(0, embeddings_.bytes() + free()));
  if (free() < 0) prefixes_.Shrink(std::max<int64_t>(0, prefixes_.bytes() + free()));
  return free() >= 0;
}

bool Scheduler::MayRead() const {
  const bool waits =
      std::any_of(answering_.begin(), answering_.end(), [](const Answering& one) { return one.run->waiting() > 0; });
  return !waits && batch_.size() < options_.max_batch;
}

bool Scheduler::Start(const std::shared_ptr<Job>& job) {
  const std::lock_guard lock(mutex_);
  std::string client = job->request.client;  // what needs memory comes before it leaves the queue
  running_.reserve(running_.size() + 1);
  served_.reserve(served_.size() + 1);
  if (TakeQueued([&](const Job& one) { return &one == job.get(); }).empty()) return false;
  running_.push_back(job);
  std::erase(served_, client);
  std::erase_if(served_, [&](const std::string& one) {
    return std::none_of(queue_.begin(), queue_.end(), [&](const auto& other) { return other->request.client == one; });
  });
  served_.push_back(std::move(client));
  return true;
}

std::shared_ptr<Job> Scheduler::NextShort() try {
  if (!MayRead()) return nullptr;
  std::vector<std::shared_ptr<Job>> jobs;
  {
    const std::lock_guard lock(mutex_);
    jobs = InOrder();
  }
  for (const std::shared_ptr<Job>& job : jobs) {
    if (!Prepare(job) || !job->run->short_read() || !Admits(job)) continue;
    return Start(job) ? job : nullptr;
  }
  return nullptr;
} catch (const std::bad_alloc&) {  // nothing that the prompt that is being read should fail for: they wait for its end
  return nullptr;
}

std::shared_ptr<Job> Scheduler::NextOrFail() noexcept {
  try {
    return NextToRead();
  } catch (...) {
    Jobs first;
    {
      const std::lock_guard lock(mutex_);
      if (!queue_.empty()) first.splice(first.end(), queue_, queue_.begin());
    }
    for (const std::shared_ptr<Job>& job : first) {
      job->run.reset();
      job->FailBy(std::current_exception());
    }
    return nullptr;
  }
}

std::shared_ptr<Job> Scheduler::NextToRead() {
  std::vector<std::shared_ptr<Job>> jobs;
  {
    const std::lock_guard lock(mutex_);
    jobs = InOrder();
  }
  std::vector<std::shared_ptr<Job>> too_large;
  std::shared_ptr<Job> next;
  for (const std::shared_ptr<Job>& job : jobs) {
    if (!Prepare(job)) continue;
    if (Admits(job)) {
      next = job;
      break;
    }
    if (job->run == nullptr) continue;  // failed
    too_large.push_back(job);
    if (job->overtaken >= kMostOvertaken && !answering_.empty()) break;
  }
  // Where nothing runs nothing more comes free: what is still held is held by those who wait.
  if (next == nullptr && answering_.empty() && !too_large.empty()) next = too_large.front();
  if (next == nullptr) return nullptr;
  if (!Start(next)) return nullptr;
  for (const std::shared_ptr<Job>& job : too_large) ++job->overtaken;
  return next;
}

void Scheduler::Read(const std::shared_ptr<Job>& job) {
  const auto start = Clock::now();
  Answering reading{job, std::move(job->run), Seconds(start - job->since)};
  since_ = start;
  owed_ = 0;
  interruptible_ = !reading.run->short_read();
  int64_t tokens = 0;
  try {
    reading.run->Read();
    tokens = reading.run->tokens_read();
    answering_.push_back(std::move(reading));
  } catch (...) {
    reading.run.reset();  // what it held is free when it is told
    Forget(*job);
    job->FailBy(std::current_exception());
  }
  const std::lock_guard lock(mutex_);
  seconds_of_reading_ += Seconds(Clock::now() - start);
  tokens_read_ += tokens;
  ++prompts_read_;
}

double Scheduler::StepBetween() {
  const auto start = Clock::now();
  LetGoOfEnded();
  owed_ += Seconds(start - since_) * options_.decode_share / (1 - options_.decode_share);
  while (owed_ > 0) {
    const auto before = Clock::now();
    if (const std::shared_ptr<Job> next = interruptible_ ? NextShort() : nullptr) {
      // It owes the answers their share, too; then the first one goes on counting.
      const double owed = owed_;
      Read(next);
      interruptible_ = true;
      owed_ = owed;
    } else if (answering_.empty()) {
      break;
    } else {
      Step();
    }
    owed_ -= Seconds(Clock::now() - before);
  }
  // What nobody wanted is not saved up for later.
  if (answering_.empty()) owed_ = std::min(owed_, 0.0);
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
    try {
      if (thrown != nullptr) std::rethrow_exception(thrown);
      if (apart.front().run->cancelled()) throw Cancelled();
      const JobResult result = apart.front().run->Finish(apart.front().queue_s);
      apart.front().run.reset();
      job.listener->Done(result);
    } catch (...) {
      apart.front().run.reset();
      job.FailBy(std::current_exception());
    }
  }
}

void Scheduler::Forget(const Job& job) {
  const std::lock_guard lock(mutex_);
  std::erase_if(running_, [&](const std::shared_ptr<Job>& one) { return one.get() == &job; });
}

}  // namespace purekv
