// The queue and its one thread: who comes first is read first, answers grow side by side, and every job ends once,
// whatever ends it.
#include "serving/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "support/small_model.h"

namespace purekv {
namespace {

using Reason = JobFailure::Reason;

// Writes down what it hears; may hold the engine up where its prompt has been read.
class Listener : public JobListener {
 public:
  explicit Listener(bool holds = false) : holds_(holds) {}

  void Progress(const char* stage, int64_t, int64_t) override {
    const std::lock_guard lock(mutex_);
    stages_ += std::string(stage) + " ";
  }
  void Read(const PromptInfo&, const KvStats&) override {
    std::unique_lock lock(mutex_);
    read_ = true;
    changed_.notify_all();
    changed_.wait(lock, [&] { return !holds_; });
  }
  void Text(int64_t index, const std::string& text, const Answer&) override {
    const std::lock_guard lock(mutex_);
    texts_.resize(std::max(texts_.size(), static_cast<size_t>(index) + 1));
    texts_[static_cast<size_t>(index)] += text;
  }
  void Ended(int64_t, const Answer&) override {}
  void Done(const JobResult& result) override {
    End([&] { result_ = result; });
  }
  void Failed(const JobFailure& failure) override {
    End([&] { failure_ = failure; });
  }

  void AwaitRead() {
    Await([&] { return read_; });
  }
  void AwaitEnd() {
    Await([&] { return ends_ > 0; });
  }
  void Release() {
    const std::lock_guard lock(mutex_);
    holds_ = false;
    changed_.notify_all();
  }
  int ends() {
    const std::lock_guard lock(mutex_);
    return ends_;
  }

  std::optional<JobResult> result_;
  std::optional<JobFailure> failure_;
  std::vector<std::string> texts_;
  std::string stages_;
  int number_ = -1;  // in which place it ended

 private:
  void End(const auto& note) {
    static std::atomic<int> count{0};
    const std::lock_guard lock(mutex_);
    note();
    number_ = count++;
    ++ends_;
    changed_.notify_all();
  }
  void Await(const std::function<bool()>& done) {
    std::unique_lock lock(mutex_);
    ASSERT_TRUE(changed_.wait_for(lock, std::chrono::seconds(60), done));
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool holds_, read_ = false;
  int ends_ = 0;
};

class SchedulerTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { small_ = std::make_unique<SmallModel>(Heads{4, 2}); }
  static void TearDownTestSuite() { small_.reset(); }

