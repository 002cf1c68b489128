#include "server/server.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <mutex>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/available_memory.h"
#include "base/error.h"
#include "base/memory.h"
#include "policy/registry.h"
#include "server/api_error.h"
#include "server/chat_json.h"
#include "server/chat_service.h"
#include "server/file_api.h"
#include "server/page.h"
#include "server/prefix_api.h"
#include "server/task_threads.h"

namespace purekv::server {
namespace {

constexpr int kStoppedBySignal = 130;  // exit status of the second one
constexpr int64_t kTicksUntilGivenBack = 5;

}  // namespace

class Server::Impl final : public HttpHandler {
 public:
  explicit Impl(const ServerOptions& options)
      : options_(options),
        log_(options.log, metrics_),
        http_(options.host, options.port, options.http, *this),
        files_(options.files.disk, options.files.directory, [this](const std::string& line) { log_.Note(line); }),
        writing_(1),
        reading_(1) {
    // No web page reaches a socket of the file system, whatever Host it says.
    options_.access.loopback = IsLoopback(options.host) && !options.host.starts_with("unix:");
  }

  HttpServer& http() { return http_; }
  const std::atomic<bool>& ending() const { return ending_; }

  void Serve(std::shared_ptr<const Model> model, const GenerateOptions& generate, const ReadDefaults& media,
             const ReadDefaults& text) {
    const std::lock_guard lock(mutex_);
    SchedulerOptions& scheduler = options_.scheduler;
    scheduler.prefixes.memory = options_.cache_memory.value_or(AvailableMemory() / 2);
    int64_t& positions = scheduler.limits.max_positions;
    const int64_t most = model->info().max_positions;
    positions = positions > 0 ? std::min(positions, most) : most;
    scheduler.limits.max_answer = options_.chat.max_tokens_limit;
    scheduler.prefixes.log = [this](const std::string& line) { log_.Note(line); };
    options_.chat.generate = generate;
    options_.chat.media = media;
    options_.chat.text = text;
    metrics_.SetModel(model->info(), options_.version);
    service_ = std::make_unique<ChatService>(std::move(model), options_, log_, metrics_, files_);
  }

  std::optional<HttpResponse> Refuse(const HttpRequest& head) override {
    try {
      CheckAccess(head, options_.access);
      return std::nullopt;
    } catch (const ApiError& error) {
      return LoggedError(head, "-", error);
    }
  }

  void Handle(HttpRequest request, std::shared_ptr<HttpExchange> exchange) override {
    const Route route = CheckAccess(request, options_.access);
    try {
      if (const auto what = AskOf(route, request)) {
        ChatService& service = Service();
        const RequestLog::Entry entry = EntryOf(request, route);
        return service.Take(*what, entry, std::move(request), std::move(exchange));
      }
      if (request.sink != nullptr) return FinishUpload(std::move(request), std::move(exchange));
    } catch (const ApiError& error) {
      return exchange->Respond(LoggedError(request, RouteName(route), error));
    }
    // The I/O thread waits for no disk.
    const bool disk = route == Route::kPrefixKept || (route == Route::kPrefix && request.method == "DELETE");
    if (!disk) return Tell(route, request, *exchange);
    reading_.Add([this, route, request = std::move(request), exchange = std::move(exchange)] {
      Tell(route, request, *exchange);
    });
  }

  HttpFields FieldsFor(const HttpRequest& head) override { return CorsFields(head, options_.access.origins); }

  std::shared_ptr<BodySink> SinkOf(const HttpRequest& head) override {
    if (CheckAccess(head, options_.access) != Route::kFiles || head.method != "POST") return nullptr;
    return std::make_shared<Upload>(head, options_.files, files_, writing_, [this, head](const ApiError& error) {
      return LoggedError(head, RouteName(Route::kFiles), error);
    });
  }

  HttpResponse Malformed(int status, const std::string& problem) override {
    const char* const code = status == 413 ? "body_too_large" : status == 503 ? "overloaded" : "malformed_request";
    return LoggedError({}, "-", MakeApiError(status, code, problem));
  }

