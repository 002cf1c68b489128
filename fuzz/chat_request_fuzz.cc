// Any bytes as the body of a chat completion: an ApiError with a status of the client's, or a request whose numbers are
// within their limits; and any bytes as base64 and as the beginning of a medium.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string_view>

#include "base/base64.h"
#include "server/api_error.h"
#include "server/chat_request.h"
#include "server/request_fields.h"

namespace {

using purekv::ChatTurn;
using purekv::server::ChatDefaults;
using purekv::server::ChatRequest;

void Check(bool holds) {
  if (!holds) std::abort();
}

void CheckRequest(const ChatRequest& request, const ChatDefaults& defaults) {
  const purekv::JobRequest& job = request.job;
  Check(request.model == "m" && !job.chat.empty() && job.chat.back().role == ChatTurn::Role::kUser);
  Check(job.answers >= 1 && job.answers <= defaults.max_answers);
  Check(!job.max_tokens || (*job.max_tokens >= 1 && *job.max_tokens <= defaults.max_tokens_limit));
  Check(job.generate.temperature >= 0 && job.generate.temperature <= 2);
  Check(job.generate.top_p > 0 && job.generate.top_p <= 1 && job.generate.stop.size() <= 4);
  Check(job.generate.top_logprobs >= 0 && job.generate.top_logprobs <= 20);
  size_t media = 0;
  for (const ChatTurn& turn : job.chat) {
    media += static_cast<size_t>(
        std::count_if(turn.parts.begin(), turn.parts.end(), [](const auto& part) { return part.medium.has_value(); }));
  }
  Check(media == request.media.size());
  for (const ChatRequest::MediaReference& one : request.media) {
    Check(job.chat.at(one.turn).parts.at(one.part).medium.has_value());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  size_t decoded = 0;
  if (purekv::DecodeBase64(text, [&](std::span<const std::byte> bytes) { decoded += bytes.size(); })) {
    Check(size % 4 == 0 && decoded <= size / 4 * 3 && decoded + 2 >= size / 4 * 3);
  }
  purekv::server::SniffMedia(text);
  ChatDefaults defaults;
  defaults.models = {"m"};
  try {
    CheckRequest(purekv::server::ParseChatRequest(purekv::server::ParseRequest(text), defaults), defaults);
  } catch (const purekv::server::ApiError& error) {
    Check(error.status == 400 || error.status == 404);
    Check(!error.message.empty() && error.message.find('\n') == error.message.npos);
    purekv::server::ErrorObject(error);
  }
  return 0;
}
