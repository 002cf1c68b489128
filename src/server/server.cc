#include "server/server.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <mutex>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/available_memory.h"
#include "base/error.h"
#include "base/random_digits.h"
#include "models/language_model.h"
#include "server/api_error.h"
#include "server/chat_flight.h"
#include "server/digest.h"
#include "server/file_api.h"
#include "server/task_threads.h"

namespace purekv::server {
namespace {

constexpr int kStoppedBySignal = 130;  // exit status of the second one

const char* RouteName(Route route) {
  switch (route) {
    case Route::kHealth:
      return "health";
    case Route::kModels:
    case Route::kModel:
      return "models";
    case Route::kPrefixes:
    case Route::kPrefix:
      return "prefixes";
    case Route::kFiles:
    case Route::kFile:
      return "files";
    case Route::kChat:
      break;
  }
  return "chat";
}

ApiError Unavailable(const char* code, int retry_after_s, const std::string& message) {
  ApiError error;
  error.status = 503;
  error.code = code;
  error.message = message;
  error.retry_after_s = retry_after_s;
  return error;
}

ApiError Draining() {
  return Unavailable("draining", 1, "the server ends; ask again in a moment");
}

// What the log says of a failure that a client is told nothing of.
ApiError Internal() {
  ApiError error;
  error.code = "internal";
  error.message = "the server failed to answer this request; its log has the request's id and the reason";
  return error;
}

}  // namespace

class Server::Impl final : public HttpHandler {
 public:
  explicit Impl(const ServerOptions& options)
      : options_(options),
        log_(options.log),
        http_(options.host, options.port, options.http, *this),
        frames_(options.chat_media.frame_bytes),
        files_(options.files.disk),
        decoding_(options.chat_media.workers),
        writing_(1),
        parsing_(1) {
    options_.access.loopback = IsLoopback(options.host);
  }
  // Children die with their requests.
  ~Impl() override {
    for (const auto& flight : Flights([](const ChatFlight&) { return true; })) flight->Cancel(nullptr);
  }

  HttpServer& http() { return http_; }
  const std::atomic<bool>& ending() const { return ending_; }

  void Serve(std::shared_ptr<const Model> model, const GenerateOptions& generate, const ReadDefaults& media,
             const ReadDefaults& text) {
    const std::lock_guard lock(mutex_);
    SchedulerOptions scheduler = options_.scheduler;
    scheduler.prefix_memory = options_.cache_memory.value_or(AvailableMemory() / 2);
    int64_t& positions = scheduler.limits.max_positions;
    const int64_t most = model->info().max_positions;
    positions = positions > 0 ? std::min(positions, most) : most;
    scheduler.limits.max_answer = options_.chat.max_tokens_limit;
    max_model_len_ = positions;
    options_.chat.generate = generate;
    options_.chat.media = media;
    options_.chat.text = text;
    model_ = std::move(model);
    scheduler_ = std::make_unique<Scheduler>(model_, scheduler);
  }

  std::optional<HttpResponse> Refuse(const HttpRequest& head) override {
    try {
      CheckAccess(head, options_.access);
      return std::nullopt;
    } catch (const ApiError& error) {
      return Logged(head, "-", Identified(head, ErrorResponse(error)));
    }
  }

  void Handle(HttpRequest request, std::shared_ptr<HttpExchange> exchange) override {
    const Route route = CheckAccess(request, options_.access);
    try {
      if (route == Route::kChat) return Chat(std::move(request), std::move(exchange));
      if (request.sink != nullptr) return FinishUpload(std::move(request), std::move(exchange));
      exchange->Respond(Logged(request, RouteName(route), Identified(request, Answer(route, request))));
    } catch (const ApiError& error) {
      exchange->Respond(Logged(request, RouteName(route), Identified(request, ErrorResponse(error))));
    }
  }

  std::shared_ptr<BodySink> SinkOf(const HttpRequest& head) override {
    if (CheckAccess(head, options_.access) != Route::kFiles || head.method != "POST") return nullptr;
    return std::make_shared<Upload>(head, options_.files, files_, writing_, [this, head](const ApiError& error) {
      return Logged(head, RouteName(Route::kFiles), Identified(head, ErrorResponse(error)));
    });
  }

  HttpResponse Malformed(int status, const std::string& problem) override {
    ApiError error;
    error.status = status;
    error.code = status == 413 ? "body_too_large" : status == 503 ? "overloaded" : "malformed_request";
    error.message = problem;
    HttpRequest nothing;
    return Logged(nothing, "-", Identified(nothing, ErrorResponse(error)));
  }