  void Tick() override {
    ChatService* const service = ServiceIfThere();
    if (service != nullptr) service->Tick();
    if (service != nullptr) GiveBack(service->idle());
    if (!ending_) return;
    const double waited = std::chrono::duration<double>(std::chrono::steady_clock::now() - ending_since_).count();
    if (waited > options_.drain_timeout_s && service != nullptr) service->Stop();
    const bool idle = service == nullptr || service->idle();
    // What was said last may still be on its way for a moment.
    if (idle && was_idle_) http_.Stop();
    was_idle_ = idle;
  }

  void Signal(int times) override {
    if (times > 1) _exit(kStoppedBySignal);
    ending_since_ = std::chrono::steady_clock::now();
    ending_ = true;
    http_.StopListening();
    if (ChatService* const service = ServiceIfThere()) service->Drain();
  }

 private:
  static std::optional<ChatService::Ask> AskOf(Route route, const HttpRequest& request) {
    if (route == Route::kChat) return ChatService::Ask::kChat;
    if (route == Route::kCost) return ChatService::Ask::kCost;
    if (route == Route::kPrefixes && request.method == "POST") return ChatService::Ask::kPrefix;
    return std::nullopt;
  }

  static RequestLog::Entry EntryOf(const HttpRequest& head, Route route) {
    RequestLog::Entry entry;
    entry.id = RequestId(head);
    entry.key = KeyDigits(head);
    entry.route = RouteName(route);
    return entry;
  }

  // The response, with the request's id, and a line in the log. problem: for the log alone.
  HttpResponse LoggedError(const HttpRequest& head, const char* route, const ApiError& error,
                           const std::string& problem = "") const {
    return Logged(head, route, ErrorResponse(error), error.code, problem);
  }
  HttpResponse Logged(const HttpRequest& head, const char* route, HttpResponse response, const std::string& code = "",
                      const std::string& problem = "") const {
    RequestLog::Entry entry;
    entry.id = RequestId(head);
    entry.key = KeyDigits(head);
    entry.route = route;
    response.fields.emplace_back("X-Request-Id", entry.id);
    ReplyEnd end;
    end.status = response.status;
    end.code = code;
    end.problem = problem;
    // Who asks all the time is no news.
    if (entry.route != RouteName(Route::kHealth) && entry.route != RouteName(Route::kMetrics)) log_.Write(entry, end);
    return response;
  }

  // Once when there has been nothing to do for a moment: the heap keeps what bodies and answers took.
  void GiveBack(bool idle) {
    idle_ticks_ = idle ? idle_ticks_ + 1 : 0;
    if (idle_ticks_ == kTicksUntilGivenBack) reading_.Add([] { ReleaseHeap(); });
  }

  // Null while the model is being loaded. Once there it stays.
  ChatService* ServiceIfThere() {
    const std::lock_guard lock(mutex_);
    return service_.get();
  }

  ChatService& Service() {
    if (ending_) throw DrainingError();
    ChatService* const service = ServiceIfThere();
    if (service == nullptr) {
      throw MakeApiError(503, "loading", "the model is being loaded; ask again in a moment", 2);
    }
    return *service;
  }

  void Tell(Route route, const HttpRequest& request, HttpExchange& exchange) {
    try {
      exchange.Respond(Logged(request, RouteName(route), Answer(route, request)));
    } catch (const ApiError& error) {
      exchange.Respond(LoggedError(request, RouteName(route), error));
    } catch (const std::exception& error) {
      exchange.Respond(LoggedError(request, RouteName(route), InternalError(), error.what()));
    }
  }

  HttpResponse Answer(Route route, const HttpRequest& request) {
    if (route == Route::kHealth) return Health();
    if (route == Route::kPage) return PageResponse(request.path());
    if (route == Route::kPreflight) return PreflightResponse(request);
    if (route == Route::kFiles) return FileList(files_, request);
    if (route == Route::kFile) return OneFile(files_, request);
    if (route == Route::kMetrics) return MetricsText();
    ChatService& service = Service();
    PrefixStore& prefixes = service.scheduler().prefixes();
    const std::string owner = service.CacheOwnerOf(request);
    switch (route) {
      case Route::kPrefixes:
        return PrefixList(prefixes, owner);
      case Route::kPrefix:
        return OnePrefix(service.scheduler(), request, owner);
      case Route::kPrefixKept:
        return PrefixKept(prefixes, request, owner);
      case Route::kPrefixFrame:
        return PrefixFrame(prefixes, request, owner);
      case Route::kStatus:
        return Status(service, owner);
      case Route::kModels:
        return ModelList(service);
      case Route::kModel:
        return OneModel(service, request);
      default:
        break;
    }
    PUREKV_CHECK(false, RouteName(route), " has no answer");
    return {};
  }

