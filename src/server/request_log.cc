#include "server/request_log.h"

#include <cstdio>
#include <ctime>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace purekv::server {
namespace {

std::string Now() {
  char text[32];
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  return {text, std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &parts)};
}

std::string LineOf(const nlohmann::ordered_json& line, LogFormat format) {
  if (format == LogFormat::kJson) {
    return line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  }
  std::string text;
  for (const auto& [name, value] : line.items()) {
    text += (text.empty() ? "" : " ") + (name == "time" ? "" : name + "=") +
            (value.is_string() ? value.get<std::string>() : value.dump());
  }
  return OneLine(text);
}

}  // namespace

void RequestLog::Write(const Entry& entry, const ReplyEnd& end) const {
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - entry.start).count();
  metrics_.Ended(end, seconds);
  nlohmann::ordered_json line = {{"time", Now()},
                                 {"id", entry.id},
                                 {"key", entry.key},
                                 {"route", entry.route},
                                 {"status", end.status},
                                 {"prompt_tokens", end.prompt_tokens},
                                 {"completion_tokens", end.completion_tokens},
                                 {"kept", end.tokens_kept_mean},
                                 {"cache", end.cache.empty() ? "none" : end.cache},
                                 {"seconds", seconds},
                                 {"kv_bytes", end.kv_bytes}};
  if (!end.problem.empty()) line["problem"] = end.problem;
  std::fprintf(stderr, "%s\n", LineOf(line, format_).c_str());
}

void RequestLog::Note(const std::string& what) const {
  std::fprintf(stderr, "%s\n", LineOf({{"time", Now()}, {"note", what}}, format_).c_str());
}

}  // namespace purekv::server
