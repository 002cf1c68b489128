// What a server is started with.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

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
  std::string version;  // of the program, for the metrics
  std::string host = "127.0.0.1";
  uint16_t port = 8000;
  HttpLimits http;
  AccessRules access;  // loopback is the host's
  ChatDefaults chat;   // but for what Serve brings
  MediaLimits media;
  FileLimits files;
  ChatMediaOptions chat_media;
  std::optional<int64_t> cache_memory;  // of prefixes; unset: half of what is free when the model has been loaded
  bool share_cache = false;             // what one key has had read serves requests of the others
  SchedulerOptions scheduler;           // limits.max_positions 0: the model's
  double drain_timeout_s = 60;
  LogFormat log = LogFormat::kText;
};

}  // namespace purekv::server
