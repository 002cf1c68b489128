// Media that one request decodes and reads, and others ask about meanwhile: these wait until what is made of them can
// be found, or until the first has ended without it, and look again.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "serving/embedding_store.h"
#include "serving/job.h"

namespace purekv::server {

// Any thread may call it.
class MediaInMaking {
 public:
  using Keys = std::vector<EmbeddingKey>;
  // Who has it makes them; when it goes, by whatever way, those who wait are called. It must go before this does.
  using Maker = std::shared_ptr<const void>;

  // Nothing: another makes all of them now, and `again` will be called once, by who ends that: it calls nothing of
  // this, throws nothing and takes no time. Empty: it does not wait. A Maker of no keys is null.
  std::optional<Maker> Make(Keys keys, const std::function<void()>& again);
  // Nobody is called any more.
  void Close();

 private:
  struct Entry {
    Keys keys;
    std::list<std::function<void()>> waiting{};
  };
  using Entries = std::list<Entry>;

  void End(Entries::iterator entry) noexcept;

  std::mutex mutex_;
  Entries entries_;
  bool closed_ = false;
};

// Tells a listener all, and lets go of what its job makes for others once they can find it: when the prompt has been
// read, or the job has ended.
class MakingListener final : public JobListener {
 public:
  MakingListener(std::shared_ptr<JobListener> listener, MediaInMaking::Maker maker)
      : listener_(std::move(listener)), maker_(std::move(maker)) {}

  void Progress(const char* stage, int64_t done, int64_t total) override { listener_->Progress(stage, done, total); }
  void Read(const PromptInfo& prompt, const KvStats& kv) override {
    maker_.reset();
    listener_->Read(prompt, kv);
  }
  void Text(int64_t index, const std::string& text, const Answer& so_far) override {
    listener_->Text(index, text, so_far);
  }
  void Ended(int64_t index, const Answer& answer) override { listener_->Ended(index, answer); }
  void Done(const JobResult& result) override { listener_->Done(result); }
  void Failed(const JobFailure& failure) override {
    maker_.reset();
    listener_->Failed(failure);
  }

 private:
  const std::shared_ptr<JobListener> listener_;
  MediaInMaking::Maker maker_;
};

}  // namespace purekv::server
