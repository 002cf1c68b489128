// Media by http(s): the only place that opens connections to elsewhere, and the only one that knows libcurl.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "server/cancel_signal.h"
#include "server/fetch_rules.h"

namespace purekv::server {

struct FetchOptions {
  FetchRules rules;
  double timeout_s = 60;  // of all of it, redirects included
  int slow_s = 20;        // after so long below 1,000 bytes a second it is given up
  // Names with addresses of their own, "host:port:address", in place of the system's; judged like those.
  std::vector<std::string> addresses{};
};

// Where a URL leads, if the rules take it: "https://example.org:443". Nothing: another scheme than http and https,
// credentials, a host that is not among the domains, another port, or no URL at all.
std::optional<std::string> AllowedOrigin(const std::string& url, const FetchRules& rules);

// Hands out the bytes of `url` as they come, through at most 3 redirects, each of them judged as the first one. What is
// dialled is judged, too, by its address, whatever a name may stand for by then. No proxies, cookies or credentials.
// max_bytes: more are refused. param: the key of the request, for messages, which never hold the URL. Throws ApiError:
// media_not_allowed, in the same words whatever the rules say against it; media_fetch_failed, media_limit; Cancelled
// when the signal is raised; what `take` throws.
void FetchUrl(const std::string& url, const FetchOptions& options, int64_t max_bytes, const std::string& param,
              const CancelSignal& cancel, const std::function<void(std::span<const std::byte>)>& take);

// 400 media_not_allowed.
[[noreturn]] void RefuseUrl(const std::string& param);

}  // namespace purekv::server
