// Added tokens: strings such as <|im_end|> that are one id wherever they stand in a text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace purekv {

// As in tokenizer.json's added_tokens.
struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool lstrip = false;      // also takes the white space before it
  bool rstrip = false;      // and behind it
  bool normalized = false;  // is looked for in the normalised text
  bool special = false;     // is left out when decoding without special tokens
};

// Finds tokens in a text: the leftmost first, the longest of those that begin at one place.
class AddedTokenMatcher {
 public:
  AddedTokenMatcher() = default;
  explicit AddedTokenMatcher(const std::vector<AddedToken>& tokens);

  // A part of a text: a token (id >= 0), or what lies between tokens (id -1; never empty).
  struct Part {
    int32_t id = -1;
    std::string_view text;
  };
  std::vector<Part> Split(std::string_view text) const;

 private:
  // Index into tokens_ of the longest token at text[at], or -1.
  int32_t Match(std::string_view text, size_t at) const;

  std::vector<AddedToken> tokens_;
  // A trie: node << 8 | byte -> node; node 0 is the root.
  std::unordered_map<uint64_t, uint32_t> edges_;
  std::vector<int32_t> token_at_;  // [nodes] index into tokens_, or -1
  bool begins_[256] = {};
};

}  // namespace purekv