  void Tick() override {
    for (const auto& flight : Flights([](const ChatFlight&) { return true; })) {
      if (const auto reply = flight->reply()) reply->KeepAlive();
    }
    const double most = options_.scheduler.queue_timeout_s;
    const auto late = [&](const ChatFlight& one) { return one.before_job() && !one.begun() && one.age() > most; };
    ApiError too_long;
    too_long.status = 504;
    too_long.code = "queue_timeout";
    too_long.message = Say("no turn came in ", most, " s of waiting").text;
    for (const auto& flight : Flights(late)) flight->Refuse(too_long);
    const std::lock_guard lock(mutex_);
    if (scheduler_) scheduler_->ExpireQueued();
    if (!ending_) return;
    const double waited = std::chrono::duration<double>(std::chrono::steady_clock::now() - ending_since_).count();
    if (waited > options_.drain_timeout_s && scheduler_) scheduler_->Stop();
    const bool idle = in_flight_ == 0 && (!scheduler_ || scheduler_->running() + scheduler_->waiting() == 0);
    // What was said last may still be on its way for a moment.
    if (idle && was_idle_) http_.Stop();
    was_idle_ = idle;
  }

  void Signal(int times) override {
    if (times > 1) _exit(kStoppedBySignal);
    ending_since_ = std::chrono::steady_clock::now();
    ending_ = true;
    http_.StopListening();
    for (const auto& flight : Flights([](const ChatFlight& one) { return one.before_job(); })) {
      flight->Refuse(Draining());
    }
    const std::lock_guard lock(mutex_);
    if (scheduler_) scheduler_->Drain();
  }

 private:
  static HttpResponse Identified(const HttpRequest& head, HttpResponse response) {
    response.fields.emplace_back("X-Request-Id", RequestId(head));
    return response;
  }

  HttpResponse Logged(const HttpRequest& head, const char* route, HttpResponse response) {
    RequestLog::Entry entry;
    entry.id = response.fields.back().second;
    entry.key = KeyDigits(head);
    entry.route = route;
    ReplyEnd end;
    end.status = response.status;
    if (entry.route != "health") log_.Write(entry, end);
    return response;
  }

  void CheckReady() {
    if (ending_) throw Draining();
    const std::lock_guard lock(mutex_);
    if (!scheduler_) throw Unavailable("loading", 2, "the model is being loaded; ask again in a moment");
  }

  HttpResponse Answer(Route route, const HttpRequest& request) {
    HttpResponse response;
    if (route == Route::kHealth) {
      std::string state = "ok";
      try {
        CheckReady();
      } catch (const ApiError& error) {
        state = error.code;
        response.status = error.status;
      }
      response.body = server::Text({{"status", state}});
      return response;
    }
    if (route == Route::kFiles) return FileList(files_, request);
    if (route == Route::kFile) return OneFile(files_, request);
    CheckReady();
    if (route == Route::kModels) {
      OrderedJson data = OrderedJson::array();
      for (const std::string& name : options_.chat.models) data.push_back(ModelObject(name));
      response.body = server::Text({{"object", "list"}, {"data", std::move(data)}});
      return response;
    }
    if (route == Route::kPrefixes) return PrefixList(request);
    if (route == Route::kPrefix) return OnePrefix(request);
    const std::string name = ModelOfPath(request.path());
    const auto& names = options_.chat.models;
    if (std::find(names.begin(), names.end(), name) == names.end()) {
      ApiError error;
      error.status = 404;
      error.code = "model_not_found";
      error.message = Say("'", name, "' is not served here; '", names.front(), "' is").text;
      error.param = "model";
      throw error;
    }
    response.body = server::Text(ModelObject(name));
    return response;
  }

  static OrderedJson PrefixObject(const Prefix& prefix) {
    const KvStats kv = prefix.read.kv();
    OrderedJson media = OrderedJson::array();
    for (const PrefixKey::Medium& one : prefix.key.media) {
      media.push_back({{"kind", one.kind == MediaSource::Kind::kImage ? "image" : "video"}, {"sha256", one.content}});
    }
    OrderedJson object = {
        {"id", prefix.id}, {"object", "purekv.prefix"}, {"media", std::move(media)}, {"policy", prefix.key.kv.policy}};
    if (prefix.key.kv.budget) object["budget"] = *prefix.key.kv.budget;
    object["tokens_full"] = kv.tokens_full;
    object["tokens_kept_mean"] = kv.tokens_kept_mean;
    object["bytes"] = kv.bytes_now;
    object["state"] = "memory";
    return object;
  }

  HttpResponse PrefixList(const HttpRequest& request) {
    OrderedJson data = OrderedJson::array();
    for (const auto& one : scheduler_->prefixes().List(OwnerOf(request))) data.push_back(PrefixObject(*one));
    HttpResponse response;
    response.body = server::Text({{"object", "list"}, {"data", std::move(data)}});
    return response;
  }

