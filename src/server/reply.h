// The answer to one request on its way to the client, whoever works on it.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "server/api_error.h"
#include "server/http.h"
#include "server/request_names.h"
#include "serving/job.h"

namespace purekv::server {

using OrderedJson = nlohmann::ordered_json;

// How a request ended, for the log.
struct ReplyEnd {
  int status = 200;
  int64_t prompt_tokens = 0, completion_tokens = 0;
  double tokens_kept_mean = 0;
  int64_t kv_bytes = 0;
  std::string problem;       // of a failure that the client is not told
  std::string code;          // of an error
  std::string stage;         // that it was in: "queue"
  double first_token_s = 0;  // from the request on; 0: it had none
  std::vector<double> gaps;  // seconds from each piece of text to the next, by its tokens
  // Of a job that was done.
  bool done = false;
  bool looks_up = false;  // what is kept
  std::string cache;      // what it found there: "none"
  int64_t cached_tokens = 0, visual_tokens = 0, tokens_full = 0, kv_bytes_full = 0;
  double queue_s = 0, fetch_s = 0;
  StageTimes times;

  void SetDone(const JobResult& result);
};
using EndFunction = std::function<void(const ReplyEnd&)>;  // called once, in the thread that ended it

// Whether a request may use what is kept of media.
bool LooksUp(const JobRequest& request);
// What a job went on from: "none", "embeddings", "prefix", "disk".
const char* CacheOf(const JobResult& result);

// Any thread may call. What comes behind its end does nothing.
class Reply : public JobListener {
 public:
  // Where the work on it is.
  struct Stage {
    std::string name = "queue";
    int64_t done = 0, total = 0;
  };
  Stage stage() const {
    const std::lock_guard lock(stage_mutex_);
    return stage_;
  }
  void SetStage(const char* name, int64_t done, int64_t total) {
    const std::lock_guard lock(stage_mutex_);
    stage_ = {name, done, total};
  }

  // Ends it with an error. problem: what the client is not told.
  virtual void Refuse(const ApiError& error, const std::string& problem) = 0;
  // Something into an answer that has been silent for long, which keeps clients from giving up.
  virtual void KeepAlive() {}
  // The client has gone: 499 in the log, nothing more is sent.
  virtual void Gone() = 0;

 private:
  mutable std::mutex stage_mutex_;
  Stage stage_;
};

constexpr int kClientGone = 499;  // as nginx logs it

// What a client is told of a job that failed.
ApiError ErrorOf(const JobFailure& failure, const RequestNames& names);
// Of what went wrong inside: for the log, not for strangers.
ApiError InternalError();

// An answer that is one object: of a job, or of what needs none.
class ObjectReply final : public Reply {
 public:
  // fields: of the response. done: the object of a job that has been done, or throws ApiError; may be empty.
  ObjectReply(HttpFields fields, std::shared_ptr<HttpExchange> exchange, EndFunction ended, const ChatRequest& request,
              std::function<OrderedJson(const JobResult&)> done = nullptr);

  void Progress(const char* stage, int64_t done, int64_t total) override;
  void Read(const PromptInfo& prompt, const KvStats& kv) override;
  void Text(int64_t index, const std::string& text, const Answer& so_far) override;
  void Ended(int64_t index, const Answer& answer) override;
  void Done(const JobResult& result) override;
  void Failed(const JobFailure& failure) override;
  void Refuse(const ApiError& error, const std::string& problem) override;
  void Gone() override;
  // Ends it.
  void Respond(const OrderedJson& object);

 private:
  void End(int status, const HttpResponse* response, const std::string& problem, const std::string& code);

  std::mutex mutex_;
  const HttpFields fields_;
  const std::shared_ptr<HttpExchange> exchange_;
  EndFunction ended_;  // empty: it has ended
  const RequestNames names_;
  const std::function<OrderedJson(const JobResult&)> done_;
  ReplyEnd end_;
};

}  // namespace purekv::server
