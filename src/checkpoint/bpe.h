// Byte-pair encoding by ranked merges: pieces of text to ids.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "checkpoint/symbols.h"

namespace purekv {

// GPT-2's alphabet: a printable character for each byte, in which vocabularies are written ("Ġ" is a space).
char32_t ByteCharacter(unsigned char byte);
// The bytes that `token` stands for; nullopt: it has a character outside the alphabet.
std::optional<std::string> AlphabetBytes(std::string_view token);
// As AlphabetBytes; a token with a character outside the alphabet stands for itself.
std::string TokenBytes(std::string_view token);

// Two ids next to each other become one. Rank: the place in the file's list.
struct MergeRule {
  int32_t left = 0;
  int32_t right = 0;
  int32_t merged = 0;
};

// Turns one piece of text, well-formed UTF-8, into ids.
class PieceEncoder {
 public:
  virtual ~PieceEncoder() = default;
  // Appends the ids. O(n log n) in the bytes of the piece. Throws Error (kUsage) beyond 2 GiB.
  virtual void Encode(std::string_view piece, std::vector<int32_t>* ids) const = 0;
};

// What a piece begins as, and its merges.
struct BytePairRules {
  // Over bytes: the id of each byte's own token, -1: none.
  std::array<int32_t, 256> byte_ids{};
  // Over characters, where `by_character`: the same for characters.
  bool by_character = false;
  std::unordered_map<char32_t, int32_t> character_ids;
  UnknownRule unknown;  // over bytes, "a character" is the byte's in GPT-2's alphabet
  // Of two rules for one pair the later counts.
  std::vector<MergeRule> merges;
  // By character only, to save time: pairs (last character of a merge's left token << 32 | first of its right one).
  // Between two characters that are no such pair nothing merges. Empty: not known.
  std::unordered_set<uint64_t> joints;
  // Pieces that are looked up whole before any merge (the file's ignore_merges).
  TokenIds whole_pieces;
};

// Merges the adjacent pair of lowest rank, the leftmost of equals, until none is left.
class BytePairEncoder final : public PieceEncoder {
 public:
  explicit BytePairEncoder(BytePairRules rules);
  void Encode(std::string_view piece, std::vector<int32_t>* ids) const override;

 private:
  struct Target {
    int32_t rank;
    int32_t merged;
  };
  struct Beginning;  // the ids that a piece begins as, and where nothing merges
  const Target* Find(int32_t left, int32_t right) const;
  Beginning Begin(std::string_view piece) const;
  void Merge(const int32_t* begin, const int32_t* end, std::vector<int32_t>* ids) const;

  BytePairRules rules_;                          // without the merges
  std::unordered_map<uint64_t, Target> merges_;  // left << 32 | right
};

}  // namespace purekv
