#include "server/chat_reply.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

namespace purekv::server {
namespace {

constexpr auto kSilence = std::chrono::seconds(5);
constexpr auto kBetweenProgress = std::chrono::milliseconds(100);

}  // namespace

ChatReply::ChatReply(ChatRequest request, ChatIdentity identity, const Tokenizer& tokenizer, HttpFields fields,
                     std::shared_ptr<HttpExchange> exchange, EndFunction ended)
    : request_(std::move(request)),
      identity_(std::move(identity)),
      tokenizer_(tokenizer),
      fields_(std::move(fields)),
      exchange_(std::move(exchange)),
      ended_(std::move(ended)),
      last_text_(static_cast<size_t>(request_.job.answers)),
      tokens_before_(last_text_.size(), 0),
      tokens_sent_(last_text_.size(), 0) {
  end_.looks_up = LooksUp(request_.job);
}

void ChatReply::SendRaw(std::string piece) {
  if (!streaming_) {
    HttpResponse head;
    head.type = "text/event-stream";
    head.fields = fields_;
    head.fields.emplace_back("Cache-Control", "no-cache");
    head.fields.emplace_back("X-Accel-Buffering", "no");
    head.body = std::move(piece);
    exchange_->Begin(std::move(head));
    streaming_ = true;  // not before: an error that comes instead of a head has a status of its own
  } else {
    exchange_->Write(std::move(piece));
  }
  last_sent_ = Clock::now();
}

void ChatReply::Send(const OrderedJson& object) {
  SendRaw("data: " + server::Text(object) + "\n\n");
}

// Called while the prompt is read: what is wrong with a request shows mostly before, and gets a status of its own.
void ChatReply::Progress(const char* stage, int64_t done, int64_t total) {
  SetStage(stage, done, total);
  const std::lock_guard lock(mutex_);
  if (over_ || !request_.stream) return;
  const auto now = Clock::now();
  progress_ = StrCat(": ", stage, " ", done, "/", total, "\n\n");
  if (stage != last_stage_ || now - last_progress_ > kBetweenProgress || done == total) {
    if (!streaming_ && std::string_view(stage) == "prefill") SendRaw(progress_);
    if (request_.progress && streaming_) {
      OrderedJson object = ChunkObject(identity_, OrderedJson::array(), nullptr);
      object["purekv"] = {{"stage", stage}, {"done", done}, {"total", total}};
      Send(object);
    }
    last_stage_ = stage;
    last_progress_ = now;
  }
}

void ChatReply::Read(const PromptInfo& prompt, const KvStats& kv) {
  SetStage("decode", 0, 0);
  const std::lock_guard lock(mutex_);
  prompt_ = prompt;
  end_.prompt_tokens = static_cast<int64_t>(prompt.ids.size());
  end_.tokens_kept_mean = kv.tokens_kept_mean;
  end_.kv_bytes = kv.bytes_kept;
  if (over_ || !request_.stream) return;
  progress_ = ": decode\n\n";
  for (int64_t i = 0; i < request_.job.answers; ++i) {
    Send(ChunkObject(identity_, ChunkChoice(i, {{"role", "assistant"}, {"content", ""}}, nullptr, nullptr), nullptr));
  }
}

int64_t ChatReply::TokensSoFar() const {
  return static_cast<int64_t>(std::accumulate(tokens_before_.begin(), tokens_before_.end(), size_t{0}));
}

OrderedJson ChatReply::UsageSoFar() const {
  if (!request_.continuous_usage) return nullptr;
  return UsageObject(prompt_, TokensSoFar());
}

void ChatReply::SendPiece(int64_t index, const std::string& text, const Answer& so_far) {
  size_t& sent = tokens_sent_[static_cast<size_t>(index)];
  OrderedJson logprobs = nullptr;
  if (request_.logprobs) logprobs = LogprobsObject(so_far, sent, tokenizer_);
  sent = so_far.ids.size();
  Send(ChunkObject(identity_, ChunkChoice(index, {{"content", text}}, logprobs, nullptr), UsageSoFar()));
}

void ChatReply::Measure(size_t index, size_t tokens) {
  const auto seconds = [](Clock::duration time) { return std::chrono::duration<double>(time).count(); };
  const auto now = Clock::now();
  if (end_.first_token_s == 0) end_.first_token_s = seconds(now - start_);
  const size_t more = tokens - std::exchange(tokens_before_[index], tokens);
  const auto before = std::exchange(last_text_[index], now);
  // Several tokens of one piece came one after the other.
  if (before != Clock::time_point()) {
    end_.gaps.insert(end_.gaps.end(), more, seconds(now - before) / static_cast<double>(std::max<size_t>(more, 1)));
  }
}

void ChatReply::Text(int64_t index, const std::string& text, const Answer& so_far) {
  const std::lock_guard lock(mutex_);
  Measure(static_cast<size_t>(index), so_far.ids.size());
  if (!over_ && request_.stream) SendPiece(index, text, so_far);
}

void ChatReply::Ended(int64_t index, const Answer& answer) {
  const std::lock_guard lock(mutex_);
  tokens_before_[static_cast<size_t>(index)] = answer.ids.size();
  end_.completion_tokens = TokensSoFar();
  if (over_ || !request_.stream) return;
  // Tokens without text of their own, the end token among them.
  if (request_.logprobs && tokens_sent_[static_cast<size_t>(index)] < answer.ids.size()) SendPiece(index, "", answer);
  Send(ChunkObject(identity_, ChunkChoice(index, OrderedJson::object(), nullptr, FinishReason(answer.finish)),
                   UsageSoFar()));
}

void ChatReply::Done(const JobResult& result) {
  const std::lock_guard lock(mutex_);
  if (over_) return;
  const OrderedJson usage = UsageObject(request_.job, result);
  end_.SetDone(result);
  if (request_.stream) {
    if (request_.include_usage) Send(ChunkObject(identity_, OrderedJson::array(), usage));
    SendRaw("data: [DONE]\n\n");
    exchange_->End();
    return End(200);
  }
  OrderedJson choices = OrderedJson::array();
  for (size_t i = 0; i < result.answers.size(); ++i) {
    const Answer& answer = result.answers[i];
    OrderedJson logprobs = nullptr;
    if (request_.logprobs) logprobs = LogprobsObject(answer, 0, tokenizer_);
    choices.push_back({{"index", i},
                       {"message", {{"role", "assistant"}, {"content", answer.text}, {"refusal", nullptr}}},
                       {"logprobs", std::move(logprobs)},
                       {"finish_reason", FinishReason(answer.finish)}});
  }
  HttpResponse response;
  response.body = server::Text(CompletionObject(identity_, choices, usage));
  response.fields = fields_;
  exchange_->Respond(std::move(response));
  End(200);
}

void ChatReply::Failed(const JobFailure& failure) {
  Refuse(ErrorOf(failure, RequestNames(request_)),
         failure.reason == JobFailure::Reason::kInternal ? failure.message.text : "");
}

void ChatReply::Refuse(const ApiError& error, const std::string& problem) {
  const std::lock_guard lock(mutex_);
  if (over_) return;
  end_.problem = problem;
  end_.code = error.code;
  if (streaming_) {
    SendRaw("data: " + ErrorObject(error) + "\n\n");
    exchange_->End();
  } else {
    HttpResponse response = ErrorResponse(error);
    response.fields.insert(response.fields.end(), fields_.begin(), fields_.end());
    exchange_->Respond(std::move(response));
  }
  End(error.status);
}

void ChatReply::KeepAlive() {
  const std::lock_guard lock(mutex_);
  if (over_ || !request_.stream || Clock::now() - last_sent_ < kSilence) return;
  SendRaw(progress_.empty() ? ": queued\n\n" : progress_);
}

void ChatReply::Gone() {
  const std::lock_guard lock(mutex_);
  if (!over_) End(kClientGone);
}

void ChatReply::End(int status) {
  over_ = true;
  end_.status = status;
  end_.stage = stage().name;
  end_.completion_tokens = TokensSoFar();
  ended_(end_);
  ended_ = nullptr;
}

}  // namespace purekv::server
