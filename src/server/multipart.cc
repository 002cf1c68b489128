#include "server/multipart.h"

#include <algorithm>
#include <cctype>
#include <utility>

#include "base/error.h"

namespace purekv::server {
namespace {

constexpr size_t kMaxHead = 8192, kMaxPadding = 256;
constexpr int kMaxParts = 16;

std::string Lower(std::string_view text) {
  std::string lower(text);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return lower;
}

std::string_view Trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

// The parameters behind a field's first value: `; name="value"`, or without quotes. visit(name in lower case, value).
// False where they are not well formed.
bool Parameters(std::string_view rest, const std::function<void(const std::string&, std::string)>& visit) {
  while (!(rest = Trimmed(rest)).empty()) {
    if (rest.front() != ';') return false;
    rest = Trimmed(rest.substr(1));
    if (rest.empty()) return true;
    const size_t equals = rest.find('=');
    if (equals == rest.npos || equals == 0) return false;
    const std::string name = Lower(Trimmed(rest.substr(0, equals)));
    rest = Trimmed(rest.substr(equals + 1));
    std::string value;
    if (rest.starts_with('"')) {
      size_t i = 1;
      for (; i < rest.size() && rest[i] != '"'; ++i) {
        if (rest[i] == '\\' && i + 1 < rest.size()) ++i;
        value.push_back(rest[i]);
      }
      if (i >= rest.size()) return false;
      rest.remove_prefix(i + 1);
    } else {
      value = Trimmed(rest.substr(0, rest.find(';')));
      rest.remove_prefix(std::min(rest.size(), rest.find(';')));
    }
    visit(name, std::move(value));
  }
  return true;
}

FormPart ReadPart(std::string_view head) {
  FormPart part;
  bool named = false;
  while (!head.empty()) {
    const size_t end = std::min(head.find("\r\n"), head.size());
    const std::string_view line = head.substr(0, end);
    head.remove_prefix(std::min(head.size(), end + 2));
    const size_t colon = line.find(':');
    if (colon == line.npos) Fail("a part's head has a line without a colon");
    if (Lower(Trimmed(line.substr(0, colon))) != "content-disposition") continue;
    const std::string_view value = Trimmed(line.substr(colon + 1));
    const size_t type = std::min(value.find(';'), value.size());
    bool once = !named && Lower(Trimmed(value.substr(0, type))) == "form-data";
    once = once && Parameters(value.substr(type), [&](const std::string& name, std::string text) {
             if (name == "name") {
               named = true;
               part.name = std::move(text);
             } else if (name == "filename") {
               part.filename = std::move(text);
             }
           });
    if (!once) Fail("a part's Content-Disposition is not form-data with a name");
  }
  if (!named) Fail("a part without Content-Disposition: form-data; name=\"...\"");
  return part;
}

}  // namespace

MultipartReader::MultipartReader(std::string_view boundary, std::function<void(const FormPart&)> begin,
                                 std::function<void(std::string_view)> data)
    : delimiter_("\r\n--" + std::string(boundary)), begin_(std::move(begin)), data_(std::move(data)) {}

void MultipartReader::Add(std::string_view bytes) {
  if (state_ == State::kEnd) return;
  buffer_.append(bytes);
  bool more = true;
  while (more) {
    switch (state_) {
      case State::kPreamble:
      case State::kData:
        more = SkipOrHandOn();
        break;
      case State::kBoundary:
        more = ReadBoundaryEnd();
        break;
      case State::kHead:
        more = ReadHead();
        break;
      case State::kEnd:
        buffer_.clear();
        more = false;
        break;
    }
  }
}

void MultipartReader::Finish() const {
  if (state_ != State::kEnd) Fail("the body ends before its closing boundary");
}

bool MultipartReader::SkipOrHandOn() {
  const size_t found = buffer_.find(delimiter_);
  // What may be the beginning of one stays.
  const size_t sure = found != buffer_.npos                 ? found
                      : buffer_.size() >= delimiter_.size() ? buffer_.size() - delimiter_.size() + 1
                                                            : 0;
  if (state_ == State::kData && sure > 0) data_(std::string_view(buffer_).substr(0, sure));
  buffer_.erase(0, sure);
  if (found == buffer_.npos) return false;
  buffer_.erase(0, delimiter_.size());
  state_ = State::kBoundary;
  return true;
}

bool MultipartReader::ReadBoundaryEnd() {
  if (buffer_.size() < 2) return false;
  if (buffer_.starts_with("--")) {
    state_ = State::kEnd;
    return true;
  }
  const size_t end = buffer_.find_first_not_of(" \t");
  if (std::min(end, buffer_.size()) > kMaxPadding) Fail("a boundary's line does not end");
  if (end == buffer_.npos || buffer_.size() < end + 2) return false;
  if (buffer_.compare(end, 2, "\r\n") != 0) Fail("a boundary is followed by something else than the end of its line");
  if (++parts_ > kMaxParts) Fail("more than ", kMaxParts, " parts");
  buffer_.erase(0, end);  // a head without a field is an end of a line
  state_ = State::kHead;
  return true;
}

bool MultipartReader::ReadHead() {
  const size_t end = buffer_.find("\r\n\r\n");
  if (std::min(end, buffer_.size()) > kMaxHead) Fail("a part's head is longer than ", kMaxHead, " bytes");
  if (end == buffer_.npos) return false;
  begin_(ReadPart(std::string_view(buffer_).substr(2, end < 2 ? 0 : end - 2)));
  buffer_.erase(0, end + 4);
  state_ = State::kData;
  return true;
}

std::optional<std::string> BoundaryOf(const std::string& content_type) {
  const size_t type = std::min(content_type.find(';'), content_type.size());
  if (Lower(Trimmed(std::string_view(content_type).substr(0, type))) != "multipart/form-data") return std::nullopt;
  std::optional<std::string> boundary;
  const bool fine =
      Parameters(std::string_view(content_type).substr(type), [&](const std::string& name, std::string text) {
        if (name == "boundary") boundary = std::move(text);
      });
  const auto allowed = [](unsigned char c) {
    return std::isalnum(c) != 0 ||
           std::string_view("'()+_,-./:=? ").find(static_cast<char>(c)) != std::string_view::npos;
  };
  if (!fine || !boundary || boundary->empty() || boundary->size() > 70 || boundary->back() == ' ' ||
      !std::all_of(boundary->begin(), boundary->end(), allowed)) {
    return std::nullopt;
  }
  return boundary;
}

}  // namespace purekv::server