  HttpResponse OnePrefix(const HttpRequest& request) {
    const std::string id = PrefixOfPath(request.path()), owner = OwnerOf(request);
    PrefixStore& prefixes = scheduler_->prefixes();
    HttpResponse response;
    if (request.method == "DELETE") {
      if (!prefixes.Remove(id, owner)) throw NoPrefix();
      response.body = server::Text({{"id", id}, {"object", "purekv.prefix.deleted"}, {"deleted", true}});
      return response;
    }
    const auto prefix = prefixes.Named(id, owner);
    if (prefix == nullptr) throw NoPrefix();
    response.body = server::Text(PrefixObject(*prefix));
    return response;
  }

  static ApiError NoPrefix() {
    ApiError error;
    error.status = 404;
    error.code = "not_found";
    error.message = "there is no such prefix; GET /v1/purekv/prefixes lists them";
    return error;
  }

  OrderedJson ModelObject(const std::string& name) const {
    const ModelInfo& info = model_->info();
    return {{"id", name},
            {"object", "model"},
            {"created", static_cast<int64_t>(started_)},
            {"owned_by", "purekv"},
            {"max_model_len", max_model_len_},
            {"purekv",
             {{"family", info.family},
              {"dtype", DtypeName(info.dtype)},
              {"fingerprint", info.fingerprint},
              {"kv_bytes_per_token", info.kv_bytes_per_token}}}};
  }

  // In the thread that has written it.
  void FinishUpload(HttpRequest request, std::shared_ptr<HttpExchange> exchange) {
    const auto upload = std::static_pointer_cast<Upload>(std::exchange(request.sink, nullptr));
    writing_.Add([this, upload, request = std::move(request), exchange = std::move(exchange)] {
      HttpResponse response;
      try {
        response = upload->Finish();
      } catch (const ApiError& error) {
        response = ErrorResponse(error);
      }
      exchange->Respond(Logged(request, RouteName(Route::kFiles), Identified(request, std::move(response))));
    });
  }

  // Bodies may be large: they are looked at in a thread of their own.
  void Chat(HttpRequest request, std::shared_ptr<HttpExchange> exchange) {
    CheckReady();
    RequestLog::Entry entry;
    entry.id = RequestId(request);
    entry.key = KeyDigits(request);
    entry.route = RouteName(Route::kChat);
    parsing_.Add([this, entry, exchange = std::move(exchange),
                  request = std::make_shared<HttpRequest>(std::move(request))]() mutable {
      HttpRequest taken = std::move(*request);
      StartChat(entry, std::move(taken), exchange);
    });
  }

  void StartChat(const RequestLog::Entry& entry, HttpRequest request, const std::shared_ptr<HttpExchange>& exchange) {
    const HttpFields fields = {{"X-Request-Id", entry.id}};
    const auto refuse = [&](const ApiError& error, const std::string& problem) {
      HttpResponse response = ErrorResponse(error);
      response.fields.insert(response.fields.end(), fields.begin(), fields.end());
      exchange->Respond(std::move(response));
      ReplyEnd end;
      end.status = error.status;
      end.problem = problem;
      log_.Write(entry, end);
    };
    try {
      ChatRequest chat = ParseChatRequest(ParseRequest(request.body), options_.chat);
      CheckChatOptions(chat);
      chat.job.owner = OwnerOf(request);
      request = {};
      std::vector<std::shared_ptr<const SpoolFile>> files = FetchAll(&chat);
      ChatIdentity identity;
      identity.id = "chatcmpl-" + RandomDigits(24);
      identity.model = chat.model;
      identity.fingerprint = "pkv-" + model_->info().fingerprint.substr(0, 8);
      identity.created = std::time(nullptr);
      const auto work = std::make_shared<ChatWork>(ChatWork{chat, std::move(files)});
      const auto reply =
          std::make_shared<ChatReply>(std::move(chat), std::move(identity), *model_->internals().tokenizer(), fields,
                                      exchange, [this, entry](const ReplyEnd& end) { log_.Write(entry, end); });
      const auto flight = std::make_shared<ChatFlight>(reply);
      {
        const std::lock_guard lock(mutex_);
        flights_.push_back(flight);
      }
      exchange->OnGone([this, flight] {
        if (const auto one = flight->reply()) one->Gone();
        flight->Cancel(scheduler_.get());
      });
      JobRequest& job = work->chat.job;
      if (!work->files.empty()) job.prefix = scheduler_->FindPrefix(job);
      if (work->files.empty() || job.prefix != nullptr) return Submit(*flight, std::move(job));
      if (ending_ || decoding_.waiting() >= options_.scheduler.max_queue) return flight->Refuse(Busy());
      ++in_flight_;
      decoding_.Add([this, flight, work, reply] {
        DecodeAndSubmit(*flight, *work, *reply);
        --in_flight_;
      });
    } catch (const ApiError& error) {
      refuse(error, "");
    } catch (const std::exception& error) {
      refuse(Internal(), error.what());
    }
  }

