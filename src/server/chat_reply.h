// The answer of a chat completion on its way to the client: as one object, or as a stream of events.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "server/api_error.h"
#include "server/chat_json.h"
#include "server/http.h"
#include "serving/job.h"

namespace purekv::server {

// How a request ended, for the log.
struct ReplyEnd {
  int status = 200;
  int64_t prompt_tokens = 0, completion_tokens = 0;
  double tokens_kept_mean = 0;
  int64_t kv_bytes = 0;
  int64_t cached_tokens = 0;
  std::string problem;  // of a failure that the client is not told
};

class ChatReply final : public JobListener {
 public:
  // tokenizer: borrowed. fields: of the response. ended: called once, in the thread that ended it.
  ChatReply(ChatRequest request, ChatIdentity identity, const Tokenizer& tokenizer, HttpFields fields,
            std::shared_ptr<HttpExchange> exchange, std::function<void(const ReplyEnd&)> ended);

  const JobRequest& job() const { return request_.job; }

  void Progress(const char* stage, int64_t done, int64_t total) override;
  void Read(const PromptInfo& prompt, const KvStats& kv) override;
  void Text(int64_t index, const std::string& text, const Answer& so_far) override;
  void Ended(int64_t index, const Answer& answer) override;
  void Done(const JobResult& result) override;
  void Failed(const JobFailure& failure) override;

  // Ends it with an error. problem: what the client is not told. Nothing when it has ended.
  void Refuse(const ApiError& error, const std::string& problem);
  // A comment into a stream that has been silent for long, which keeps clients from giving up. Any thread.
  void KeepAlive();
  // The client has gone: 499 in the log, nothing more is sent.
  void Gone();

 private:
  using Clock = std::chrono::steady_clock;

  // All with the lock held.
  void Send(const OrderedJson& object);
  void SendRaw(std::string piece);
  OrderedJson UsageSoFar() const;
  void End(int status);
  void SendPiece(int64_t index, const std::string& text, const Answer& so_far);

  ApiError ErrorOf(const JobFailure& failure) const;

  std::mutex mutex_;
  const ChatRequest request_;
  const ChatIdentity identity_;
  const Tokenizer& tokenizer_;
  const HttpFields fields_;
  const std::shared_ptr<HttpExchange> exchange_;
  std::function<void(const ReplyEnd&)> ended_;
  bool streaming_ = false;  // the head of a stream has gone out
  bool over_ = false;
  Clock::time_point last_sent_ = Clock::now();
  std::string progress_;               // the comment that says how far the work is
  std::string last_stage_;             // of the progress that a client asked for
  Clock::time_point last_progress_{};  // likewise
  PromptInfo prompt_;                  // once it has been read
  ReplyEnd end_;
  std::vector<size_t> tokens_sent_;            // of each answer, with their log-probabilities
  int64_t tokens_ended_ = 0, tokens_now_ = 0;  // of answers that have ended, and of the one that grows
};

}  // namespace purekv::server
