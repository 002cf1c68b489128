#include "base/error.h"

#include <cstdio>
#include <cstdlib>

namespace purekv {

std::string OneLine(const std::string& text) {
  std::string line;
  line.reserve(text.size());
  for (char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte != 0x7f) {
      line += c;
    } else if (c == '\n' || c == '\t' || c == '\r') {
      line += ' ';
    } else {
      char escaped[8];
      std::snprintf(escaped, sizeof(escaped), "\\x%02x", byte);
      line += escaped;
    }
  }
  return line;
}

void Abort(const char* file, int line, const std::string& message) {
  std::fprintf(stderr, "purekv: broken assumption at %s:%d: %s\n", file, line, message.c_str());
  std::fflush(stderr);
  std::abort();
}

}  // namespace purekv
