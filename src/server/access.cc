#include "server/access.h"

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <span>
#include <vector>

#include "base/hash.h"
#include "base/random_digits.h"
#include "server/api_error.h"
#include "server/digest.h"
#include "server/multipart.h"
#include "server/page.h"

namespace purekv::server {
namespace {

constexpr std::string_view kModelPrefix = "/v1/models/";
constexpr std::string_view kFiles = "/v1/files";
constexpr std::string_view kPrefixes = "/v1/purekv/prefixes";
constexpr std::string_view kBearer = "bearer ";

[[noreturn]] void Deny(int status, const std::string& code, const std::string& message) {
  ApiError error;
  error.status = status;
  error.code = code;
  error.message = OneLine(message);
  throw error;
}

std::string Lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

std::string KeyOf(const HttpRequest& head) {
  const std::string* const value = head.Find("authorization");
  if (value == nullptr || !Lower(value->substr(0, kBearer.size())).starts_with(kBearer)) return "";
  return value->substr(kBearer.size());
}

void CheckHost(const HttpRequest& head) {
  const std::string* const host = head.Find("host");
  const std::string name = host == nullptr ? "" : Lower(host->substr(0, host->rfind(':')));
  const std::string whole = host == nullptr ? "" : Lower(*host);
  for (const char* const known : {"localhost", "127.0.0.1", "[::1]"}) {
    if (name == known || whole == known) return;
  }
  Deny(421, "wrong_host", "this server is this machine's own: Host must be localhost, 127.0.0.1 or [::1]");
}

void CheckKey(const HttpRequest& head, const AccessRules& rules) {
  if (rules.keys.empty()) return;
  const std::string given = KeyOf(head);
  bool known = false;
  for (const std::string& key : rules.keys) known |= SameSecret(given, key);  // always all of them
  if (!known) Deny(401, "invalid_api_key", "Authorization: Bearer with a key of this server is needed");
}

void CheckEncoding(const HttpRequest& head) {
  if (head.Find("content-encoding") == nullptr) return;
  Deny(415, "wrong_content_type", "a body is taken as it is, not encoded");
}

void CheckJson(const HttpRequest& head) {
  const std::string* const type = head.Find("content-type");
  std::string media = type == nullptr ? "" : Lower(type->substr(0, type->find(';')));
  while (!media.empty() && media.back() == ' ') media.pop_back();
  if (media != "application/json") Deny(415, "wrong_content_type", "Content-Type: application/json is needed");
  CheckEncoding(head);
}

// Whether a browser says that the page which asks is this server's own. Behind a proxy that speaks TLS, Host and Origin
// may differ; Sec-Fetch-Site no page can set.
bool FromOwnPage(const HttpRequest& head) {
  const std::string *const origin = head.Find("origin"), *const host = head.Find("host");
  if (origin == nullptr || (host != nullptr && Lower(*origin) == "http://" + Lower(*host))) return true;
  const std::string* const site = head.Find("sec-fetch-site");
  return site != nullptr && *site == "same-origin";
}

// Web pages may send forms anywhere without asking, but say where they are from.
void CheckUpload(const HttpRequest& head, const AccessRules& rules) {
  const std::string* const type = head.Find("content-type");
  if (type == nullptr || !BoundaryOf(*type)) {
    Deny(415, "wrong_content_type", "Content-Type: multipart/form-data with a boundary is needed");
  }
  CheckEncoding(head);
  if (!FromOwnPage(head) && !FromListedOrigin(head, rules.origins)) {
    Deny(403, "wrong_origin", "files of a page from elsewhere are not taken");
  }
}

Route RouteOf(const std::string& path) {
  if (path == "/health" || path == "/v1/health") return Route::kHealth;
  if (path == "/v1/models") return Route::kModels;
  if (path.starts_with(kModelPrefix)) return Route::kModel;
  if (path == "/v1/chat/completions") return Route::kChat;
  if (path == "/v1/purekv/cost") return Route::kCost;
  if (path == "/v1/purekv/status") return Route::kStatus;
  if (path == "/metrics") return Route::kMetrics;
  if (path == kPrefixes) return Route::kPrefixes;
  if (path.starts_with(kPrefixes) && path[kPrefixes.size()] == '/') {
    const std::string rest = path.substr(kPrefixes.size() + 1),
                      below = rest.substr(std::min(rest.size(), rest.find('/')));
    if (below.empty()) return Route::kPrefix;
    if (below == "/kept") return Route::kPrefixKept;
    if (below.starts_with("/frames/")) return Route::kPrefixFrame;
  }
  if (path == kFiles) return Route::kFiles;
  if (path.starts_with(kFiles) && path[kFiles.size()] == '/') return Route::kFile;
  Deny(404, "not_found", "there is nothing here; POST /v1/chat/completions answers chats");
}

std::vector<std::string> MethodsOf(Route route) {
  switch (route) {
    case Route::kChat:
    case Route::kCost:
      return {"POST"};
    case Route::kPrefixes:
    case Route::kFiles:
      return {"GET", "POST"};
    case Route::kPrefix:
    case Route::kFile:
      return {"GET", "DELETE"};
    default:
      return {"GET"};
  }
}

void CheckMethod(const HttpRequest& head, Route route) {
  const std::vector<std::string> methods = MethodsOf(route);
  if (std::find(methods.begin(), methods.end(), head.method) != methods.end()) return;
  Deny(405, "method_not_allowed",
       "this path takes " + methods.front() + (methods.size() > 1 ? " and " + methods.back() : "") + " alone");
}

}  // namespace

const char* RouteName(Route route) {
  switch (route) {
    case Route::kHealth:
      return "health";
    case Route::kModels:
    case Route::kModel:
      return "models";
    case Route::kPrefixes:
    case Route::kPrefix:
    case Route::kPrefixKept:
    case Route::kPrefixFrame:
      return "prefixes";
    case Route::kCost:
      return "cost";
    case Route::kStatus:
      return "status";
    case Route::kMetrics:
      return "metrics";
    case Route::kFiles:
    case Route::kFile:
      return "files";
    case Route::kPage:
    case Route::kPreflight:
      return "page";
    case Route::kChat:
      break;
  }
  return "chat";
}

Route CheckAccess(const HttpRequest& head, const AccessRules& rules) {
  if (rules.loopback) CheckHost(head);
  const std::string path = head.path();
  if (!rules.origins.empty() && IsPreflight(head)) {  // before the key: browsers send none along
    if (FromListedOrigin(head, rules.origins)) return Route::kPreflight;
    Deny(403, "wrong_origin", "pages of this origin are not answered");
  }
  if (rules.page && IsPagePath(path) && (head.method == "GET" || head.method == "HEAD")) return Route::kPage;
  if (path != "/health") CheckKey(head, rules);
  const Route route = RouteOf(path);
  CheckMethod(head, route);
  if (head.method != "POST") return route;
  if (route == Route::kFiles) {
    CheckUpload(head, rules);
  } else {
    CheckJson(head);
  }
  return route;
}

std::string RequestId(const HttpRequest& head) {
  const std::string* const given = head.Find("x-request-id");
  const auto fine = [](unsigned char c) { return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.'; };
  if (given != nullptr && !given->empty() && given->size() <= 128 && std::all_of(given->begin(), given->end(), fine)) {
    return *given;
  }
  return "req-" + RandomDigits(24);
}

std::string KeyDigits(const HttpRequest& head) {
  const std::string key = KeyOf(head);
  if (key.empty()) return "-";
  char text[9];
  const uint64_t hash = HashOf(std::as_bytes(std::span(key)));
  std::snprintf(text, sizeof(text), "%08x", static_cast<unsigned>(hash >> 32));
  return text;
}

std::string OwnerOf(const HttpRequest& head) {
  return DigestOf(KeyOf(head));
}

std::string PrefixOfPath(const std::string& path) {
  const size_t begin = std::min(path.size(), kPrefixes.size() + 1);
  return path.substr(begin, path.find('/', begin) - begin);
}

std::string ModelOfPath(const std::string& path) {
  std::string name;
  for (size_t i = kModelPrefix.size(); i < path.size(); ++i) {
    unsigned value = 0;
    if (path[i] == '%' && i + 2 < path.size() && std::sscanf(path.c_str() + i + 1, "%2x", &value) == 1) {
      name.push_back(static_cast<char>(value));
      i += 2;
    } else {
      name.push_back(path[i]);
    }
  }
  return name;
}

bool SameSecret(const std::string& given, const std::string& secret) {
  unsigned differs = given.size() == secret.size() ? 0 : 1;
  for (size_t i = 0; i < given.size(); ++i) {
    differs |= static_cast<unsigned char>(given[i]) ^
               static_cast<unsigned char>(secret[i % std::max<size_t>(1, secret.size())]);
  }
  return differs == 0 && !secret.empty();
}

}  // namespace purekv::server
