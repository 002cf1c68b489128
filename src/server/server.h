// `purekv serve` as a whole: an HTTP server with OpenAI's endpoints over one model.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "purekv/model.h"
#include "server/access.h"
#include "server/chat_media.h"
#include "server/chat_request.h"
#include "server/file_api.h"
#include "server/http.h"
#include "server/media_files.h"
#include "server/request_log.h"
#include "serving/scheduler.h"

namespace purekv::server {

struct ServerOptions {
  std::string host = "127.0.0.1";
  uint16_t port = 8000;
  HttpLimits http;
  AccessRules access;  // loopback is the host's
  ChatDefaults chat;   // but for what Serve brings
  MediaLimits media;
  FileLimits files;
  ChatMediaOptions chat_media;
  std::optional<int64_t> cache_memory;  // of prefixes; unset: half of what is free when the model has been loaded
  SchedulerOptions scheduler;           // limits.max_positions 0: the model's
  double drain_timeout_s = 60;
  LogFormat log = LogFormat::kText;
};

class Server {
 public:
  // Listens, and says "loading" to all but /health, from Run on. SIGTERM and SIGINT must be blocked before any thread
  // is made, this one included. Throws Error naming host and port.
  explicit Server(const ServerOptions& options);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  std::string url() const;
  // Serves in this thread until it is told to end: by a signal, when what runs is done, or by Abort.
  void Run();
  // Any thread: from now on chats are answered. The others: what requests leave open, now that the model is known.
  void Serve(std::shared_ptr<const Model> model, const GenerateOptions& generate, const ReadDefaults& media,
             const ReadDefaults& text);
  // Ends Run at once.
  void Abort();
  // Becomes true when a signal came.
  const std::atomic<bool>& ending() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace purekv::server
