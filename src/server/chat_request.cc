#include "server/chat_request.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "server/api_error.h"
#include "serving/prefix_store.h"

namespace purekv::server {
namespace {

constexpr int64_t kMost = int64_t{1} << 40;  // of counts that other limits bound
constexpr size_t kMaxMessages = 4096, kMaxStops = 4, kMaxName = 256;
constexpr size_t kMaxSessionName = 128;
constexpr int64_t kMaxTopLogprobs = 20;

std::string At(const std::string& path, size_t index) {
  return StrCat(path, "[", index, "]");
}

// Keys that SDKs send and that ask for nothing.
void CheckWithoutEffect(const RequestFields& fields) {
  const auto only = [&](const char* key, const char* value) {
    if (fields.Has(key) && (!fields.Get(key)->is_string() || *fields.String(key) != value)) {
      Refuse("unsupported_parameter", key, ": only \"", value, "\" is supported");
    }
  };
  only("tool_choice", "none");
  if (const auto format = fields.Object("response_format")) {
    format->AllowOnly({"type"});
    if (format->String("type").value_or("text") != "text") {
      Refuse("unsupported_parameter", "response_format", ": only {\"type\": \"text\"} is supported");
    }
  }
  for (const char* const key : {"tools", "logit_bias"}) {
    if (fields.Has(key)) Refuse("unsupported_parameter", key, ": not supported; it may be empty");
  }
}

// media_options of a request, or of one part.
struct MediaFields {
  MediaOptions options;
  std::optional<int64_t> num_frames;
  std::optional<double> start, end;
};

// -1, as vLLM has it: by the rate.
void ReadNumFrames(const RequestFields& fields, const ChatDefaults& defaults, MediaFields* media) {
  const auto frames = fields.Int("num_frames", -1, kMost);
  if (!frames) return;
  if (*frames == 0) Refuse("invalid_value", fields.Path("num_frames"), ": at least 1, or -1 (by fps), is expected");
  if (*frames > 0 && defaults.max_frames && *frames > *defaults.max_frames) {
    Refuse("media_limit", fields.Path("num_frames"), ": ", *frames, "; this server takes at most ",
           *defaults.max_frames);
  }
  media->num_frames = *frames > 0 ? frames : std::nullopt;
}

void ReadMediaFields(const RequestFields& fields, const ChatDefaults& defaults, MediaFields* media) {
  fields.AllowOnly({"fps", "max_frames", "num_frames", "min_pixels", "max_pixels", "video_start", "video_end"});
  ReadNumFrames(fields, defaults, media);
  if (const auto fps = fields.Number("fps", 0, 1000, true)) media->options.fps = fps;
  if (const auto frames = fields.Int("max_frames", 1, kMost)) {
    if (defaults.max_frames && *frames > *defaults.max_frames) {
      Refuse("media_limit", fields.Path("max_frames"), ": ", *frames, "; this server takes at most ",
             *defaults.max_frames);
    }
    media->options.max_frames = frames;
  }
  if (const auto pixels = fields.Int("min_pixels", 1, kMost)) media->options.min_pixels = pixels;
  if (const auto pixels = fields.Int("max_pixels", 1, kMost)) media->options.max_pixels = pixels;
  if (const auto start = fields.Number("video_start", 0, 1e9)) media->start = start;
  if (const auto end = fields.Number("video_end", 0, 1e9, true)) media->end = end;
  if (media->start && media->end && *media->end <= *media->start) {
    Refuse("invalid_value", fields.Path("video_end"), ": must be after video_start");
  }
}

MediaFields MediaOf(const RequestFields& request, const ChatDefaults& defaults) {
  MediaFields media;
  media.options.max_frames = defaults.max_frames;
  if (const auto io = request.Object("media_io_kwargs")) {
    io->AllowOnly({"video"});
    if (const auto video = io->Object("video")) {
      video->AllowOnly({"fps", "num_frames"});
      ReadNumFrames(*video, defaults, &media);
      media.options.fps = video->Number("fps", 0, 1000, true);
    }
  }
  if (const auto kwargs = request.Object("mm_processor_kwargs")) {
    if (kwargs->Has("num_frames")) {
      Refuse("unsupported_parameter", kwargs->Path("num_frames"), ": media_io_kwargs.video takes it");
    }
    ReadMediaFields(*kwargs, defaults, &media);
  }
  return media;
}

class Messages {
 public:
  Messages(const ChatDefaults& defaults, const MediaFields& media, ChatRequest* request)
      : defaults_(defaults), media_(media), request_(request) {}