  // A request whose media are to be decoded.
  struct ChatWork {
    ChatRequest chat;
    std::vector<std::shared_ptr<const SpoolFile>> files;
  };

  void DecodeAndSubmit(ChatFlight& flight, ChatWork& work, ChatReply& reply) {
    flight.Begin();
    JobRequest& job = work.chat.job;
    job.waited_s = flight.age();
    try {
      if (flight.cancel().raised()) return;
      job.prefix = scheduler_->FindPrefix(job);  // read while this one waited
      if (job.prefix != nullptr) return Submit(flight, std::move(job));
      job.media = std::make_shared<std::vector<PreparedMedia>>(
          DecodeMedia(work.chat, work.files, model_->internals(), max_model_len_, options_.chat_media, frames_,
                      flight.cancel(), [&](int64_t done, int64_t total) { reply.Progress("media", done, total); }));
      job.media_s = flight.age() - job.waited_s;
      Submit(flight, std::move(job));
    } catch (const Cancelled&) {  // who cancelled it has told why
    } catch (const ApiError& error) {
      flight.Refuse(error);
    } catch (const std::exception& error) {
      flight.Refuse(Internal(), error.what());
    }
  }

  void Submit(ChatFlight& flight, JobRequest job) {
    if (!flight.Submit(std::move(job), *scheduler_)) flight.Refuse(Busy());
  }

  std::vector<std::shared_ptr<ChatFlight>> Flights(const std::function<bool(const ChatFlight&)>& which) {
    std::vector<std::shared_ptr<ChatFlight>> found;
    const std::lock_guard lock(mutex_);
    std::erase_if(flights_, [](const auto& flight) { return flight.expired(); });
    for (const auto& one : flights_) {
      if (auto flight = one.lock(); flight != nullptr && which(*flight)) found.push_back(std::move(flight));
    }
    return found;
  }

  ApiError Busy() const {
    if (ending_) return Draining();
    ApiError error;
    error.status = 429;
    error.code = "queue_full";
    error.message = Say("too many requests wait already (", options_.scheduler.max_queue, ")").text;
    error.retry_after_s = static_cast<int>(std::clamp(std::ceil(scheduler_->ExpectedWait()), 1.0, 120.0));
    return error;
  }

  std::vector<std::shared_ptr<const SpoolFile>> FetchAll(ChatRequest* chat) const {
    std::vector<std::shared_ptr<const SpoolFile>> files;
    for (size_t i = 0; i < chat->media.size(); ++i) {
      ChatRequest::MediaReference& one = chat->media[i];
      std::string digest;
      if (one.url.starts_with(kFileId)) {
        const auto stored = FetchStored(files_, chat->job.owner, options_.media.bytes, chat, i);
        files.push_back(stored->file);
        digest = stored->sha256;
      } else {
        files.push_back(FetchMedia(one.url, one.kind, options_.media, one.param));
      }
      std::string().swap(one.url);
      chat->job.chat[one.turn].parts[one.part].medium->path = one.param;
      if (chat->job.cache != JobRequest::Cache::kOff) {
        chat->job.digests.push_back(digest.empty() ? DigestOfFile(files.back()->descriptor()) : digest);
      }
    }
    CheckMediaCounts(*chat, options_.chat);
    return files;
  }

  ServerOptions options_;
  const RequestLog log_;
  const std::time_t started_ = std::time(nullptr);
  std::atomic<bool> ending_{false};
  std::chrono::steady_clock::time_point ending_since_;  // of the I/O thread, as the next
  bool was_idle_ = false;
  std::mutex mutex_;  // of flights_, and until scheduler_ is there of it, too
  std::vector<std::weak_ptr<ChatFlight>> flights_;
  std::atomic<int64_t> in_flight_{0};  // whose media are waiting or being decoded
  int64_t max_model_len_ = 0;
  HttpServer http_;  // outlives who holds connections
  std::shared_ptr<const Model> model_;
  FrameMemory frames_;
  std::unique_ptr<Scheduler> scheduler_;
  FileStore files_;
  TaskThreads decoding_, writing_;
  TaskThreads parsing_;  // first to end
};

Server::Server(const ServerOptions& options) : impl_(new Impl(options)) {}
Server::~Server() = default;

std::string Server::url() const {
  return impl_->http().url();
}
void Server::Run() {
  impl_->http().Run();
}
void Server::Serve(std::shared_ptr<const Model> model, const GenerateOptions& generate, const ReadDefaults& media,
                   const ReadDefaults& text) {
  impl_->Serve(std::move(model), generate, media, text);
}
void Server::Abort() {
  impl_->http().Stop();
}
const std::atomic<bool>& Server::ending() const {
  return impl_->ending();
}

}  // namespace purekv::server
