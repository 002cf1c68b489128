#include "engine/stop_texts.h"

#include <algorithm>
#include <utility>

namespace purekv {

std::string StopTexts::Push(std::string_view piece) {
  if (found_) return "";
  if (texts_.empty()) return std::string(piece);
  // Byte by byte, so that the one that ends first is found, however many a piece holds.
  for (const char byte : piece) {
    held_.push_back(byte);
    size_t longest = 0;
    for (const std::string& text : texts_) {
      if (held_.ends_with(text)) longest = std::max(longest, text.size());
    }
    if (longest == 0) continue;
    found_ = true;
    held_.resize(held_.size() - longest);
    return std::exchange(held_, {});
  }
  const size_t say = held_.size() - Undecided();
  std::string said = held_.substr(0, say);
  held_.erase(0, say);
  return said;
}

size_t StopTexts::Undecided() const {
  size_t most = 0;
  for (const std::string& text : texts_) {
    for (size_t size = std::min(text.size() - 1, held_.size()); size > most; --size) {
      if (held_.compare(held_.size() - size, size, text, 0, size) == 0) most = size;
    }
  }
  return most;
}

std::string StopTexts::Finish() {
  return std::exchange(held_, {});
}

}  // namespace purekv
