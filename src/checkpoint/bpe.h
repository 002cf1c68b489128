// Byte-pair encoding over bytes: pieces of text to ids.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace purekv {

// GPT-2's alphabet: a printable character for each byte, in which vocabularies are written ("Ġ" is a space).
char32_t ByteCharacter(unsigned char byte);
// The bytes that `token` stands for. A token with a character outside the alphabet stands for itself.
std::string TokenBytes(std::string_view token);

// Two ids next to each other become one. Rank: the place in the file's list.
struct MergeRule {
  int32_t left = 0;
  int32_t right = 0;
  int32_t merged = 0;
};

class BytePairEncoder {
 public:
  BytePairEncoder() = default;
  // `byte_ids`: the id of each byte's own token, -1 where text has no such byte. Of two rules for one pair the later
  // counts. `whole_pieces`: token bytes -> id of pieces that are looked up whole before any merge (the file's
  // ignore_merges).
  BytePairEncoder(const std::array<int32_t, 256>& byte_ids, const std::vector<MergeRule>& merges,
                  std::unordered_map<std::string, int32_t> whole_pieces);

  // Appends the ids of one piece: merges the adjacent pair of lowest rank, the leftmost of equals, until none is left.
  // O(n log n) in the bytes of the piece.
  void Encode(std::string_view piece, std::vector<int32_t>* ids) const;

 private:
  struct Target {
    int32_t rank;
    int32_t merged;
  };
  const Target* Find(int32_t left, int32_t right) const;

  std::array<int32_t, 256> byte_ids_{};
  std::unordered_map<uint64_t, Target> merges_;  // left << 32 | right
  std::unordered_map<std::string, int32_t> whole_pieces_;
};

}  // namespace purekv
