// The queue and its one thread: who comes first is read first, answers grow side by side, and every job ends once,
// whatever ends it.
#include "serving/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "serving/scheduler_testing.h"

namespace purekv {
namespace {

using Reason = JobFailure::Reason;

TEST_F(SchedulerTest, AJobIsWhatASessionAnswers) {
  Scheduler scheduler(small_->model(), Options());
  JobRequest request = AsksAboutVideo();
  request.answers = 2;
  request.generate.temperature = 1;
  request.generate.seed = 9;
  const auto listener = std::make_shared<Listener>();
  ASSERT_NE(scheduler.Submit(request, listener), nullptr);
  listener->AwaitEnd();
  ASSERT_TRUE(listener->result_.has_value()) << listener->failure_->message.text;
  for (size_t i = 0; i < 2; ++i) {
    SessionOptions options;
    options.threads = 1;
    Session session(small_->model(), options);
    session.ReadChat(request.chat);
    const Answer expected = session.Generate({.max_new_tokens = 8, .temperature = 1, .seed = 9 + i}, nullptr);
    EXPECT_EQ(listener->result_->answers.at(i).ids, expected.ids) << i;
    EXPECT_EQ(listener->texts_.at(i), expected.text) << i;
  }
  EXPECT_NE(listener->stages_.find("vision "), std::string::npos);
  EXPECT_EQ(listener->stages_.find("decode"), std::string::npos);
}

TEST_F(SchedulerTest, WhoComesFirstIsServedFirst) {
  SchedulerOptions options = Options();
  options.max_queue = 3;
  Scheduler scheduler(small_->model(), options);
  const auto first = std::make_shared<Listener>(true);
  ASSERT_NE(scheduler.Submit(Asks("a"), first), nullptr);
  first->AwaitRead();
  std::vector<std::shared_ptr<Listener>> waiting;
  for (int i = 0; i < 3; ++i) {
    waiting.push_back(std::make_shared<Listener>());
    ASSERT_NE(scheduler.Submit(Asks("a"), waiting.back()), nullptr);
  }
  EXPECT_EQ(scheduler.waiting(), 3);
  EXPECT_EQ(scheduler.running(), 1);
  const auto late = std::make_shared<Listener>();
  EXPECT_EQ(scheduler.Submit(Asks("a"), late), nullptr);
  first->Release();
  int before = -1;
  for (const auto& one : waiting) {
    one->AwaitEnd();
    EXPECT_GT(one->number_, before);
    before = one->number_;
    EXPECT_GT(one->result_->queue_s, 0);
  }
  EXPECT_EQ(late->ends(), 0);
  EXPECT_GE(scheduler.ExpectedWait(), 0);
}

// Later and shorter answers join one that grows, and end before it; each is what it is alone.
TEST_F(SchedulerTest, AnswersGrowSideBySideAndAreWhatEachIsAlone) {
  for (const int64_t most : {int64_t{3}, AnswerBatch::most()}) {
    SCOPED_TRACE(most);
    SchedulerOptions options = Options();
    options.max_batch = most;
    Scheduler scheduler(small_->model(), options);
    const auto asks = [&](int i) {
      JobRequest request = i % 2 == 0 ? Asks(std::string(static_cast<size_t>(5 + 9 * i), 'x')) : AsksAboutVideo();
      if (i == 3) {
        request.kv.policy = "h2o";
        request.kv.budget = 0.4;
      }
      request.answers = i == 4 ? 2 : 1;
      request.max_tokens = i == 0 ? 90 : 3 + 2 * i;
      request.generate.temperature = 1;
      request.generate.seed = static_cast<uint64_t>(100 + i);
      return request;
    };
    std::vector<std::shared_ptr<Listener>> jobs;
    for (int i = 0; i < 6; ++i) {
      jobs.push_back(std::make_shared<Listener>(i == 0));
      ASSERT_NE(scheduler.Submit(asks(i), jobs.back()), nullptr);
    }
    jobs[0]->AwaitRead();
    jobs[0]->Release();
    for (int i = 0; i < 6; ++i) {
      SCOPED_TRACE(i);
      Listener& one = *jobs[static_cast<size_t>(i)];
      one.AwaitEnd();
      ASSERT_TRUE(one.result_.has_value()) << one.failure_->message.text;
      const JobRequest request = asks(i);
      for (int64_t answer = 0; answer < request.answers; ++answer) {
        SessionOptions alone;
        alone.threads = 1;
        alone.kv = request.kv;
        Session session(small_->model(), alone);
        session.ReadChat(request.chat);
        GenerateOptions generate = request.generate;
        generate.max_new_tokens = *request.max_tokens;
        generate.seed += static_cast<uint64_t>(answer);
        const Answer expected = session.Generate(generate, nullptr);
        const Answer& got = one.result_->answers.at(static_cast<size_t>(answer));
        EXPECT_EQ(got.ids, expected.ids);
        EXPECT_EQ(got.logprobs, expected.logprobs);
        EXPECT_EQ(one.texts_.at(static_cast<size_t>(answer)), expected.text);
      }
    }
    if (jobs[0]->result_->answers[0].ids.size() > 60) {
      EXPECT_LT(jobs[1]->number_, jobs[0]->number_);
    }
  }
}

// What a prompt's blocks leave to the answers of others; a cancel then ends the answer that grows, and no other.
TEST_F(SchedulerTest, AnswersGoOnWhileAPromptIsRead) {
  std::mutex mutex;
  std::vector<char> events;  // 'a': text of the answer; 'b': progress of the prompt
  const auto note = [&](char event) {
    const std::lock_guard lock(mutex);
    events.push_back(event);
  };
  class Answers final : public Listener {
   public:
    explicit Answers(std::function<void(char)> note) : Listener(true), note_(std::move(note)) {}
    void Text(int64_t, const std::string&, const Answer&) override { note_('a'); }

   private:
    std::function<void(char)> note_;
  };
  class Reads final : public Listener {
   public:
    explicit Reads(std::function<void(char)> note) : note_(std::move(note)) {}
    void Progress(const char*, int64_t, int64_t) override { note_('b'); }

   private:
    std::function<void(char)> note_;
  };
  for (const double share : {0.0, 0.9}) {
    events.clear();
    SchedulerOptions options = Options();
    options.decode_share = share;
    Scheduler scheduler(small_->model(), options);
    const auto answers = std::make_shared<Answers>(note);
    const auto reads = std::make_shared<Reads>(note);
    JobRequest request = Asks("a");
    request.max_tokens = small_->model()->info().max_positions / 2;
    const std::shared_ptr<Job> job = scheduler.Submit(request, answers);
    answers->AwaitRead();
    ASSERT_NE(scheduler.Submit(AsksAboutVideo(), reads), nullptr);
    answers->Release();
    reads->AwaitEnd();
    EXPECT_TRUE(reads->result_.has_value());
    scheduler.Cancel(job);
    answers->AwaitEnd();
    const std::lock_guard lock(mutex);
    const auto first = std::find(events.begin(), events.end(), 'b');
    const auto last = std::find(events.rbegin(), events.rend(), 'b').base();
    const bool between = first < last && std::find(first, last, 'a') != last;
    EXPECT_EQ(between, share > 0);
    if (answers->failure_) {
      EXPECT_EQ(answers->failure_->reason, Reason::kCancelled);
    }
  }
}

TEST_F(SchedulerTest, EveryJobEndsOnceWhateverEndsIt) {
  SchedulerOptions options = Options();
  options.queue_timeout_s = 0.05;
  auto scheduler = std::make_unique<Scheduler>(small_->model(), options);
  const auto runs = std::make_shared<Listener>(true);
  const std::shared_ptr<Job> running = scheduler->Submit(Asks("a"), runs);
  runs->AwaitRead();
  const auto cancelled = std::make_shared<Listener>(), expired = std::make_shared<Listener>(),
             drained = std::make_shared<Listener>();
  const std::shared_ptr<Job> job = scheduler->Submit(Asks("a"), cancelled);
  scheduler->Cancel(job);
  scheduler->Cancel(job);
  EXPECT_EQ(cancelled->failure_->reason, Reason::kCancelled);
  scheduler->Submit(Asks("a"), expired);
  std::this_thread::sleep_for(std::chrono::milliseconds(80));
  scheduler->Expire();
  EXPECT_EQ(expired->failure_->reason, Reason::kQueueTimeout);
  scheduler->Submit(Asks("a"), drained);
  scheduler->Drain();
  EXPECT_EQ(drained->failure_->reason, Reason::kDraining);
  EXPECT_EQ(scheduler->Submit(Asks("a"), std::make_shared<Listener>()), nullptr);
  scheduler->Cancel(running);
  runs->Release();
  runs->AwaitEnd();
  EXPECT_EQ(runs->failure_->reason, Reason::kCancelled);
  scheduler.reset();
  for (const auto& one : {runs, cancelled, expired, drained}) EXPECT_EQ(one->ends(), 1);
}

// Fails where it is told of the end.
class Failing : public Listener {
 public:
  explicit Failing(bool always) : always_(always) {}
  void Done(const JobResult&) override { throw std::bad_alloc(); }
  void Failed(const JobFailure& failure) override {
    Listener::Failed(failure);
    if (always_) throw std::bad_alloc();
  }

