// Where requests end: one line for each on stderr, what was asked for and what it took, and never a prompt, an answer,
// a URL or a key; and what it adds to the metrics.
#pragma once

#include <chrono>
#include <string>

#include "server/metrics.h"
#include "server/reply.h"

namespace purekv::server {

enum class LogFormat { kText, kJson };

class RequestLog {
 public:
  // metrics: borrowed.
  RequestLog(LogFormat format, Metrics& metrics) : format_(format), metrics_(metrics) {}

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
  Metrics& metrics_;
};

}  // namespace purekv::server