  static SchedulerOptions Options() {
    SchedulerOptions options;
    options.limits.threads = 1;
    options.limits.max_answer = 8;
    options.limits.max_positions = small_->model()->info().max_positions;
    return options;
  }
  static JobRequest Asks(const std::string& text) {
    JobRequest request;
    request.chat = {{ChatTurn::Role::kUser, {{.text = text}}}};
    return request;
  }
  static JobRequest AsksAboutVideo() {
    const Turn turn = small_->VideoTurn();
    JobRequest request = Asks(turn.prompt);
    request.chat[0].parts.insert(request.chat[0].parts.begin(),
                                 {.text = "", .medium = turn.media[0], .media_options = turn.media_options});
    return request;
  }
  static std::unique_ptr<SmallModel> small_;
};
std::unique_ptr<SmallModel> SchedulerTest::small_;

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

// The same media under the same settings are read once; what is answered is what it is without that, bit by bit.
TEST_F(SchedulerTest, MediaAreReadOnceForWhoAsksAboutThemAgain) {
  SchedulerOptions options = Options();
  options.prefix_memory = int64_t{1} << 30;
  Scheduler scheduler(small_->model(), options);
  using Cache = JobRequest::Cache;
  const auto asks = [&](const std::string& question, const std::string& policy) {
    JobRequest request = AsksAboutVideo();
    request.chat[0].parts.back().text = question;
    request.kv.when = KvOptions::When::kContext;
    request.kv.policy = policy;
    if (policy != "full") request.kv.budget = 0.4;
    request.owner = "a";
    request.digests = {"1234"};
    return request;
  };
  std::string stages;
  const auto run = [&](const JobRequest& request) {
    const auto listener = std::make_shared<Listener>();
    scheduler.Submit(request, listener);
    listener->AwaitEnd();
    EXPECT_TRUE(listener->result_.has_value()) << listener->failure_->message.text;
    stages = listener->stages_;
    return listener->result_.value();
  };
  std::set<std::string> prefixes;
  for (const char* policy : {"full", "snapkv", "h2o"}) {
    SCOPED_TRACE(policy);
    const JobResult first = run(asks("What?", policy));
    EXPECT_EQ(first.cached_tokens, 0);
    EXPECT_GT(first.times.prefill_s, 0);
    EXPECT_TRUE(prefixes.insert(first.prefix).second);
    const JobRequest again = asks("And why?", policy);
    const JobResult second = run(again);
    EXPECT_EQ(second.prefix, first.prefix);
    EXPECT_GT(second.cached_tokens, second.prompt.visual_tokens);
    EXPECT_LT(second.cached_tokens, static_cast<int64_t>(second.prompt.ids.size()));
    EXPECT_GT(second.shared_bytes, 0);
    EXPECT_EQ(stages.find("vision"), std::string::npos);
    JobRequest anew = again;
    anew.cache = Cache::kOff;
    const JobResult alone = run(anew);
    EXPECT_EQ(alone.prefix, "");
    EXPECT_EQ(alone.cached_tokens, 0);
    EXPECT_EQ(second.answers[0].ids, alone.answers[0].ids);
    EXPECT_EQ(second.answers[0].logprobs, alone.answers[0].logprobs);
    EXPECT_EQ(second.prompt.ids, alone.prompt.ids);
    EXPECT_EQ(second.prompt.visual_tokens, alone.prompt.visual_tokens);
    EXPECT_EQ(second.kv.tokens_kept_mean, alone.kv.tokens_kept_mean);
    // A policy that evicts at steps has not touched what it went on from.
    EXPECT_EQ(run(again).answers[0].ids, alone.answers[0].ids);
    anew.cache = Cache::kRefresh;
    EXPECT_TRUE(prefixes.insert(run(anew).prefix).second);
  }
  const auto reads_anew = [&](const char* what, const std::function<void(JobRequest&)>& change) {
    JobRequest request = asks("What?", "snapkv");
    change(request);
    EXPECT_EQ(run(request).cached_tokens, 0) << what;
  };
  reads_anew("owner", [](JobRequest& r) { r.owner = "b"; });
  reads_anew("salt", [](JobRequest& r) { r.salt = "s"; });
  reads_anew("content", [](JobRequest& r) { r.digests = {"1235"}; });
  reads_anew("no digest", [](JobRequest& r) { r.digests.clear(); });
  reads_anew("budget", [](JobRequest& r) { r.kv.budget = 0.5; });
  reads_anew("option", [](JobRequest& r) { r.kv.options["kernel"] = "3"; });
  reads_anew("prefill", [](JobRequest& r) { r.prefill.kind = "st"; });
  reads_anew("frames", [](JobRequest& r) { r.chat[0].parts[0].media_options.fps = 1.5; });
  reads_anew("system", [](JobRequest& r) {
    r.chat.insert(r.chat.begin(), {ChatTurn::Role::kSystem, {{.text = "Be kind."}}});
  });
  reads_anew("prompt", [](JobRequest& r) { r.kv.when = KvOptions::When::kPrompt; });
  PrefixStore& store = scheduler.prefixes();
  EXPECT_GT(store.List("a").size(), 3U);
  EXPECT_EQ(store.List("b").size(), 1U);
  EXPECT_EQ(store.List("c").size(), 0U);
  const std::string id = store.List("b").front()->id;
  EXPECT_EQ(store.Named(id, "a"), nullptr);
  EXPECT_FALSE(store.Remove(id, "a"));
  EXPECT_TRUE(store.Remove(id, "b"));
  EXPECT_FALSE(store.Remove(id, "b"));
}

// A text that begins as another did goes on from whole blocks of it.
TEST_F(SchedulerTest, TextsThatBeginAlikeAreReadOnce) {
  SchedulerOptions options = Options();
  options.prefix_memory = int64_t{1} << 30;
  Scheduler scheduler(small_->model(), options);
  std::string beginning;
  for (int i = 0; i < 400; ++i) beginning += "ab " + std::to_string(i) + " ";
  const auto run = [&](JobRequest request) {
    request.max_tokens = 4;
    const auto listener = std::make_shared<Listener>();
    scheduler.Submit(std::move(request), listener);
    listener->AwaitEnd();
    EXPECT_TRUE(listener->result_.has_value()) << listener->failure_->message.text;
    return listener->result_.value();
  };
  EXPECT_EQ(run(Asks(beginning + "one?")).cached_tokens, 0);
  const JobResult second = run(Asks(beginning + "two?"));
  EXPECT_GE(second.cached_tokens, 512);
  EXPECT_EQ(second.cached_tokens % 512, 0);
  EXPECT_NE(second.prefix, "");
  JobRequest off = Asks(beginning + "two?");
  off.cache = JobRequest::Cache::kOff;
  const JobResult alone = run(off);
  EXPECT_EQ(second.answers[0].ids, alone.answers[0].ids);
  EXPECT_EQ(second.answers[0].logprobs, alone.answers[0].logprobs);
  EXPECT_EQ(second.kv.tokens_full, alone.kv.tokens_full);
  JobRequest evicts = Asks(beginning + "two?");
  evicts.kv.policy = "snapkv";
  evicts.kv.budget = 0.5;
  EXPECT_EQ(run(evicts).cached_tokens, 0);
  EXPECT_EQ(run(evicts).cached_tokens, 0);
  JobRequest other = Asks(beginning + "two?");
  other.owner = "b";
  EXPECT_EQ(run(other).cached_tokens, 0);
  EXPECT_EQ(run(Asks("zz " + beginning)).cached_tokens, 0);
  // What nothing could go on from takes no room: short texts, and entries in another form.
  const size_t kept = scheduler.prefixes().List("").size();
  EXPECT_EQ(run(Asks("Hello!")).prefix, "");
  JobRequest encoded = Asks(beginning + "three?");
  encoded.kv.keys = encoded.kv.values = "int8";
  EXPECT_EQ(run(encoded).prefix, "");
  EXPECT_EQ(run(encoded).cached_tokens, 0);
  EXPECT_EQ(scheduler.prefixes().List("").size(), kept);
}

// Memory is a limit: the last used stay.
TEST_F(SchedulerTest, PrefixesMakeRoomForLaterOnes) {
  const auto run = [&](Scheduler& scheduler, const std::string& digest) {
    JobRequest request = AsksAboutVideo();
    request.kv.when = KvOptions::When::kContext;
    request.digests = {digest};
    const auto listener = std::make_shared<Listener>();
    scheduler.Submit(request, listener);
    listener->AwaitEnd();
    return listener->result_.value();
  };
  int64_t bytes = 0;
  {
    SchedulerOptions options = Options();
    options.prefix_memory = int64_t{1} << 30;
    Scheduler scheduler(small_->model(), options);
    run(scheduler, "0");
    bytes = scheduler.prefixes().bytes();
    ASSERT_GT(bytes, 0);
  }
  SchedulerOptions options = Options();
  options.prefix_memory = 2 * bytes + bytes / 2;
  Scheduler scheduler(small_->model(), options);
  run(scheduler, "0");
  run(scheduler, "1");
  EXPECT_GT(run(scheduler, "0").cached_tokens, 0);  // now "1" is the older one
  run(scheduler, "2");
  EXPECT_LE(scheduler.prefixes().bytes(), options.prefix_memory);
  EXPECT_GT(run(scheduler, "0").cached_tokens, 0);
  EXPECT_EQ(run(scheduler, "1").cached_tokens, 0);
  options.prefix_memory = bytes - 1;
  Scheduler small(small_->model(), options);
  EXPECT_EQ(run(small, "0").prefix, "");
  EXPECT_EQ(small.prefixes().bytes(), 0);
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
  scheduler->ExpireQueued();
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
