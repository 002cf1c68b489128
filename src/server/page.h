// The web page of the server: static files that anybody may have, and that talk to this server alone.
#pragma once

#include <string>

#include "server/http.h"

namespace purekv::server {

// Whether a path is one of the page's: "/", "/page.js".
bool IsPagePath(const std::string& path);
// The file of such a path, with a Content-Security-Policy under which it loads from nowhere else, and runs nothing that
// is not a file of its own.
HttpResponse PageResponse(const std::string& path);

}  // namespace purekv::server
