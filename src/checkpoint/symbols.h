// The ids that byte-pair encoding begins with: one per byte or character, and what stands for those without a token.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace purekv {

// Keys that a string_view finds without a copy.
struct StringHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};
using TokenIds = std::unordered_map<std::string, int32_t, StringHash, std::equal_to<>>;

// What becomes of a character that is no token. First the tokens <0x00> .. <0xFF> of its UTF-8 bytes, if `byte_ids`
// has all of them; else the unknown token; else nothing: it is dropped, as Hugging Face does.
struct UnknownRule {
  bool byte_fallback = false;
  std::array<int32_t, 256> byte_ids{};  // -1: no such token
  int32_t id = -1;                      // the unknown token; -1: none
  bool fuse = false;                    // one for a run of characters

  // Takes the ids of the byte tokens from `vocabulary`.
  void FindByteTokens(const std::unordered_map<std::string, int32_t>& vocabulary);
  // The ids of `character`'s bytes; false: some have none.
  bool AppendBytes(std::string_view character, std::vector<int32_t>* ids) const;
};

// The value of a byte token, "<0xE2>": 0xe2. -1: not of this form.
int ByteTokenValue(std::string_view token);

}  // namespace purekv
