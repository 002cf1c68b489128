#include "server/reply.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "server/chat_json.h"

namespace purekv::server {

ApiError ErrorOf(const JobFailure& failure, const RequestNames& names) {
  using Reason = JobFailure::Reason;
  const auto name = [&](const std::string& field) { return names.ParamOf(field); };
  ApiError error;
  error.message = failure.message.Naming(name);
  error.status = 400;
  switch (failure.reason) {
    case Reason::kRefused:
      error.code = "invalid_value";
      if (const std::string field = failure.message.field(); !field.empty()) error.param = name(field);
      return error;
    case Reason::kTooLong:
      error.code = "context_length_exceeded";
      error.param = "messages";
      return error;
    case Reason::kNoRoom:
      error.code = "kv_budget_exceeded";
      return error;
    case Reason::kMedia:
      error.code = "invalid_media";
      for (const ChatRequest::MediaReference& one : names.media) {
        if (one.turn == failure.part->turn && one.part == failure.part->part) error.param = one.param;
      }
      error.message = error.param.value_or("messages") + ": " + error.message;
      return error;
    case Reason::kQueueTimeout:
      error.status = 504;
      error.code = "queue_timeout";
      return error;
    case Reason::kDraining:
      error.status = 503;
      error.code = "draining";
      error.retry_after_s = 1;
      return error;
    case Reason::kCancelled:
    case Reason::kInternal:
      break;
  }
  return InternalError();
}

ApiError InternalError() {
  return MakeApiError(500, "internal",
                      "the server failed to answer this request; its log has the request's id and the reason");
}

const char* CacheOf(const JobResult& result) {
  return result.from_session        ? "session"
         : result.from_disk         ? "disk"
         : result.cached_tokens > 0 ? "prefix"
         : result.embedded          ? "embeddings"
                                    : "none";
}

bool LooksUp(const JobRequest& request) {
  return !request.digests.empty() && request.cache == JobRequest::Cache::kUse;
}

void ReplyEnd::SetDone(const JobResult& result) {
  done = true;
  cache = CacheOf(result);
  cached_tokens = result.cached_tokens;
  visual_tokens = result.prompt.visual_tokens;
  tokens_full = result.kv.tokens_full;
  kv_bytes_full = result.kv.bytes_full;
  queue_s = result.queue_s;
  fetch_s = result.fetch_s;
  times = result.times;
}

ObjectReply::ObjectReply(HttpFields fields, std::shared_ptr<HttpExchange> exchange, EndFunction ended,
                         const ChatRequest& request, std::function<OrderedJson(const JobResult&)> done)
    : fields_(std::move(fields)),
      exchange_(std::move(exchange)),
      ended_(std::move(ended)),
      names_(request),
      done_(std::move(done)) {
  end_.looks_up = LooksUp(request.job);
}

void ObjectReply::Progress(const char* stage, int64_t done, int64_t total) {
  SetStage(stage, done, total);
}
void ObjectReply::Text(int64_t, const std::string&, const Answer&) {}
void ObjectReply::Ended(int64_t, const Answer&) {}

void ObjectReply::Read(const PromptInfo& prompt, const KvStats& kv) {
  const std::lock_guard lock(mutex_);
  end_.prompt_tokens = static_cast<int64_t>(prompt.ids.size());
  end_.tokens_kept_mean = kv.tokens_kept_mean;
  end_.kv_bytes = kv.bytes_kept;
}

void ObjectReply::Done(const JobResult& result) {
  {
    const std::lock_guard lock(mutex_);
    end_.SetDone(result);
  }
  try {
    Respond(done_(result));
  } catch (const ApiError& error) {
    Refuse(error, "");
  }
}

void ObjectReply::Failed(const JobFailure& failure) {
  Refuse(ErrorOf(failure, names_), failure.reason == JobFailure::Reason::kInternal ? failure.message.text : "");
}

void ObjectReply::Respond(const OrderedJson& object) {
  HttpResponse response;
  response.body = server::Text(object);
  End(response.status, &response, "", "");
}

void ObjectReply::Refuse(const ApiError& error, const std::string& problem) {
  const HttpResponse response = ErrorResponse(error);
  End(error.status, &response, problem, error.code);
}

void ObjectReply::Gone() {
  End(kClientGone, nullptr, "", "");
}

void ObjectReply::End(int status, const HttpResponse* response, const std::string& problem, const std::string& code) {
  const std::lock_guard lock(mutex_);
  if (!ended_) return;
  if (response != nullptr) {
    HttpResponse whole = *response;
    whole.fields.insert(whole.fields.end(), fields_.begin(), fields_.end());
    exchange_->Respond(std::move(whole));
  }
  const EndFunction ended = std::exchange(ended_, nullptr);  // whatever fails from here on, it is not answered twice
  end_.status = status;
  end_.problem = problem;
  end_.code = code;
  end_.stage = stage().name;
  ended(end_);
}

}  // namespace purekv::server
