// What a tokenizer is made of, whichever file says so: tokenizer.json, vocab.json with merges.txt, tokenizer.model,
// GGUF.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "checkpoint/added_tokens.h"
#include "checkpoint/bpe.h"
#include "checkpoint/normalizer.h"
#include "checkpoint/sentencepiece.h"

namespace purekv {

// Ids of tokens lie in [0, kMaxTokenId].
constexpr int64_t kMaxTokenId = 10'000'000 - 1;
// Bounds the search for added tokens in a text, which looks this far ahead at every byte.
constexpr size_t kMaxAddedToken = 512;

// One way to cut text into the pieces that are encoded each for itself.
struct SplitRule {
  enum class Kind {
    kRegex,    // `pattern` is a regex; its matches and what lies between them
    kLiteral,  // `pattern` is a text
    kDigits,   // characters of \p{N}, one by one
    kNumbers,  // runs of \p{N}
  };
  Kind kind = Kind::kRegex;
  std::string pattern;
  bool with_previous = false;  // kLiteral: a match ends the piece before it (Hugging Face's MergedWithPrevious)
};

// Hugging Face's Metaspace: spaces become `replacement`, one more may come first, and pieces begin with it.
struct Metaspace {
  enum class Prepend { kNever, kFirst /* where the text begins */, kAlways /* behind each added token, too */ };
  std::string replacement;  // empty: no such step
  Prepend prepend = Prepend::kNever;
  bool split = false;
};

// Ids to text.
struct TokenDecoder {
  bool byte_level = false;  // tokens are written in GPT-2's alphabet
  // The rest is for tokens that are not.
  std::vector<std::pair<std::string, std::string>> replace;  // in every token, one after the other
  bool byte_fallback = false;  // <0xE2> is a byte; a run of them that is no UTF-8 gives U+FFFD for each
  std::string strip;           // the character that is taken away where the text begins
  size_t strip_most = 0;       // and how often at most
};

struct TokenizerParts {
  std::string path;                                     // the file that names the parts, for messages
  std::unordered_map<std::string, int32_t> vocabulary;  // ids in [0, kMaxTokenId], each once
  std::vector<AddedToken> added;

  std::vector<NormalizerStep> normalizer;
  Metaspace metaspace;            // before the rules
  std::vector<SplitRule> splits;  // each applied to the pieces of the one before
  bool byte_level = false;        // pieces are bytes written in GPT-2's alphabet; else characters

  // Merging by rank; with `pieces`, by the score of what comes out. SentencePiece then looks for normalised added
  // tokens as they are, without what the normalizer prepends to a text.
  std::vector<MergeRule> merges;
  bool ignore_merges = false;  // a piece that is a token is that token
  std::vector<SentencePiece> pieces;
  UnknownRule unknown;

  TokenDecoder decoder;
  // What Hugging Face puts around a text that is encoded with special tokens.
  std::vector<int32_t> before_text, after_text;
};

}  // namespace purekv
