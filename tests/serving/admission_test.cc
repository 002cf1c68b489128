// Whose turn it is, and that a job begins when its memory is there.
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "serving/scheduler_testing.h"
#include "support/reference_model.h"

namespace purekv {
namespace {

using Reason = JobFailure::Reason;

class AdmissionTest : public SchedulerTest {
 protected:
  using Listeners = std::vector<std::shared_ptr<Listener>>;

  // Places in which they end.
  static std::vector<int> Order(const Listeners& listeners) {
    std::vector<int> numbers;
    for (const auto& one : listeners) {
      one->AwaitEnd();
      numbers.push_back(one->number_);
    }
    return numbers;
  }
  static JobRequest From(const std::string& client, const std::string& text = "a") {
    JobRequest request = Asks(text);
    request.client = client;
    request.max_tokens = 1;
    return request;
  }
};

TEST_F(AdmissionTest, ClientsTakeTurns) {
  Scheduler scheduler(small_->model(), Options());
  const auto holds = std::make_shared<Listener>(true);
  scheduler.Submit(From("a"), holds);
  holds->AwaitRead();
  Listeners jobs;
  for (const char* const client : {"a", "a", "a", "b", "b", "c"}) {
    jobs.push_back(std::make_shared<Listener>());
    ASSERT_NE(scheduler.Submit(From(client), jobs.back()), nullptr);
  }
  holds->Release();
  const std::vector<int> at = Order(jobs);
  // b and c have not been served: b, c, a, then b, a, a.
  for (const auto& [first, second] : std::vector<std::pair<size_t, size_t>>{{3, 5}, {5, 0}, {0, 4}, {4, 1}, {1, 2}}) {
    EXPECT_LT(at[first], at[second]) << first << " " << second;
  }
}

TEST_F(AdmissionTest, OneClientDoesNotFillTheQueueWhileOthersWait) {
  SchedulerOptions options = Options();
  options.max_queue = 4;
  Scheduler scheduler(small_->model(), options);
  const auto holds = std::make_shared<Listener>(true);
  scheduler.Submit(From("a"), holds);
  holds->AwaitRead();
  Listeners jobs;
  const auto submit = [&](const std::string& client) {
    jobs.push_back(std::make_shared<Listener>());
    if (scheduler.Submit(From(client), jobs.back()) != nullptr) return true;
    jobs.pop_back();
    return false;
  };
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(submit("a"));  // nobody else is there
  EXPECT_TRUE(submit("b"));
  EXPECT_FALSE(submit("c"));  // full
  holds->Release();
  Order(jobs);
  jobs.clear();
  const auto again = std::make_shared<Listener>(true);
  scheduler.Submit(From("a"), again);
  again->AwaitRead();
  EXPECT_TRUE(submit("b"));
  EXPECT_TRUE(submit("a"));
  EXPECT_TRUE(submit("a"));
  EXPECT_FALSE(submit("a"));
  EXPECT_TRUE(submit("c"));
  again->Release();
  Order(jobs);
}

TEST_F(AdmissionTest, WhatHasBeenReadComesFirst) {
  SchedulerOptions options = Options();
  options.prefixes.memory = int64_t{1} << 30;
  Scheduler scheduler(small_->model(), options);
  JobRequest video = AsksAboutVideo();
  video.kv.when = KvOptions::When::kContext;
  video.digests = {"1"};
  video.max_tokens = 1;
  const auto first = std::make_shared<Listener>();
  scheduler.Submit(video, first);
  first->AwaitEnd();
  const auto holds = std::make_shared<Listener>(true);
  scheduler.Submit(From("a"), holds);
  holds->AwaitRead();
  Listeners jobs = {std::make_shared<Listener>(), std::make_shared<Listener>()};
  scheduler.Submit(From("b"), jobs[0]);
  video.client = "b";
  video.prefix = scheduler.FindPrefix(video);
  ASSERT_NE(video.prefix, nullptr);
  scheduler.Submit(video, jobs[1]);
  video.prefix.reset();
  holds->Release();
  const std::vector<int> at = Order(jobs);
  EXPECT_LT(at[1], at[0]);
}

TEST_F(AdmissionTest, AJobBeginsWhenItsMemoryIsThere) {
  const std::string large(400, 'x');
  int64_t need = 0;
  SchedulerOptions options = Options();
  options.prefixes.memory = int64_t{1} << 30;
  const auto about = [&] {
    JobRequest request = From("a", large);
    request.max_tokens = 40;
    request.cache = JobRequest::Cache::kOff;
    return request;
  };
  {
    Scheduler scheduler(small_->model(), options);
    const auto holds = std::make_shared<Listener>(true);
    scheduler.Submit(about(), holds);
    holds->AwaitRead();
    need = scheduler.ledger().reserved();
    EXPECT_GT(need, 400 * small_->model()->info().kv_bytes_per_token);
    holds->Release();
    holds->AwaitEnd();
    EXPECT_EQ(scheduler.ledger().reserved(), 0);
  }
  // Room for one of them at a time, and for a little one beside it.
  options.prefixes.memory = 2 * need - need / 4;
  Scheduler scheduler(small_->model(), options);
  Listeners jobs = {std::make_shared<Listener>(true), std::make_shared<Listener>(), std::make_shared<Listener>()};
  JobRequest first = about();
  first.max_tokens = 40;
  scheduler.Submit(first, jobs[0]);
  jobs[0]->AwaitRead();
  scheduler.Submit(about(), jobs[1]);
  scheduler.Submit(From("a"), jobs[2]);  // behind it in the queue
  jobs[0]->Release();
  const std::vector<int> at = Order(jobs);
  for (const auto& one : jobs) EXPECT_TRUE(one->result_.has_value());
  EXPECT_LT(at[2], at[1]);
  EXPECT_LT(at[0], at[1]);
  EXPECT_EQ(scheduler.ledger().overruns(), 0);
  EXPECT_EQ(scheduler.ledger().reserved(), 0);
}

TEST_F(AdmissionTest, WhatIsKeptMakesRoom) {
  SchedulerOptions options = Options();
  options.prefixes.memory = int64_t{1} << 30;
  JobRequest video = AsksAboutVideo();
  video.kv.when = KvOptions::When::kContext;
  video.digests = {"1"};
  int64_t kept = 0, most = 0;
  {
    Scheduler scheduler(small_->model(), options);
    const auto listener = std::make_shared<Listener>(true);
    scheduler.Submit(video, listener);
    listener->AwaitRead();
    kept = scheduler.prefixes().bytes() + scheduler.embeddings().bytes();
    most = kept + scheduler.ledger().reserved();
    listener->Release();
    listener->AwaitEnd();
  }
  options.prefixes.memory = 3 * most;
  Scheduler scheduler(small_->model(), options);
  for (int i = 0; i < 8; ++i) {
    video.digests = {std::to_string(i)};
    const auto listener = std::make_shared<Listener>(true);
    scheduler.Submit(video, listener);
    listener->AwaitRead();
    EXPECT_LE(scheduler.prefixes().bytes() + scheduler.embeddings().bytes() + scheduler.ledger().reserved(),
              options.prefixes.memory);
    listener->Release();
    listener->AwaitEnd();
    EXPECT_TRUE(listener->result_.has_value());
  }
  EXPECT_GT(scheduler.prefixes().dropped(), 0);
  EXPECT_GT(scheduler.prefixes().bytes(), 0);
  EXPECT_EQ(scheduler.ledger().overruns(), 0);
}

// Where making room fails, a job fails, and no more than that.
TEST_F(AdmissionTest, TheEngineOutlivesRoomThatCannotBeMade) {
  SchedulerOptions options = Options();
  options.prefixes.memory = int64_t{1} << 30;
  JobRequest video = AsksAboutVideo();
  video.kv.when = KvOptions::When::kContext;
  video.digests = {"1"};
  {
    Scheduler scheduler(small_->model(), options);
    const auto listener = std::make_shared<Listener>(true);
    scheduler.Submit(video, listener);
    listener->AwaitRead();
    options.prefixes.memory =
        3 * (scheduler.prefixes().bytes() + scheduler.embeddings().bytes() + scheduler.ledger().reserved());
    listener->Release();
    listener->AwaitEnd();
  }
  std::optional<TemporaryDirectory> directory("prefixes");
  options.prefixes.directory = directory->path();
  options.prefixes.log = [](const std::string&) { throw std::bad_alloc(); };
  Scheduler scheduler(small_->model(), options);
  directory.reset();  // what makes room cannot be written, and nobody can be told
  int failed = 0;
  for (int i = 0; i < 12; ++i) {
    video.digests = {std::to_string(i)};
    const auto listener = std::make_shared<Listener>();
    scheduler.Submit(video, listener);
    listener->AwaitEnd();
    if (!listener->failure_) continue;
    ++failed;
    EXPECT_EQ(listener->failure_->reason, JobFailure::Reason::kInternal);
  }
  EXPECT_GT(failed, 0);
  EXPECT_LT(failed, 12);
  EXPECT_EQ(scheduler.ledger().reserved(), 0);
}

// A job that is cancelled while it waits lets go of what it was to go on from, whoever still holds the job.
TEST_F(AdmissionTest, WhatAPreparedJobHasIsFreeWhenItIsCancelled) {
  SchedulerOptions options = Options();
  options.prefixes.memory = int64_t{1} << 30;
  options.max_batch = 1;
  JobRequest video = AsksAboutVideo();
  video.kv.when = KvOptions::When::kContext;
  video.digests = {"1"};
  video.max_tokens = 1;
  const auto long_one = [&] {
    JobRequest request = From("a", "a");
    request.max_tokens = small_->model()->info().max_positions / 2;
    request.cache = JobRequest::Cache::kOff;
    return request;
  };
  const auto read = [&](Scheduler& scheduler) {
    const auto listener = std::make_shared<Listener>();
    scheduler.Submit(video, listener);
    listener->AwaitEnd();
    return scheduler.prefixes().Use(listener->result_.value().prefix, "");
  };
  const auto waits_for = [](const auto& what) {
    for (int i = 0; i < 500 && !what(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    return what();
  };
  int64_t kept = 0, need = 0;
  {
    Scheduler scheduler(small_->model(), options);
    read(scheduler);
    kept = scheduler.prefixes().bytes() + scheduler.embeddings().bytes();
    const auto holds = std::make_shared<Listener>(true);
    scheduler.Submit(long_one(), holds);
    holds->AwaitRead();
    need = scheduler.ledger().reserved();
    holds->Release();
    holds->AwaitEnd();
  }
  // Room for one long answer beside what is kept, and not for another.
  options.prefixes.memory = 8 * kept + need + need / 2;
  options.max_batch = 2;
  Scheduler scheduler(small_->model(), options);
  const std::shared_ptr<const Prefix> prefix = read(scheduler);
  ASSERT_NE(prefix, nullptr);
  class Slow final : public Listener {
   public:
    void Text(int64_t, const std::string&, const Answer&) override {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  };
  const auto slow = std::make_shared<Slow>(), waits = std::make_shared<Slow>();
  JobRequest next = video;
  next.max_tokens = long_one().max_tokens;
  const auto first = scheduler.Submit(long_one(), slow);
  slow->AwaitRead();
  const std::shared_ptr<Job> job = scheduler.Submit(next, waits);
  ASSERT_TRUE(waits_for([&] { return prefix->users == 1; }));
  ASSERT_EQ(scheduler.waiting(), 1);
  scheduler.Cancel(job);
  EXPECT_EQ(waits->ends(), 1);
  EXPECT_TRUE(waits_for([&] { return prefix->users == 0; }));
  scheduler.Cancel(first);
  slow->AwaitEnd();
}

TEST_F(AdmissionTest, WhatNeverFitsIsRefused) {
  SchedulerOptions options = Options();
  options.prefixes.memory = 300 * small_->model()->info().kv_bytes_per_token;
  Scheduler scheduler(small_->model(), options);
  const auto listener = std::make_shared<Listener>();
  scheduler.Submit(From("a", std::string(600, 'x')), listener);
  listener->AwaitEnd();
  ASSERT_TRUE(listener->failure_.has_value());
  EXPECT_EQ(listener->failure_->reason, Reason::kNoRoom);
  EXPECT_NE(listener->failure_->message.text.find("kv.budget"), std::string::npos) << listener->failure_->message.text;
  const auto small = std::make_shared<Listener>();
  scheduler.Submit(From("a"), small);
  small->AwaitEnd();
  EXPECT_TRUE(small->result_.has_value());
}

}  // namespace
}  // namespace purekv
