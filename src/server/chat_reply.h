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
#include "server/reply.h"
#include "serving/job.h"

namespace purekv::server {

class ChatReply final : public Reply {
 public:
  // tokenizer: borrowed. fields: of the response.
  ChatReply(ChatRequest request, ChatIdentity identity, const Tokenizer& tokenizer, HttpFields fields,
            std::shared_ptr<HttpExchange> exchange, EndFunction ended);

  const JobRequest& job() const { return request_.job; }

  void Progress(const char* stage, int64_t done, int64_t total) override;
  void Read(const PromptInfo& prompt, const KvStats& kv) override;
  void Text(int64_t index, const std::string& text, const Answer& so_far) override;
  void Ended(int64_t index, const Answer& answer) override;
  void Done(const JobResult& result) override;
  void Failed(const JobFailure& failure) override;

  void Refuse(const ApiError& error, const std::string& problem) override;
  void KeepAlive() override;  // a comment
  void Gone() override;

 private:
  using Clock = std::chrono::steady_clock;

  // All with the lock held.
  void Send(const OrderedJson& object);
  void SendRaw(std::string piece);
  int64_t TokensSoFar() const;  // of all answers, which grow side by side
  OrderedJson UsageSoFar() const;
  void End(int status);
  void Measure(size_t index, size_t tokens);
  void SendPiece(int64_t index, const std::string& text, const Answer& so_far);

  std::mutex mutex_;
  const ChatRequest request_;
  const ChatIdentity identity_;
  const Tokenizer& tokenizer_;
  const HttpFields fields_;
  const std::shared_ptr<HttpExchange> exchange_;
  EndFunction ended_;
  bool streaming_ = false;  // the head of a stream has gone out
  bool over_ = false;
  const Clock::time_point start_ = Clock::now();
  Clock::time_point last_sent_ = start_;
  std::vector<Clock::time_point> last_text_;  // of each answer; none yet: the epoch
  std::vector<size_t> tokens_before_;         // likewise, its tokens then; all of them once it has ended
  std::string progress_;                      // the comment that says how far the work is
  std::string last_stage_;                    // of the progress that a client asked for
  Clock::time_point last_progress_{};         // likewise
  PromptInfo prompt_;                         // once it has been read
  ReplyEnd end_;
  std::vector<size_t> tokens_sent_;  // of each answer, with their log-probabilities
};

}  // namespace purekv::server
