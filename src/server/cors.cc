#include "server/cors.h"

#include <algorithm>
#include <cctype>
#include <string_view>

namespace purekv::server {
namespace {

std::string Lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

}  // namespace

std::optional<std::string> ParseOrigin(const std::string& text) {
  const std::string origin = Lower(text);
  if (origin == kAnyOrigin) return origin;
  const size_t scheme = origin.find("://");
  const std::string host = scheme == std::string::npos ? "" : origin.substr(scheme + 3);
  const bool known = origin.starts_with("http://") || origin.starts_with("https://");
  const auto fine = [](unsigned char c) {
    return std::isalnum(c) != 0 || std::string_view(".-_:[]").find(static_cast<char>(c)) != std::string_view::npos;
  };
  if (!known || host.empty() || !std::all_of(host.begin(), host.end(), fine)) return std::nullopt;
  return origin;
}

bool FromListedOrigin(const HttpRequest& head, const CorsOrigins& origins) {
  const std::string* const origin = head.Find("origin");
  if (origin == nullptr) return false;
  const std::string given = Lower(*origin);
  return std::any_of(origins.begin(), origins.end(),
                     [&](const std::string& one) { return one == kAnyOrigin || one == given; });
}

bool IsPreflight(const HttpRequest& head) {
  return head.method == "OPTIONS" && head.Find("origin") != nullptr &&
         head.Find("access-control-request-method") != nullptr;
}

HttpResponse PreflightResponse(const HttpRequest& head) {
  HttpResponse response;
  response.type = "text/plain";
  response.fields = {{"Access-Control-Allow-Methods", "GET, POST, DELETE"}, {"Access-Control-Max-Age", "600"}};
  // Client packages send fields of their own; none of them opens anything.
  if (const std::string* const wanted = head.Find("access-control-request-headers")) {
    response.fields.emplace_back("Access-Control-Allow-Headers", *wanted);
  }
  return response;
}

HttpFields CorsFields(const HttpRequest& head, const CorsOrigins& origins) {
  if (origins.empty()) return {};
  const bool any = std::find(origins.begin(), origins.end(), kAnyOrigin) != origins.end();
  HttpFields fields;
  if (!any) fields.emplace_back("Vary", "Origin");
  if (!FromListedOrigin(head, origins)) return fields;
  fields.emplace_back("Access-Control-Allow-Origin", any ? kAnyOrigin : *head.Find("origin"));
  fields.emplace_back("Access-Control-Expose-Headers", "X-Request-Id, Retry-After, X-Should-Retry");
  return fields;
}

}  // namespace purekv::server
