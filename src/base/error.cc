#include "base/error.h"

#include <cstdio>
#include <cstdlib>
#include <utility>

#include "base/utf8.h"

namespace purekv {
namespace {

// What a terminal, or a reader of logs, would take for more than a character: control codes (C0, DEL, C1), line and
// paragraph separators, and the marks that reverse the direction of what follows (a name could look like another).
bool Controls(char32_t code) {
  return code < 0x20 || (code >= 0x7f && code < 0xa0) || code == 0x061c || code == 0x200e || code == 0x200f ||
         (code >= 0x2028 && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069);
}

}  // namespace

std::string OneLine(const std::string& text) {
  std::string line;
  line.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const Utf8Char c = DecodeUtf8(text, at);
    const size_t length = c.length == 0 ? 1 : c.length;
    if (c.length == 1 && (c.code == '\n' || c.code == '\t' || c.code == '\r')) {
      line += ' ';
    } else if (c.length > 0 && !Controls(c.code)) {
      line.append(text, at, length);
    } else {
      for (size_t i = 0; i < length; ++i) {
        char escaped[8];
        std::snprintf(escaped, sizeof(escaped), "\\x%02x", static_cast<unsigned char>(text[at + i]));
        line += escaped;
      }
    }
    at += length;
  }
  return line;
}

std::string Message::field() const {
  return !fields.empty() && fields.front().begin == 0 ? text.substr(0, fields.front().size) : "";
}

std::string Message::Naming(const std::function<std::string(const std::string& path)>& name) const {
  std::string named;
  size_t at = 0;
  for (const Field& field : fields) {
    named += text.substr(at, field.begin - at) + name(text.substr(field.begin, field.size));
    at = field.begin + field.size;
  }
  return named + text.substr(at);
}

void MessageBuilder::Flush() {
  message_.text += OneLine(text_.str());
  text_.str("");
}

void MessageBuilder::Add(const Field& field) {
  Flush();
  const std::string path = OneLine(field.path);  // the key of an option is whatever a caller gave
  message_.fields.push_back({message_.text.size(), path.size()});
  message_.text += path;
}

void MessageBuilder::Add(const Message& message) {
  Flush();
  for (const Message::Field& field : message.fields) {
    message_.fields.push_back({message_.text.size() + field.begin, field.size});
  }
  message_.text += OneLine(message.text);
}

Message MessageBuilder::Take() {
  Flush();
  return std::move(message_);
}

void Abort(const char* file, int line, const std::string& message) {
  std::fprintf(stderr, "purekv: broken assumption at %s:%d: %s\n", file, line, OneLine(message).c_str());
  std::fflush(stderr);
  std::abort();
}

}  // namespace purekv
