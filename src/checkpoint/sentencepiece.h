// SentencePiece's BPE: merges by the score of the piece that comes out (Kudo and Richardson, 2018, arXiv 1808.06226;
// bpe_model.cc).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "checkpoint/bpe.h"
#include "checkpoint/symbols.h"

namespace purekv {

// A piece that merging may give. Control, unknown and byte tokens are none.
struct SentencePiece {
  std::string text;  // spaces are U+2581
  int32_t id = 0;
  float score = 0;
  bool unused = false;  // falls apart again into the two that it was merged from
};

// Merges the two neighbours whose concatenation is the piece of highest score, the leftmost of equals, until no two are
// a piece. What is no token then is a single character: its bytes, or the unknown token.
class SentencePieceEncoder final : public PieceEncoder {
 public:
  // `vocabulary`: all tokens, also those that are no pieces. `unknown` has an id or all 256 bytes.
  SentencePieceEncoder(const std::vector<SentencePiece>& pieces,
                       const std::unordered_map<std::string, int32_t>& vocabulary, UnknownRule unknown);
  void Encode(std::string_view text, std::vector<int32_t>* ids) const override;

 private:
  struct Piece {
    int32_t id;
    float score;
    bool unused;
  };
  struct Segment;
  void EncodeSegment(std::string_view text, std::vector<int32_t>* ids) const;
  void AppendIds(std::string_view token, const Segment& segment, std::vector<int32_t>* ids) const;

  std::unordered_map<std::string, Piece, StringHash, std::equal_to<>> pieces_;
  std::unordered_map<char32_t, int32_t> reserved_characters_;  // tokens of one character that are no pieces
  std::unordered_set<uint64_t> joints_;  // characters that stand side by side in a piece: left << 32 | right
  size_t longest_ = 0;                   // bytes of the longest piece
  UnknownRule unknown_;
};

}  // namespace purekv
