// Bodies of uploads: the first byte says how they are cut, which must change nothing.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/error.h"
#include "server/multipart.h"

namespace {

std::string Parts(std::string_view body, size_t size) {
  std::string parts;
  purekv::server::MultipartReader reader(
      "b",
      [&](const purekv::server::FormPart& part) {
        parts += "\n" + part.name + ":" + part.filename.value_or("-") + "=";
      },
      [&](std::string_view data) { parts += data; });
  try {
    for (size_t at = 0; at < body.size(); at += size) reader.Add(body.substr(at, size));
    reader.Finish();
  } catch (const purekv::Error&) {
    return "none";  // where it was seen depends on the pieces
  }
  return parts;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view body(reinterpret_cast<const char*>(data) + 1, size - 1);
  purekv::server::BoundaryOf(std::string(body));
  if (Parts(body, body.size() + 1) != Parts(body, std::max<size_t>(1, data[0] % 16))) std::abort();
  return 0;
}
