// The file of --context: read once, however many sessions are begun with it, and not before the flags are known to be
// right.
#pragma once

#include <optional>
#include <string>

namespace purekv::cli {

class ContextFile {
 public:
  bool given() const { return !path_.empty(); }
  const std::string& path() const { return path_; }
  std::string* mutable_path() { return &path_; }
  // Reads it at the first call. Throws Error (engine/context_text.h). nullopt: none was given.
  const std::optional<std::string>& Text() const;

 private:
  std::string path_;
  mutable std::optional<std::string> text_;
};

}  // namespace purekv::cli
