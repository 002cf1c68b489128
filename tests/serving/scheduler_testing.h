// A scheduler over a small model, and one who listens: what the tests of the room share.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "serving/scheduler.h"
#include "support/small_model.h"

namespace purekv {

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
  inline static std::unique_ptr<SmallModel> small_;
};

}  // namespace purekv
