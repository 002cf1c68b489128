// Memory ends at any place of the engine's thread: whatever cannot be had then, every job ends once, what it held is
// free, and the next one is served.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <vector>

#include "serving/scheduler_testing.h"

namespace {

// Of this thread: how many more things it may have, and how many it then may not. None: any number.
thread_local std::optional<int64_t> t_left;
thread_local int64_t t_lacks = 0;

void* Allocate(size_t size) {
  if (t_left && (*t_left)-- <= 0) {
    if (*t_left <= -t_lacks) t_left.reset();
    throw std::bad_alloc();
  }
  if (void* const memory = std::malloc(size == 0 ? 1 : size)) return memory;
  throw std::bad_alloc();
}

}  // namespace

void* operator new(size_t size) {
  return Allocate(size);
}
void* operator new[](size_t size) {
  return Allocate(size);
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete[](void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, size_t) noexcept {
  std::free(memory);
}
void operator delete[](void* memory, size_t) noexcept {
  std::free(memory);
}

namespace purekv {
namespace {

using SlowMemoryEndsTest = SchedulerTest;

// Every place; where sanitizers slow it down, some.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int64_t kStride = 5;
#else
constexpr int64_t kStride = 1;
#endif

// At its end the engine's thread may have so many things more, and then for a while none.
class Arms final : public Listener {
 public:
  Arms(int64_t left, int64_t lacks) : Listener(true), left_(left), lacks_(lacks) {}
  void Done(const JobResult& result) override {
    Listener::Done(result);
    t_lacks = lacks_;
    t_left = left_;
  }

 private:
  const int64_t left_, lacks_;
};

class Disarms final : public Listener {
 public:
  void Done(const JobResult& result) override {
    all_ = t_left.value_or(-1) >= 0;
    t_left.reset();
    Listener::Done(result);
  }
  void Failed(const JobFailure& failure) override {
    Listener::Failed(failure);
    t_left.reset();
  }
  bool all_ = false;  // whether there was enough
};

TEST_F(SlowMemoryEndsTest, EveryJobEndsAndTheNextIsServed) {
  SchedulerOptions options = Options();
  options.prefixes.memory = int64_t{1} << 30;
  Scheduler scheduler(small_->model(), options);
  JobRequest chat = Asks("What is it?");
  chat.max_tokens = 2;
  chat.session = "s";
  const auto run = [&](const JobRequest& request) {
    const auto listener = std::make_shared<Listener>();
    scheduler.Submit(request, listener);
    listener->AwaitEnd();
    EXPECT_TRUE(listener->result_.has_value()) << listener->failure_->message.text;
    return listener->result_.value_or(JobResult());
  };
  int failed = 0;
  std::vector<int32_t> expected;
  bool all = false;
  const int64_t lacks[] = {1, 2, 5, 100};
  for (int64_t left = 0; !all; left += kStride) {
    SCOPED_TRACE(left);
    ASSERT_LT(left, 20000);
    const JobResult first = run(chat);
    ASSERT_EQ(first.answers.size(), 1U);
    JobRequest goes_on = chat;
    goes_on.chat.push_back({ChatTurn::Role::kAssistant, {{.text = first.answers[0].text}}});
    goes_on.chat.push_back({ChatTurn::Role::kUser, {{.text = "And?"}}});
    const auto arms = std::make_shared<Arms>(left, lacks[left % 4]);
    JobRequest before = Asks("a");
    before.max_tokens = 1;  // it ends before the next one is looked at
    scheduler.Submit(before, arms);
    arms->AwaitRead();
    const auto job = std::make_shared<Disarms>();
    scheduler.Submit(goes_on, job);
    arms->Release();
    job->AwaitEnd();
    all = job->all_;
    EXPECT_EQ(job->ends(), 1);
    failed += job->failure_.has_value() ? 1 : 0;
    const std::vector<int32_t> ids = run(goes_on).answers.at(0).ids;
    if (expected.empty()) expected = ids;
    EXPECT_EQ(ids, expected);  // whatever is left of its session
  }
  EXPECT_GT(failed, 500 / kStride);
  run(Asks("a"));
  EXPECT_EQ(scheduler.running(), 0);
  EXPECT_EQ(scheduler.ledger().reserved(), scheduler.sessions().bytes());
}

}  // namespace
}  // namespace purekv
