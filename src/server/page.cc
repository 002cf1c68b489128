#include "server/page.h"

#include <algorithm>

#include "base/error.h"
#include "server/page_files.h"

namespace purekv::server {
namespace {

constexpr char kPolicy[] =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "frame-ancestors 'none'";

struct PageType {
  std::string_view ending, type;
};
constexpr PageType kTypes[] = {{".html", "text/html; charset=utf-8"},
                               {".js", "text/javascript; charset=utf-8"},
                               {".css", "text/css; charset=utf-8"},
                               {".svg", "image/svg+xml"}};

const PageFile* FileOf(const std::string& path) {
  const std::string_view name =
      path == "/" ? "page.html" : std::string_view(path).substr(std::min<size_t>(1, path.size()));
  const auto files = PageFiles();
  const auto found = std::find_if(files.begin(), files.end(), [&](const PageFile& one) { return one.name == name; });
  return found == files.end() ? nullptr : &*found;
}

}  // namespace

bool IsPagePath(const std::string& path) {
  return path != "/page.html" && path.starts_with('/') && FileOf(path) != nullptr;
}

HttpResponse PageResponse(const std::string& path) {
  const PageFile* const file = FileOf(path);
  PUREKV_CHECK(file != nullptr, "not a file of the page: " + path);
  HttpResponse response;
  for (const PageType& one : kTypes) {
    if (file->name.ends_with(one.ending)) response.type = one.type;
  }
  response.body = file->body;
  // X-Content-Type-Options comes with every answer (http_connection.h). no-cache: asked for anew, so that a page is
  // never older than the server that it talks to.
  response.fields = {
      {"Content-Security-Policy", kPolicy}, {"Referrer-Policy", "no-referrer"}, {"Cache-Control", "no-cache"}};
  return response;
}

}  // namespace purekv::server
