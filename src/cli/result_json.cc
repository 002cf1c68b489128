#include "cli/result_json.h"

#include <nlohmann/json.hpp>

#include "base/memory.h"
#include "cli/conversation.h"
#include "policy/attend_options.h"
#include "policy/drop.h"
#include "policy/registry.h"

namespace purekv::cli {
namespace {

using OrderedJson = nlohmann::ordered_json;

const char* KindName(MediaSource::Kind kind) {
  return kind == MediaSource::Kind::kImage ? "image" : "video";
}

const char* FinishName(Answer::Finish finish) {
  switch (finish) {
    case Answer::Finish::kStop:
      return "stop";
    case Answer::Finish::kCancelled:
      return "cancelled";
    case Answer::Finish::kLength:
      break;
  }
  return "length";
}

OrderedJson PromptObject(const std::vector<Exchange>& exchanges) {
  const PromptInfo info = exchanges.empty() ? PromptInfo() : exchanges.front().info;
  OrderedJson media = OrderedJson::array();
  for (const MediaInfo& item : info.media) {
    OrderedJson& one = media.emplace_back(OrderedJson{{"kind", KindName(item.kind)},
                                                      {"frames", item.frames},
                                                      {"grid", item.grid},
                                                      {"tokens", item.tokens},
                                                      {"sample_fps", item.sample_fps},
                                                      {"frames_expected", item.frames_expected},
                                                      {"frames_missing", item.frames_missing},
                                                      {"frames_damaged", item.frames_damaged},
                                                      {"cut_off", item.cut_off}});
    if (item.map[0] > 0) one["map"] = item.map;
  }
  return {{"tokens", info.ids.size()}, {"visual_tokens", info.visual_tokens}, {"ids", info.ids}, {"media", media}};
}

OrderedJson AnswersArray(const std::vector<Exchange>& exchanges, bool scored) {
  OrderedJson answers = OrderedJson::array();
  for (size_t i = 0; i < exchanges.size(); ++i) {
    if (scored && i + 1 == exchanges.size()) break;  // the last turn's answer was given, not generated
    const Exchange& exchange = exchanges[i];
    answers.push_back({{"prompt", exchange.prompt},
                       {"text", exchange.answer.text},
                       {"ids", exchange.answer.ids},
                       {"finish", FinishName(exchange.answer.finish)},
                       {"logprobs", exchange.answer.logprobs},
                       {"prompt_ids", exchange.info.ids}});
  }
  return answers;
}

OrderedJson KvObject(const KvOptions& options, const KvStats& stats) {
  OrderedJson object = {{"policy", options.policy}, {"when", WhenName(options.when)}};
  if (options.budget || options.policy == "full") {
    object["budget"] = options.budget.value_or(1.0);
  } else {
    object["budget"] = nullptr;  // asked for in tokens or bytes
  }
  if (options.tokens) object["budget_tokens"] = *options.tokens;
  if (options.bytes) object["budget_bytes"] = *options.bytes;
  object["allocator"] = AllocatorOf(options);
  object["merge"] = MergeRuleOf(options);
  object["keys"] = options.keys;
  object["values"] = options.values;
  object["key_channels"] = options.key_channels.value_or(1.0);
  if (!options.basis.empty()) object["basis"] = options.basis;
  object["budget_of"] = options.budget_of == KvOptions::Of::kBytes ? "bytes" : "tokens";
  object["attend"] = AttendName(options.attend);
  if (options.attend.budget) object["attend_budget"] = *options.attend.budget;
  if (options.attend.tokens) object["attend_tokens"] = *options.attend.tokens;
  object["store"] = options.store.kind == StoreOptions::Kind::kFile ? "file" : "memory";
  object["options"] = OrderedJson::object();
  for (const auto& [key, value] : options.options) object["options"][key] = value;
  for (const auto& [key, value] : options.attend.options) object["options"][key] = value;
  if (!options.drop_layers.empty()) {
    object["drop_layers"] = DropLayersText(options.drop_layers);
    object["tokens_alive"] = stats.tokens_alive;  // per drop layer
  }
  object["tokens_full"] = stats.tokens_full;
  object["tokens_kept_mean"] = stats.tokens_kept_mean;
  object["merged"] = stats.merged;
  object["bits_keys"] = stats.bits_keys;
  object["bits_values"] = stats.bits_values;
  object["bytes_full"] = stats.bytes_full;
  object["bytes_kept"] = stats.bytes_kept;
  object["bytes_peak"] = stats.bytes_peak;
  object["bytes_now"] = stats.bytes_now;
  object["bytes_most"] = stats.bytes_most;
  object["bytes_resident"] = stats.bytes_resident;
  object["bytes_stored"] = stats.bytes_now;
  object["bytes_read_mean"] = stats.bytes_read_mean;
  object["bytes_attended_mean"] = stats.bytes_attended_mean;
  object["entries_attended_mean"] = stats.entries_attended_mean;
  return object;
}

OrderedJson PrefillObject(const PrefillOptions& options, const PrefillStats& stats) {
  OrderedJson object = {{"kind", options.kind}, {"options", OrderedJson::object()}};
  for (const auto& [key, value] : options.options) object["options"][key] = value;
  if (options.kind != "dense") object["start"] = stats.start;
  object["flops_share"] = stats.flops_share;
  if (stats.parts.empty()) return object;
  object["parts"] = OrderedJson::object();
  for (const PrefillStats::Part& part : stats.parts) object["parts"][part.name] = part.flops_share;
  return object;
}

// Every option that the request looks at.
OrderedJson WeightOptionsObject(const WeightOptions& options) {
  const char* const names[] = {"bf16", "int8"};
  OrderedJson object = OrderedJson::object();
  if (options.request == WeightRequest::kInt4) {
    object["group"] = options.group;
    object["down"] = options.int8_down ? "int8" : "int4";
  }
  if (options.request == WeightRequest::kInt4 || options.request == WeightRequest::kInt8) {
    object["head"] = names[options.int8_head ? 1 : 0];
  }
  object["vision"] = names[options.int8_vision ? 1 : 0];
  object["activations"] = names[options.rows == RowRequest::kInt8 ? 1 : 0];
  return object;
}

std::string Compact(const OrderedJson& value) {
  return value.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

}  // namespace

OrderedJson WeightsObject(const WeightInfo& weights) {
  OrderedJson storage = OrderedJson::object();
  for (const auto& [form, bytes] : weights.storage) storage[form] = bytes;
  return {{"requested", RequestName(weights.options.request)},
          {"source", weights.source},
          {"storage", storage},
          {"bits_per_weight", weights.bits_per_weight},
          {"options", WeightOptionsObject(weights.options)}};
}

std::string JsonText(const OrderedJson& object) {
  std::string text = "{";
  const char* separator = "\n ";
  for (const auto& [key, value] : object.items()) {
    text += separator + Compact(key) + ": ";
    separator = ",\n ";
    if (!value.is_array() || value.empty() || !value.front().is_object()) {
      text += Compact(value);
      continue;
    }
    const char* inner = "[\n  ";
    for (const OrderedJson& element : value) {
      text += inner + Compact(element);
      inner = ",\n  ";
    }
    text += "\n ]";
  }
  return text + "\n}\n";
}

std::string ResultJson(const Conversation& conversation, const ScoreReport* score, const SavedFile* saved) {
  const ModelInfo& info = conversation.model()->info();
  const StageTimes& times = conversation.session().times();
  OrderedJson result;
  result["model"] = {{"dir", conversation.flags().model.directory},
                     {"family", info.family},
                     {"dtype", DtypeName(info.dtype)},
                     {"parameters", info.parameters},
                     {"weights", WeightsObject(info.weights)}};
  result["prompt"] = PromptObject(conversation.exchanges());
  if (saved == nullptr) result["answers"] = AnswersArray(conversation.exchanges(), score != nullptr);
  result["kv"] = KvObject(conversation.session().kv_options(), conversation.kv());
  result["prefill"] = PrefillObject(conversation.session().prefill_options(), conversation.session().prefill());
  if (saved != nullptr) result["cache"] = {{"file", saved->path}, {"bytes", saved->bytes}, {"save_s", saved->seconds}};
  if (score != nullptr) {
    OrderedJson object = {
        {"ids", score->result.ids}, {"logprobs", score->result.logprobs}, {"top1", score->result.top1}};
    if (score->kl) object["kl"] = *score->kl;
    if (score->agreement) object["agreement"] = *score->agreement;
    result["score"] = std::move(object);
  }
  result["time"] = {
      {"load_s", conversation.load_seconds()},
      {"media_s", times.media_s},
      {"vision_s", times.vision_s},
      {"prefill_s", times.prefill_s},
      {"decode_s", times.decode_s},
      {"decode_tokens_per_s", times.decode_s > 0 ? static_cast<double>(times.decoded_tokens) / times.decode_s : 0.0}};
  if (times.repeat_s > 0) result["time"]["repeat_s"] = times.repeat_s;
  if (!conversation.flags().cache.empty()) result["time"]["cache_load_s"] = conversation.cache_seconds();
  result["threads"] = conversation.threads();
  result["rss_bytes"] = ResidentBytes();
  result["peak_rss_bytes"] = PeakResidentBytes();
  result["kernels"] = KernelChoices(*conversation.model());
  result["warnings"] =
      conversation.exchanges().empty() ? std::vector<std::string>() : conversation.exchanges().front().info.warnings;
  return JsonText(result);
}

std::string KeptJson(const Session& session) {
  OrderedJson kept;
  kept["tokens"] = session.kv().tokens_compressed;
  kept["layers"] = session.kept();
  return JsonText(kept);
}

}  // namespace purekv::cli
