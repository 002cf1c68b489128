#include "server/chat_json.h"

#include <nlohmann/json.hpp>

namespace purekv::server {
namespace {

OrderedJson TokenObject(int32_t id, float logprob, const Tokenizer& tokenizer) {
  // A token may hold part of a character: its bytes say what its text cannot.
  const std::string bytes = tokenizer.DecodeBytes(id, false);
  OrderedJson numbers = OrderedJson::array();
  for (const char byte : bytes) numbers.push_back(static_cast<unsigned char>(byte));
  return {{"token", tokenizer.Decode({&id, 1}, false)}, {"logprob", logprob}, {"bytes", std::move(numbers)}};
}

OrderedJson MediaObjects(const PromptInfo& prompt) {
  OrderedJson media = OrderedJson::array();
  for (const MediaInfo& one : prompt.media) {
    OrderedJson object = {{"kind", one.kind == MediaSource::Kind::kImage ? "image" : "video"},
                          {"frames", one.frames},
                          {"grid", one.grid},
                          {"tokens", one.tokens}};
    if (one.kind != MediaSource::Kind::kImage) object["sample_fps"] = one.sample_fps;
    if (one.frames_missing > 0) object["frames_missing"] = one.frames_missing;
    if (one.frames_damaged > 0) object["frames_damaged"] = one.frames_damaged;
    media.push_back(std::move(object));
  }
  return media;
}

OrderedJson Object(const ChatIdentity& identity, const char* kind, const OrderedJson& choices) {
  return {{"id", identity.id},
          {"object", kind},
          {"created", static_cast<int64_t>(identity.created)},
          {"model", identity.model},
          {"system_fingerprint", identity.fingerprint},
          {"choices", choices}};
}

}  // namespace

std::string Text(const OrderedJson& object) {
  return object.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

OrderedJson CompletionObject(const ChatIdentity& identity, const OrderedJson& choices, const OrderedJson& usage) {
  OrderedJson object = Object(identity, "chat.completion", choices);
  object["usage"] = usage;
  return object;
}

OrderedJson ChunkObject(const ChatIdentity& identity, const OrderedJson& choices, const OrderedJson& usage) {
  OrderedJson object = Object(identity, "chat.completion.chunk", choices);
  if (!usage.is_null()) object["usage"] = usage;
  return object;
}

OrderedJson ChunkChoice(int64_t index, const OrderedJson& delta, const OrderedJson& logprobs,
                        const OrderedJson& finish_reason) {
  return OrderedJson::array(
      {{{"index", index}, {"delta", delta}, {"logprobs", logprobs}, {"finish_reason", finish_reason}}});
}

const char* FinishReason(Answer::Finish finish) {
  return finish == Answer::Finish::kStop ? "stop" : "length";
}

OrderedJson LogprobsObject(const Answer& answer, size_t first, const Tokenizer& tokenizer) {
  OrderedJson content = OrderedJson::array();
  for (size_t i = first; i < answer.ids.size(); ++i) {
    OrderedJson token = TokenObject(answer.ids[i], answer.logprobs[i], tokenizer);
    OrderedJson& top = token["top_logprobs"] = OrderedJson::array();
    if (i < answer.top.size()) {
      for (const Answer::Candidate& one : answer.top[i]) top.push_back(TokenObject(one.id, one.logprob, tokenizer));
    }
    content.push_back(std::move(token));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

OrderedJson UsageObject(const PromptInfo& prompt, int64_t completion_tokens) {
  const auto tokens = static_cast<int64_t>(prompt.ids.size());
  return {{"prompt_tokens", tokens},
          {"completion_tokens", completion_tokens},
          {"total_tokens", tokens + completion_tokens},
          {"prompt_tokens_details", {{"cached_tokens", 0}, {"image_tokens", prompt.visual_tokens}}}};
}

OrderedJson UsageObject(const JobRequest& request, const JobResult& result) {
  int64_t generated = 0;
  for (const Answer& answer : result.answers) generated += static_cast<int64_t>(answer.ids.size());
  OrderedJson usage = UsageObject(result.prompt, generated);
  usage["prompt_tokens_details"]["cached_tokens"] = result.cached_tokens;
  const KvOptions& kv = request.kv;
  OrderedJson own = {{"policy", kv.policy}};
  if (kv.budget || kv.policy == "full") own["budget"] = kv.budget.value_or(1);
  if (kv.tokens) own["tokens"] = *kv.tokens;
  if (kv.bytes) own["bytes"] = *kv.bytes;
  own["when"] = kv.when == KvOptions::When::kPrompt ? "prompt" : "context";
  own["prefill"] = request.prefill.kind;
  own["cache"] = CacheOf(result);
  if (!result.prefix.empty()) own["prefix"] = result.prefix;
  own["tokens_full"] = result.kv.tokens_full;
  own["tokens_kept_mean"] = result.kv.tokens_kept_mean;
  own["kv_bytes_full"] = result.kv.bytes_full;
  own["kv_bytes_kept"] = result.kv.bytes_kept;
  own["kv_bytes_shared"] = result.shared_bytes;
  own["kv_bytes_peak"] = result.kv.bytes_peak;
  own["kv_bytes_now"] = result.kv.bytes_now;
  own["media"] = MediaObjects(result.prompt);
  own["time"] = {{"queue_s", result.queue_s},           {"fetch_s", result.fetch_s},
                 {"media_s", result.times.media_s},     {"vision_s", result.times.vision_s},
                 {"prefill_s", result.times.prefill_s}, {"decode_s", result.times.decode_s}};
  usage["purekv"] = std::move(own);
  return usage;
}

}  // namespace purekv::server
