// What has been read is kept for those that begin with the same, and for no other; memory is a limit.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/refused.h"
#include "serving/scheduler_testing.h"
#include "support/reference_model.h"

namespace purekv {
namespace {

using PrefixTest = SchedulerTest;

// The same media under the same settings are read once; what is answered is what it is without that, bit by bit.
TEST_F(PrefixTest, MediaAreReadOnceForWhoAsksAboutThemAgain) {
  SchedulerOptions options = Options();
  options.prefixes.memory = int64_t{1} << 30;
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
  const std::string id = store.List("b").front().record->id;
  EXPECT_FALSE(store.Named(id, "a").has_value());
  EXPECT_FALSE(store.Remove(id, "a"));
  EXPECT_TRUE(store.Remove(id, "b"));
  EXPECT_FALSE(store.Remove(id, "b"));
}

// A text that begins as another did goes on from whole blocks of it.
TEST_F(PrefixTest, TextsThatBeginAlikeAreReadOnce) {
  SchedulerOptions options = Options();
  options.prefixes.memory = int64_t{1} << 30;
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

// A chat about a video that is read once, and what is kept of it.
std::shared_ptr<const Prefix> MakePrefix(Scheduler& scheduler, JobRequest request) {
  request.kv.when = KvOptions::When::kContext;
  request.digests = {"1234"};
  const auto listener = std::make_shared<Listener>();
  scheduler.Submit(request, listener);
  listener->AwaitEnd();
  return scheduler.prefixes().Use(listener->result_.value().prefix, "");
}

// What has gone to disk holds no memory that nobody counts: neither what was read here nor what was read back.
TEST_F(PrefixTest, WhatIsOnDiskAloneIsFree) {
  const TemporaryDirectory directory("prefixes");
  SchedulerOptions options = Options();
  options.prefixes.memory = int64_t{1} << 30;
  options.prefixes.directory = directory.path();
  Scheduler scheduler(small_->model(), options);
  std::shared_ptr<const Prefix> prefix = MakePrefix(scheduler, AsksAboutVideo());
  ASSERT_NE(prefix, nullptr);
  const std::string id = prefix->id;
  for (const char* const where : {"read here", "read back"}) {
    SCOPED_TRACE(where);
    const std::weak_ptr<const Prefix> watched = std::exchange(prefix, nullptr);
    scheduler.prefixes().Shrink(0);
    EXPECT_EQ(scheduler.prefixes().bytes(), 0);
    EXPECT_TRUE(watched.expired());
    prefix = scheduler.prefixes().Use(id, "");
    ASSERT_NE(prefix, nullptr);
    EXPECT_TRUE(prefix->from_disk);
  }
}

// One that is being written to make room is there all the while: it is found, and who deletes it has deleted it.
TEST_F(PrefixTest, WhatIsDeletedWhileItIsWrittenIsGone) {
  const TemporaryDirectory directory("prefixes");
  SchedulerOptions options = Options();
  options.prefixes.memory = int64_t{1} << 30;
  Scheduler scheduler(small_->model(), options);
  const std::shared_ptr<const Prefix> made = MakePrefix(scheduler, AsksAboutVideo());
  ASSERT_NE(made, nullptr);
  PrefixRecord record = *made;
  record.pictures.assign(1, std::string(size_t{100} << 20, 'x'));  // so that writing it takes a while
  PrefixStoreOptions limits;
  limits.memory = int64_t{1} << 30;
  limits.directory = directory.path();
  const auto files = [&] {
    std::set<std::string> names;
    for (const auto& file : std::filesystem::directory_iterator(directory.path())) {
      const std::string name = file.path().filename().string();
      if (name.starts_with("pfx-")) names.insert(name);
    }
    return names;
  };
  {
    PrefixStore store(small_->model(), limits);
    ASSERT_TRUE(store.Add(std::make_shared<const Prefix>(record, made->read.Fork())));
    std::thread shrinks([&] { store.Shrink(0); });
    while (files().empty()) std::this_thread::yield();
    EXPECT_NE(store.Use(made->id, ""), nullptr);
    EXPECT_TRUE(store.Remove(made->id, ""));
    EXPECT_EQ(files(), std::set<std::string>());
    shrinks.join();
    EXPECT_EQ(store.Use(made->id, ""), nullptr);
    EXPECT_EQ(store.bytes(), 0);
  }
  EXPECT_EQ(files(), std::set<std::string>());
  EXPECT_TRUE(PrefixStore(small_->model(), limits).List("").empty());
}

// A file is deleted for what it says, not for what the system lacks when it is to be read.
TEST_F(PrefixTest, OnlyDamagedFilesAreRemoved) {
  const TemporaryDirectory directory("prefixes");
  SchedulerOptions options = Options();
  std::vector<std::string> said;
  options.prefixes.memory = int64_t{1} << 30;
  options.prefixes.directory = directory.path();
  options.prefixes.log = [&](const std::string& line) { said.push_back(line); };
  Scheduler scheduler(small_->model(), options);
  PrefixStore& store = scheduler.prefixes();
  const auto [id, key] = [&] {
    const auto made = MakePrefix(scheduler, AsksAboutVideo());
    return std::pair(made->id, made->key);
  }();
  const std::string path = directory.path() + "/" + id + ".pkv";
  store.Shrink(0);
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none{.rlim_cur = 0, .rlim_max = before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  EXPECT_THROW(store.Use(id, ""), Refused);  // who names it can ask again
  const auto not_found = store.Find(key);    // who does not has it read anew
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(not_found, nullptr);
  ASSERT_EQ(said.size(), 2U);
  EXPECT_NE(said[0].find(path + ": cannot open: "), std::string::npos) << said[0];
  EXPECT_NE(store.Use(id, ""), nullptr);
  store.Shrink(0);
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 1);
  EXPECT_EQ(store.Use(id, ""), nullptr);
  EXPECT_EQ(said.size(), 3U);
  EXPECT_FALSE(std::filesystem::exists(path));
  EXPECT_TRUE(store.List("").empty());
}

// Who deletes what a job or a session goes on from frees no memory, until that ends.
TEST_F(PrefixTest, WhatIsDeletedCountsWhileItIsUsed) {
  SchedulerOptions options = Options();
  options.prefixes.memory = int64_t{1} << 30;
  Scheduler scheduler(small_->model(), options);
  PrefixStore& store = scheduler.prefixes();
  std::shared_ptr<const Prefix> held = MakePrefix(scheduler, AsksAboutVideo());
  ASSERT_NE(held, nullptr);
  const int64_t bytes = store.bytes();
  EXPECT_EQ(bytes, held->bytes());
  EXPECT_TRUE(store.Remove(held->id, ""));
  EXPECT_EQ(store.Use(held->id, ""), nullptr);
  EXPECT_EQ(store.bytes(), bytes);
  held.reset();
  EXPECT_EQ(store.bytes(), 0);
}

// Whatever keeps one from being written, it is said, leaves no file, and nothing else ends.
TEST_F(PrefixTest, WhatCannotBeWrittenIsSaidAndDropped) {
  const TemporaryDirectory directory("prefixes");
  SchedulerOptions options = Options();
  options.prefixes.memory = int64_t{1} << 30;
  Scheduler scheduler(small_->model(), options);
  const std::shared_ptr<const Prefix> made = MakePrefix(scheduler, AsksAboutVideo());
  ASSERT_NE(made, nullptr);
  PrefixRecord record = *made;
  record.chat[0].parts.push_back({.text = "\xff"});  // nothing that JSON can say
  for (const bool through : {false, true}) {
    SCOPED_TRACE(through ? "by the writer" : "to make room");
    std::vector<std::string> said;
    PrefixStoreOptions limits;
    limits.memory = int64_t{1} << 30;
    limits.directory = directory.path();
    limits.write_through = through;
    limits.log = [&](const std::string& line) { said.push_back(line); };
    {
      PrefixStore store(small_->model(), limits);
      ASSERT_TRUE(store.Add(std::make_shared<const Prefix>(record, made->read.Fork())));
      if (!through) {
        store.Shrink(0);
        EXPECT_EQ(store.dropped(), 1);
      }
    }  // the writer has ended
    EXPECT_EQ(said.size(), 1U);
    for (const auto& file : std::filesystem::directory_iterator(directory.path())) {
      EXPECT_FALSE(file.path().filename().string().starts_with(made->id)) << file.path();
    }
  }
}

// Memory is a limit: the last used stay.
TEST_F(PrefixTest, PrefixesMakeRoomForLaterOnes) {
  SchedulerOptions options = Options();
  options.prefixes.memory = int64_t{1} << 30;
  Scheduler scheduler(small_->model(), options);
  // One that nobody else has.
  const auto make = [&](const std::string& digest) {
    JobRequest request = AsksAboutVideo();
    request.kv.when = KvOptions::When::kContext;
    request.digests = {digest};
    const auto listener = std::make_shared<Listener>();
    scheduler.Submit(request, listener);
    listener->AwaitEnd();
    const std::string id = listener->result_.value().prefix;
    std::shared_ptr<const Prefix> prefix = scheduler.prefixes().Use(id, "");
    scheduler.prefixes().Remove(id, "");
    return prefix;
  };
  std::vector<PrefixKey> keys;
  int64_t bytes = 0, others = 0;
  {
    const auto first = make("0");
    bytes = first->bytes();
    keys.push_back(first->key);
  }
  for (const char* const digest : {"1", "2", "3", "4"}) {
    keys.push_back(keys[0]);
    keys.back().media[0].content = digest;
  }
  PrefixStoreOptions limits;
  limits.memory = 2 * bytes + bytes / 2;
  limits.others = [&](int64_t most) { others = most; };
  PrefixStore store(small_->model(), limits);
  EXPECT_TRUE(store.Add(make("0")));
  EXPECT_EQ(others, limits.memory - bytes);
  EXPECT_TRUE(store.Add(make("1")));
  EXPECT_NE(store.Find(keys[0]), nullptr);  // now "1" is the older one
  EXPECT_TRUE(store.Add(make("2")));
  EXPECT_EQ(store.bytes(), 2 * bytes);
  EXPECT_EQ(store.dropped(), 1);
  EXPECT_EQ(store.Find(keys[1]), nullptr);
  {
    // What is in use stays, and what has no room then is not kept.
    const auto held = store.Find(keys[0]), too = store.Find(keys[2]);
    ASSERT_TRUE(held != nullptr && too != nullptr);
    EXPECT_FALSE(store.Add(make("3")));
    EXPECT_EQ(store.Find(keys[3]), nullptr);
    store.Shrink(0);
    EXPECT_EQ(store.bytes(), 2 * bytes);
  }
  EXPECT_TRUE(store.Add(make("4")));
  EXPECT_EQ(store.Find(keys[0]), nullptr);
  store.Shrink(bytes);
  EXPECT_EQ(store.List("").size(), 1U);
  EXPECT_NE(store.Find(keys[4]), nullptr);
  limits.memory = bytes - 1;
  PrefixStore small(small_->model(), limits);
  EXPECT_FALSE(small.Add(make("0")));
  // What jobs have taken is not there for what is kept.
  limits.memory = 2 * bytes;
  limits.limit = [&] { return bytes - 1; };
  PrefixStore pressed(small_->model(), limits);
  EXPECT_FALSE(pressed.Add(make("0")));
}

}  // namespace
}  // namespace purekv