  void Read(const Json& messages) {
    if (!messages.is_array()) Refuse("invalid_value", "messages", ": a list is expected");
    if (messages.size() > kMaxMessages) Refuse("invalid_value", "messages", ": more than ", kMaxMessages);
    for (size_t i = 0; i < messages.size(); ++i) ReadMessage(messages[i], At("messages", i));
    if (request_->job.prefix != nullptr) GoOn();
    if (request_->job.chat.back().role != ChatTurn::Role::kUser) {
      Refuse("invalid_value", At("messages", messages.size() - 1) + ".role", ": the last message must be the user's");
    }
    CheckMediaCounts(*request_, defaults_);
  }

 private:
  void ReadMessage(const Json& message, const std::string& path) {
    const RequestFields fields(message, path);
    fields.AllowOnly({"role", "content"});
    const std::string role = fields.String("role").value_or("");
    ChatTurn& turn = request_->job.chat.emplace_back();
    if (role == "system" || role == "developer") {
      turn.role = ChatTurn::Role::kSystem;
    } else if (role == "assistant") {
      turn.role = ChatTurn::Role::kAssistant;
    } else if (role != "user") {
      Refuse("invalid_value", path + ".role", ": system, developer, user or assistant is expected");
    }
    const Json* const content = fields.Get("content");
    if (content == nullptr) Refuse("invalid_value", path + ".content", ": a string or a list of parts is expected");
    if (content->is_string()) {
      turn.parts.push_back({.text = content->get<std::string>()});
      return;
    }
    if (!content->is_array()) Refuse("invalid_value", path + ".content", ": a string or a list of parts is expected");
    for (size_t j = 0; j < content->size(); ++j) ReadPart((*content)[j], At(path + ".content", j));
  }

  // Behind what has been read ahead: the first message's text belongs to the turn that it ends in.
  void GoOn() {
    const Prefix& prefix = *request_->job.prefix;
    std::vector<ChatTurn>& chat = request_->job.chat;
    if (!request_->media.empty()) {
      Refuse("invalid_value", request_->media.front().param, ": with purekv.prefix messages hold text alone");
    }
    if (chat.front().role != ChatTurn::Role::kUser) {
      Refuse("invalid_value", "messages[0].role", ": with purekv.prefix the first message goes on with a user's turn");
    }
    std::vector<ChatTurn> whole = prefix.chat;
    std::vector<ChatPart>& parts = whole.back().parts;
    parts.insert(parts.end(), chat.front().parts.begin(), chat.front().parts.end());
    whole.insert(whole.end(), chat.begin() + 1, chat.end());
    chat = std::move(whole);
    for (const PrefixKey::Medium& one : prefix.key.media) request_->job.digests.push_back(one.content);
  }

