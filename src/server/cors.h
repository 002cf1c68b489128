// Web pages of other origins: which of them a browser may let read our answers (the CORS protocol of the Fetch
// standard).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "server/http.h"

namespace purekv::server {

// Origins as browsers write them ("https://example.org:8443"), in lower case; "*" is any. Empty: no page of elsewhere.
using CorsOrigins = std::vector<std::string>;

constexpr char kAnyOrigin[] = "*";

// One of such a list as a user wrote it; nothing when it is no origin.
std::optional<std::string> ParseOrigin(const std::string& text);

// Whether the request comes from a page whose origin is listed.
bool FromListedOrigin(const HttpRequest& head, const CorsOrigins& origins);
// A browser that asks whether a page may send the request that it wants to send.
bool IsPreflight(const HttpRequest& head);
// The answer to one from a listed origin.
HttpResponse PreflightResponse(const HttpRequest& head);
// What every answer to this request says to browsers; nothing where nothing is listed.
HttpFields CorsFields(const HttpRequest& head, const CorsOrigins& origins);

}  // namespace purekv::server
