// Texts that end an answer, found while it comes in pieces. What is found does not depend on how it is cut.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace purekv {

class StopTexts {
 public:
  // None empty.
  explicit StopTexts(std::vector<std::string> texts) : texts_(std::move(texts)) {}

  // More of the answer. Returns what can be said: all in front of a stop text that has become whole, or in front of
  // what may be the beginning of one; nothing once one has been found.
  std::string Push(std::string_view piece);
  bool found() const { return found_; }
  // Nothing more comes: what was held back goes out.
  std::string Finish();

 private:
  // Bytes at the end of what is held that a stop text begins with; the most.
  size_t Undecided() const;

  std::vector<std::string> texts_;
  std::string held_;
  bool found_ = false;
};

}  // namespace purekv