  void ReadPart(const Json& part, const std::string& path) {
    const RequestFields fields(part, path);
    const std::string type = fields.String("type").value_or("");
    if (type == "text") {
      fields.AllowOnly({"type", "text", "cache_control"});
      const auto text = fields.String("text");
      if (!text) Refuse("invalid_value", path + ".text", ": a string is expected");
      request_->job.chat.back().parts.push_back({.text = *text, .ends_context = EndsContext(fields)});
    } else if (type == "image_url" || type == "video_url") {
      fields.AllowOnly({"type", type, "uuid", "purekv"});
      AddMedium(fields, type, type == "image_url" ? MediaKind::kImage : MediaKind::kVideo, {"url", "detail"});
    } else if (type == "file") {
      fields.AllowOnly({"type", type, "uuid", "purekv"});
      AddMedium(fields, type, MediaKind::kUnknown, {"file_id"});
    } else if (type == "input_video") {
      fields.AllowOnly({"type", type, "uuid", "purekv"});
      AddMedium(fields, type, MediaKind::kVideo, {"url", "data"});
    } else {
      Refuse("unsupported_parameter", path + ".type", ": text, image_url, video_url, input_video or file is expected");
    }
  }

  // Anthropic's word, which routers hand on in OpenAI's form: what ends here is read once.
  static bool EndsContext(const RequestFields& part) {
    const auto control = part.Object("cache_control");
    if (!control) return false;
    control->AllowOnly({"type"});
    if (control->String("type") == "ephemeral") return true;
    Refuse("invalid_value", control->Path("type"), ": ephemeral is expected");
  }

  void AddMedium(const RequestFields& part, const std::string& key, MediaKind kind,
                 std::initializer_list<std::string_view> keys) {
    ChatTurn& turn = request_->job.chat.back();
    if (turn.role != ChatTurn::Role::kUser) {
      Refuse("invalid_value", part.Path("type"), ": images and videos stand in the user's messages");
    }
    ChatRequest::MediaReference reference;
    ReadName(part, &reference);
    const auto source = part.Object(key);
    if (!source && reference.name.empty()) {
      Refuse("invalid_value", part.Path(key), ": an object with a url is expected");
    }
    reference.param = part.Path(key);
    if (source) ReadSource(*source, kind == MediaKind::kUnknown, keys, &reference);
    MediaFields media = media_;
    if (const auto own = part.Object("purekv")) {
      ReadMediaFields(*own, defaults_, &media);
      for (const char* const of_video : {"fps", "max_frames", "num_frames", "video_start", "video_end"}) {
        if (own->Has(of_video)) reference.video_param = own->Path(of_video);
      }
    }
    ChatPart& added = turn.parts.emplace_back();
    added.media_options = media.options;
    MediaSource& medium = added.medium.emplace();
    medium.kind = kind == MediaKind::kImage ? MediaSource::Kind::kImage : MediaSource::Kind::kVideo;
    if (kind != MediaKind::kImage) {
      medium.start = media.start;
      medium.end = media.end;
    }
    reference.turn = request_->job.chat.size() - 1;
    reference.part = turn.parts.size() - 1;
    reference.kind = kind;
    reference.num_frames = media.num_frames;
    request_->media.push_back(std::move(reference));
  }

  static void ReadName(const RequestFields& part, ChatRequest::MediaReference* reference) {
    const auto name = part.String("uuid");
    if (!name) return;
    reference->name_param = part.Path("uuid");
    if (name->empty() || name->size() > kMaxName) {
      Refuse("invalid_value", reference->name_param, ": a string of 1 to ", kMaxName, " bytes is expected");
    }
    reference->name = *name;
  }

  static void ReadSource(const RequestFields& source, bool by_id, std::initializer_list<std::string_view> keys,
                         ChatRequest::MediaReference* reference) {
    source.AllowOnly(keys);
    // OpenAI's word for its own models' sizes; evaluators send it to every server, and it changes nothing here.
    if (const auto detail = source.String("detail");
        detail && *detail != "auto" && *detail != "low" && *detail != "high") {
      Refuse("invalid_value", source.Path("detail"), ": auto, low or high is expected");
    }
    const auto url = source.String(by_id ? "file_id" : "url"), data = source.String("data");
    reference->param = source.Path(by_id ? "file_id" : data ? "data" : "url");
    if (!url && !data && !reference->name.empty()) return;  // it has come before
    if (by_id && (!url || !url->starts_with(kFileId))) {
      Refuse("invalid_value", reference->param, ": the id of an uploaded file is expected");
    }
    if (url.has_value() == data.has_value()) Refuse("invalid_value", source.Path("url"), ": a string is expected");
    if (url && url->empty()) RefuseUrl(reference->param);
    reference->url = url ? *url : "data:;base64," + *data;
  }

