#include "checkpoint/added_tokens.h"

#include <algorithm>

#include "base/utf8.h"
#include "checkpoint/unicode_ranges.h"

namespace purekv {
namespace {

// Where the white space at the end of `text` begins.
size_t TrailingSpaceBegin(std::string_view text) {
  size_t begin = text.size();
  while (begin > 0) {
    size_t at = begin - 1;
    while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80) --at;
    if (!IsSpace(DecodeUtf8(text, at).code)) break;
    begin = at;
  }
  return begin;
}

size_t LeadingSpaceEnd(std::string_view text) {
  size_t end = 0;
  while (end < text.size()) {
    const Utf8Char c = DecodeUtf8(text, end);
    if (!IsSpace(c.code)) break;
    end += c.length;
  }
  return end;
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(const std::vector<AddedToken>& tokens) : tokens_(tokens), token_at_(1, -1) {
  for (size_t i = 0; i < tokens_.size(); ++i) {
    uint32_t node = 0;
    for (char c : tokens_[i].content) {
      const uint64_t edge = uint64_t{node} << 8 | static_cast<unsigned char>(c);
      const auto [position, inserted] = edges_.emplace(edge, static_cast<uint32_t>(token_at_.size()));
      if (inserted) token_at_.push_back(-1);
      node = position->second;
    }
    token_at_[node] = static_cast<int32_t>(i);
    if (!tokens_[i].content.empty()) begins_[static_cast<unsigned char>(tokens_[i].content[0])] = true;
  }
}

int32_t AddedTokenMatcher::Match(std::string_view text, size_t at) const {
  if (!begins_[static_cast<unsigned char>(text[at])]) return -1;
  int32_t longest = -1;
  uint32_t node = 0;
  for (; at < text.size(); ++at) {
    const auto edge = edges_.find(uint64_t{node} << 8 | static_cast<unsigned char>(text[at]));
    if (edge == edges_.end()) break;
    node = edge->second;
    if (token_at_[node] >= 0) longest = token_at_[node];
  }
  return longest;
}

std::vector<AddedTokenMatcher::Part> AddedTokenMatcher::Split(std::string_view text) const {
  std::vector<Part> parts;
  size_t done = 0;  // everything before is in `parts`
  for (size_t at = 0; at < text.size();) {
    const int32_t index = Match(text, at);
    if (index < 0) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[static_cast<size_t>(index)];
    size_t begin = at;
    at += token.content.size();
    size_t end = at;
    if (token.lstrip) begin = std::max(done, TrailingSpaceBegin(text.substr(0, begin)));
    if (token.rstrip) end += LeadingSpaceEnd(text.substr(end));
    if (done < begin) parts.push_back({-1, text.substr(done, begin - done)});
    parts.push_back({token.id, text.substr(begin, end - begin)});
    done = end;
  }
  if (done < text.size()) parts.push_back({-1, text.substr(done)});
  return parts;
}

}  // namespace purekv
