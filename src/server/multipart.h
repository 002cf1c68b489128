// Bodies of type multipart/form-data (RFC 7578, RFC 2046), read as they come: memory holds a part's head, or a boundary
// that may be beginning, and nothing else.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace purekv::server {

// A part's head.
struct FormPart {
  std::string name;
  std::optional<std::string> filename;
};

class MultipartReader {
 public:
  // begin: of a part; data: of it, any number of times; both may throw.
  MultipartReader(std::string_view boundary, std::function<void(const FormPart&)> begin,
                  std::function<void(std::string_view)> data);

  // The next bytes of the body. Throws Error, in words for who sent it.
  void Add(std::string_view bytes);
  // Behind the last. Throws Error when the closing boundary has not come.
  void Finish() const;

 private:
  enum class State {
    kPreamble,  // in front of the first boundary: of nobody's interest
    kBoundary,  // behind one: another part, or the end
    kHead,
    kData,
    kEnd  // behind the closing one: likewise
  };
  // Each: one step as far as the bytes lead. False: more are needed.
  bool SkipOrHandOn();
  bool ReadBoundaryEnd();
  bool ReadHead();

  const std::string delimiter_;  // the end of a line, two hyphens, the boundary
  const std::function<void(const FormPart&)> begin_;
  const std::function<void(std::string_view)> data_;
  State state_ = State::kPreamble;
  std::string buffer_ = "\r\n";  // the first boundary may stand at the very beginning
  int parts_ = 0;
};

// The boundary of a Content-Type; nothing where it is no multipart/form-data, or has none of 1 to 70 characters.
std::optional<std::string> BoundaryOf(const std::string& content_type);

}  // namespace purekv::server
