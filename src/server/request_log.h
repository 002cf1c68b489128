// One line for each request on stderr: what was asked for and what it took. Never a prompt, an answer, a URL or a key.
#pragma once

#include <chrono>
#include <string>

#include "server/reply.h"

namespace purekv::server {

enum class LogFormat { kText, kJson };

class RequestLog {
 public:
  explicit RequestLog(LogFormat format) : format_(format) {}

  struct Entry {
    std::string id, key;  // key: KeyDigits
    std::string route;    // "chat"; "-": none of ours
    std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
  };
  // Any thread.
  void Write(const Entry& entry, const ReplyEnd& end) const;
  // Of what is no request's. Any thread.
  void Note(const std::string& what) const;

 private:
  LogFormat format_;
};

}  // namespace purekv::server