 private:
  const bool always_;
};

// What goes wrong at the end of one job is that job's, and the next one is served.
TEST_F(SchedulerTest, TheEngineOutlivesWhatTheEndOfAJobThrows) {
  Scheduler scheduler(small_->model(), Options());
  for (const bool always : {false, true}) {
    const auto failing = std::make_shared<Failing>(always);
    scheduler.Submit(Asks("What?"), failing);
    failing->AwaitEnd();
    ASSERT_TRUE(failing->failure_.has_value());
    EXPECT_EQ(failing->failure_->reason, JobFailure::Reason::kInternal);
    const auto next = std::make_shared<Listener>();
    scheduler.Submit(Asks("What?"), next);
    next->AwaitEnd();
    EXPECT_TRUE(next->result_.has_value());
    EXPECT_EQ(scheduler.ledger().reserved(), 0);
  }
}

TEST_F(SchedulerTest, TheEndStopsWhatRuns) {
  const auto runs = std::make_shared<Listener>(true);
  auto scheduler = std::make_unique<Scheduler>(small_->model(), Options());
  scheduler->Submit(Asks("a"), runs);
  runs->AwaitRead();
  scheduler->Stop();
  runs->Release();
  scheduler.reset();
  EXPECT_EQ(runs->failure_->reason, Reason::kDraining);
}

TEST_F(SchedulerTest, WhatIsWrongIsBlamedOnWhatIsAtFault) {
  Scheduler scheduler(small_->model(), Options());
  const auto failure = [&](JobRequest request) {
    const auto listener = std::make_shared<Listener>();
    scheduler.Submit(std::move(request), listener);
    listener->AwaitEnd();
    return listener->failure_.value();
  };
  JobRequest media = AsksAboutVideo();
  media.chat[0].parts.insert(media.chat[0].parts.begin(), {.text = "first"});
  media.chat[0].parts[1].medium->path = "/nowhere/frames.npy";
  const JobFailure bad_media = failure(media);
  EXPECT_EQ(bad_media.reason, Reason::kMedia);
  EXPECT_EQ(bad_media.part->part, 1U);
  EXPECT_EQ(bad_media.message.text.find("/nowhere/frames.npy: "), std::string::npos) << bad_media.message.text;
  JobRequest policy = Asks("a");
  policy.kv.policy = "snapkv";
  policy.kv.budget = 7;
  EXPECT_EQ(failure(policy).reason, Reason::kRefused);
  EXPECT_EQ(failure(policy).message.field(), "kv.budget");
  JobRequest marker = Asks("<|video_pad|>");
  EXPECT_EQ(failure(marker).message.field(), "chat.0.0");
  JobRequest too_long = Asks("a");
  too_long.max_tokens = small_->model()->info().max_positions;
  EXPECT_EQ(failure(too_long).reason, Reason::kTooLong);
  // And goes on.
  const auto good = std::make_shared<Listener>();
  scheduler.Submit(Asks("a"), good);
  good->AwaitEnd();
  EXPECT_TRUE(good->result_.has_value());
}

}  // namespace
}  // namespace purekv
