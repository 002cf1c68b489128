// The objects of a chat completion, whole and in chunks, in OpenAI's form.
#pragma once

#include <cstdint>
#include <ctime>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "checkpoint/tokenizer.h"
#include "purekv/session.h"
#include "server/chat_request.h"
#include "server/reply.h"

namespace purekv::server {

// What all objects of one answer have in common.
struct ChatIdentity {
  std::string id;  // "chatcmpl-..."
  std::string model;
  std::string fingerprint;  // "pkv-..."
  std::time_t created = 0;
};

// On one line; what is no UTF-8 becomes U+FFFD.
std::string Text(const OrderedJson& object);

OrderedJson CompletionObject(const ChatIdentity& identity, const OrderedJson& choices, const OrderedJson& usage);
// choices may be empty; usage: null where it is not said.
OrderedJson ChunkObject(const ChatIdentity& identity, const OrderedJson& choices, const OrderedJson& usage);
// finish_reason: null while the answer goes on.
OrderedJson ChunkChoice(int64_t index, const OrderedJson& delta, const OrderedJson& logprobs,
                        const OrderedJson& finish_reason);
const char* FinishReason(Answer::Finish finish);
// {"content": [...]} of tokens first .. answer.ids.size().
OrderedJson LogprobsObject(const Answer& answer, size_t first, const Tokenizer& tokenizer);

// The counts alone.
OrderedJson UsageObject(const PromptInfo& prompt, int64_t completion_tokens);
// And usage.purekv: what was kept of the cache, and how long it took.
OrderedJson UsageObject(const JobRequest& request, const JobResult& result);

}  // namespace purekv::server