  const ChatDefaults& defaults_;
  MediaFields media_;
  ChatRequest* request_;
};

void ReadOptions(const RequestFields& fields, const std::string& key, std::map<std::string, std::string>* options) {
  const auto object = fields.Object(key);
  if (!object) return;
  options->clear();
  for (const auto& [name, value] : fields.Get(key)->items()) {
    if (!value.is_string() && !value.is_number()) {
      Refuse("invalid_value", object->Path(name), ": a number or a string is expected");
    }
    (*options)[name] = value.is_string() ? value.get<std::string>() : value.dump();
  }
}

void ReadPureKv(const RequestFields& fields, ChatRequest* request) {
  fields.AllowOnly({"policy", "budget", "tokens", "bytes", "when", "allocator", "options", "chunk", "prefill",
                    "progress", "cache", "prefix", "session", "profile", "drop_layers"});
  if (const auto drops = fields.String("drop_layers")) request->drop_layers = *drops;
  if (const auto name = fields.String("session")) {
    if (name->empty() || name->size() > kMaxSessionName) {
      Refuse("invalid_value", fields.Path("session"), ": a name of 1 to ", kMaxSessionName, " bytes is expected");
    }
    if (request->job.answers != 1) Refuse("invalid_value", "n", ": a session goes on from one answer");
    request->job.session = *name;
  }
  KvOptions& kv = request->job.kv;
  if (const auto policy = fields.String("policy"); policy && *policy != kv.policy) {
    // Another policy begins anew: a budget and options of the server's are those of its own.
    KvOptions other;
    other.when = kv.when;
    other.keys = kv.keys;
    other.values = kv.values;
    other.key_channels = kv.key_channels;
    kv = other;
    kv.policy = *policy;
  }
  if (fields.Has("budget") + fields.Has("tokens") + fields.Has("bytes") > 0) {
    if (fields.Has("budget") + fields.Has("tokens") + fields.Has("bytes") > 1) {
      Refuse("invalid_value", fields.Path("budget"), ": at most one of budget, tokens and bytes is taken");
    }
    kv.budget = fields.Number("budget", 0, 1, true);
    kv.tokens = fields.Int("tokens", 1, kMost);
    kv.bytes = fields.Int("bytes", 1, kMost);
  }
  if (const auto when = fields.String("when")) {
    if (*when != "prompt" && *when != "context" && *when != "media") {
      Refuse("invalid_value", fields.Path("when"), ": context or prompt is expected");
    }
    kv.when = *when == "prompt" ? KvOptions::When::kPrompt : KvOptions::When::kContext;
  }
  if (const auto allocator = fields.String("allocator")) kv.allocator = *allocator;
  ReadOptions(fields, "options", &kv.options);
  if (const auto chunk = fields.Int("chunk", 1, kMost)) kv.chunk = *chunk;
  if (const auto prefill = fields.Object("prefill")) {
    prefill->AllowOnly({"kind", "options"});
    if (const auto kind = prefill->String("kind"); kind && *kind != request->job.prefill.kind) {
      request->job.prefill = {};
      request->job.prefill.kind = *kind;
    }
    ReadOptions(*prefill, "options", &request->job.prefill.options);
  }
  request->progress = fields.Bool("progress").value_or(false);
  if (const auto cache = fields.String("cache")) {
    using Cache = JobRequest::Cache;
    if (*cache != "use" && *cache != "refresh" && *cache != "off") {
      Refuse("invalid_value", fields.Path("cache"), ": use, refresh or off is expected");
    }
    request->job.cache = *cache == "use" ? Cache::kUse : *cache == "refresh" ? Cache::kRefresh : Cache::kOff;
  }
}

std::shared_ptr<const Prefix> PrefixOf(const RequestFields& fields, const NamedPrefix& named, const std::string& salt) {
  const auto own = fields.Object("purekv");
  const auto id = own ? own->String("prefix") : std::nullopt;
  if (!id) return nullptr;
  for (const char* const key : {"mm_processor_kwargs", "media_io_kwargs"}) {
    if (fields.Has(key)) Refuse("invalid_value", key, ": with purekv.prefix media have been looked at already");
  }
  std::shared_ptr<const Prefix> prefix = named ? named(*id) : nullptr;
  if (prefix == nullptr || prefix->key.salt != salt) {
    ApiError error = MakeApiError(404, "not_found", own->Path("prefix") + ": there is no such prefix (any more)");
    error.param = own->Path("prefix");
    throw error;
  }
  return prefix;
}

const ReadDefaults& ReadingOf(const RequestFields& fields, const ChatDefaults& defaults, bool media) {
  const auto own = fields.Object("purekv");
  const auto profile = own ? own->Bool("profile") : std::nullopt;
  if (profile == false) return defaults.without_profile;
  if (profile == true && !defaults.has_profile) {
    Refuse("invalid_value", own->Path("profile"), ": this server was started without one");
  }
  return media ? defaults.media : defaults.text;
}

void CheckGoesOn(const ChatRequest& request, const Prefix& prefix) {
  if (request.job.kv != prefix.key.kv || request.job.prefill != prefix.key.prefill) {
    Refuse("invalid_value", "purekv.prefix", ": it was read under policy ", prefix.key.kv.policy,
           " with other settings; where none are given its own hold");
  }
  if (request.job.cache != JobRequest::Cache::kUse) {
    Refuse("invalid_value", "purekv.cache", ": with purekv.prefix what is kept is used");
  }
}

void ReadSampling(const RequestFields& fields, const ChatDefaults& defaults, ChatRequest* request) {
  GenerateOptions& generate = request->job.generate;
  const auto real = [](const std::optional<double>& given, float fallback) {
    return given ? static_cast<float>(*given) : fallback;
  };
  generate.temperature = real(fields.Number("temperature", 0, 2), generate.temperature);
  generate.top_p = real(fields.Number("top_p", 0, 1, true), generate.top_p);
  generate.top_k = fields.Int("top_k", 0, kMost).value_or(generate.top_k);
  generate.repetition_penalty = real(fields.Number("repetition_penalty", 0, 2, true), generate.repetition_penalty);
  generate.presence_penalty = real(fields.Number("presence_penalty", -2, 2), 0);
  generate.frequency_penalty = real(fields.Number("frequency_penalty", -2, 2), 0);
  generate.seed = static_cast<uint64_t>(fields.Int("seed", INT64_MIN, INT64_MAX).value_or(0));
  if (const Json* const stop = fields.Get("stop")) {
    const Json stops = stop->is_array() ? *stop : Json::array({*stop});
    if (stops.size() > kMaxStops) Refuse("invalid_value", "stop", ": at most ", kMaxStops, " are taken");
    for (const Json& one : stops) {
      if (!one.is_string()) Refuse("invalid_value", "stop", ": a string, or a list of strings, is expected");
      generate.stop.push_back(one.get<std::string>());
    }
  }
  const char* const tokens = fields.Has("max_completion_tokens") ? "max_completion_tokens" : "max_tokens";
  if (fields.Has("max_completion_tokens") && fields.Has("max_tokens")) {
    Refuse("invalid_value", "max_tokens", ": max_completion_tokens is given too; one of them is taken");
  }
  request->job.max_tokens = fields.Int(tokens, 1, defaults.max_tokens_limit);
  request->job.answers = fields.Int("n", 1, defaults.max_answers).value_or(1);
  request->logprobs = fields.Bool("logprobs").value_or(false);
  const auto top = fields.Int("top_logprobs", 0, kMaxTopLogprobs);
  if (top.value_or(0) > 0 && !request->logprobs) Refuse("invalid_value", "top_logprobs", ": needs logprobs: true");
  generate.top_logprobs = top.value_or(0);
}

}  // namespace

void CheckMediaCounts(const ChatRequest& request, const ChatDefaults& defaults) {
  const auto check = [&](MediaKind kind, int64_t most, const char* what) {
    const int64_t count = std::count_if(request.media.begin(), request.media.end(),
                                        [&](const ChatRequest::MediaReference& one) { return one.kind == kind; });
    if (count > most) Refuse("media_limit", "messages", ": ", count, " ", what, "; this server takes at most ", most);
  };
  check(MediaKind::kImage, defaults.max_images, "images");
  check(MediaKind::kVideo, defaults.max_videos, "videos");
  check(MediaKind::kUnknown, defaults.max_images + defaults.max_videos, "files");
}

ChatRequest ParseChatRequest(const Json& body, const ChatDefaults& defaults, const NamedPrefix& named) {
  const RequestFields fields(body, "");
  fields.AllowOnly({"model",
                    "messages",
                    "max_tokens",
                    "max_completion_tokens",
                    "temperature",
                    "top_p",
                    "top_k",
                    "repetition_penalty",
                    "presence_penalty",
                    "frequency_penalty",
                    "seed",
                    "stop",
                    "n",
                    "stream",
                    "stream_options",
                    "logprobs",
                    "top_logprobs",
                    "mm_processor_kwargs",
                    "media_io_kwargs",
                    "cache_salt",
                    "purekv",
                    "user",
                    "metadata",
                    "store",
                    "service_tier",
                    "parallel_tool_calls",
                    "tool_choice",
                    "tools",
                    "response_format",
                    "logit_bias"});
  CheckWithoutEffect(fields);
  ChatRequest request;
  request.model = fields.String("model").value_or("");
  if (std::find(defaults.models.begin(), defaults.models.end(), request.model) == defaults.models.end()) {
    ApiError error;
    error.status = request.model.empty() ? 400 : 404;
    error.code = request.model.empty() ? "invalid_value" : "model_not_found";
    error.message = Say("model: ", request.model.empty() ? "missing" : "'" + request.model + "' is not served here",
                        "; '", defaults.models.front(), "' is")
                        .text;
    error.param = "model";
    throw error;
  }
  request.job.generate = defaults.generate;
  if (!fields.Has("messages")) Refuse("invalid_value", "messages", ": a list with a message is expected");
  request.job.salt = fields.String("cache_salt").value_or("");
  const std::shared_ptr<const Prefix> prefix = request.job.prefix = PrefixOf(fields, named, request.job.salt);
  Messages(defaults, MediaOf(fields, defaults), &request).Read(*fields.Get("messages"));
  const ReadDefaults& read = ReadingOf(fields, defaults, !request.media.empty());
  request.job.kv = read.kv;
  request.job.prefill = read.prefill;
  if (prefix != nullptr) {
    request.job.kv = prefix->key.kv;
    request.job.prefill = prefix->key.prefill;
  }
  ReadSampling(fields, defaults, &request);
  if (const auto own = fields.Object("purekv")) ReadPureKv(*own, &request);
  if (prefix != nullptr) CheckGoesOn(request, *prefix);
  if (!request.job.session.empty() && request.job.cache != JobRequest::Cache::kUse) {
    Refuse("invalid_value", "purekv.cache", ": a session is what is kept; use is expected");
  }
  request.stream = fields.Bool("stream").value_or(false);
  if (const auto options = fields.Object("stream_options")) {
    if (!request.stream) Refuse("invalid_value", "stream_options", ": needs stream: true");
    options->AllowOnly({"include_usage", "continuous_usage_stats"});
    request.include_usage = options->Bool("include_usage").value_or(false);
    request.continuous_usage = options->Bool("continuous_usage_stats").value_or(false);
  }
  return request;
}

}  // namespace purekv::server
