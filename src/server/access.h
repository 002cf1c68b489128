// Who may ask what: keys, hosts, paths and methods, looked at before a body is read.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "server/cors.h"
#include "server/http.h"

namespace purekv::server {

struct AccessRules {
  std::vector<std::string> keys;  // any of them opens; none: open to all
  bool loopback = true;           // the server listens on this machine alone: only its own names are answered
  CorsOrigins origins;            // of web pages from elsewhere that may ask, too
  bool page = true;               // the server's own web page is there
};

enum class Route {
  kHealth,
  kModels,
  kModel,
  kChat,
  kPrefixes,
  kPrefix,
  kPrefixKept,
  kPrefixFrame,
  kCost,
  kStatus,
  kMetrics,
  kFiles,
  kFile,
  kPage,
  kPreflight,
};
// For the log: "chat".
const char* RouteName(Route route);

// The route of a request whose body may be read. Throws ApiError: 421 another Host (a web page that drives a local
// server by a name of its own), 401, 404, 405, 415 (a web page can send neither without asking).
Route CheckAccess(const HttpRequest& head, const AccessRules& rules);

// The client's X-Request-Id, where it is one that can be repeated; else one that is made here.
std::string RequestId(const HttpRequest& head);
// Of the key that came with a request, for the log: 8 hexadecimal digits of its hash; "-" without one.
std::string KeyDigits(const HttpRequest& head);
// Whose what is kept of a request is: the digest of its key.
std::string OwnerOf(const HttpRequest& head);
// The model of "/v1/models/NAME", the id of "/v1/purekv/prefixes/ID" and below.
std::string ModelOfPath(const std::string& path);
std::string PrefixOfPath(const std::string& path);

// In a time that does not tell how much of them is equal.
bool SameSecret(const std::string& given, const std::string& secret);

}  // namespace purekv::server