  HttpResponse Health() {
    HttpResponse response;
    std::string state = "ok";
    try {
      Service();
    } catch (const ApiError& error) {
      state = error.code;
      response.status = error.status;
    }
    response.body = server::Text({{"status", state}});
    return response;
  }

  HttpResponse MetricsText() {
    Metrics::Now now;
    if (ChatService* const service = ServiceIfThere()) now = service->Numbers();
    now.connections = http_.connections();
    HttpResponse response;
    response.type = "text/plain; version=0.0.4; charset=utf-8";
    response.body = metrics_.Text(now);
    return response;
  }

  HttpResponse Status(ChatService& service, const std::string& owner) {
    const Metrics::Now now = service.Numbers();
    HttpResponse response;
    response.body =
        server::Text({{"object", "purekv.status"},
                      {"queue", {{"waiting", now.waiting}, {"running", now.running}, {"decode_rows", now.rows}}},
                      {"jobs", service.Jobs(owner)},
                      {"memory",
                       {{"cache_memory", now.cache_memory},
                        {"prefixes", now.prefix_bytes},
                        {"embeddings", now.embedding_bytes},
                        {"frames", now.frame_bytes},
                        {"requests", now.request_bytes},
                        {"sessions", now.session_bytes},
                        {"resident", ResidentBytes()},
                        {"disk", now.disk_bytes}}}});
    return response;
  }

  HttpResponse ModelList(const ChatService& service) const {
    OrderedJson data = OrderedJson::array();
    for (const std::string& name : options_.chat.models) data.push_back(ModelObject(service, name));
    HttpResponse response;
    response.body = server::Text({{"object", "list"}, {"data", std::move(data)}});
    return response;
  }

  HttpResponse OneModel(const ChatService& service, const HttpRequest& request) const {
    const std::string name = ModelOfPath(request.path());
    const auto& names = options_.chat.models;
    if (std::find(names.begin(), names.end(), name) == names.end()) {
      ApiError error =
          MakeApiError(404, "model_not_found", Say("'", name, "' is not served here; '", names.front(), "' is").text);
      error.param = "model";
      throw error;
    }
    HttpResponse response;
    response.body = server::Text(ModelObject(service, name));
    return response;
  }

  OrderedJson ModelObject(const ChatService& service, const std::string& name) const {
    const ModelInfo& info = service.model().info();
    OrderedJson policies = OrderedJson::array();
    for (const PolicyInfo& one : Policies()) policies.push_back(one.name);
    return {{"id", name},
            {"object", "model"},
            {"created", static_cast<int64_t>(started_)},
            {"owned_by", "purekv"},
            {"max_model_len", service.max_model_len()},
            {"purekv",
             {{"family", info.family},
              {"dtype", DtypeName(info.dtype)},
              {"fingerprint", info.fingerprint},
              {"kv_bytes_per_token", info.kv_bytes_per_token},
              {"policies", std::move(policies)}}}};
  }

  // In the thread that has written it.
  void FinishUpload(HttpRequest request, std::shared_ptr<HttpExchange> exchange) {
    const auto upload = std::static_pointer_cast<Upload>(std::exchange(request.sink, nullptr));
    writing_.Add([this, upload, request = std::move(request), exchange = std::move(exchange)] {
      try {
        exchange->Respond(Logged(request, RouteName(Route::kFiles), upload->Finish()));
      } catch (const ApiError& error) {
        exchange->Respond(LoggedError(request, RouteName(Route::kFiles), error));
      }
    });
  }

  ServerOptions options_;
  Metrics metrics_;
  const RequestLog log_;
  const std::time_t started_ = std::time(nullptr);
  std::atomic<bool> ending_{false};
  std::chrono::steady_clock::time_point ending_since_;  // of the I/O thread, as the next
  bool was_idle_ = false;
  int64_t idle_ticks_ = 0;
  HttpServer http_;  // outlives who holds connections
  FileStore files_;
  std::mutex mutex_;  // until service_ is there
  std::unique_ptr<ChatService> service_;
  TaskThreads writing_, reading_;  // first to end
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
