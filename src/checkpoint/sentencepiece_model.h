// SentencePiece's vocabularies: tokenizer.model files, and the same lists inside GGUF files.
#pragma once

#include <string>
#include <vector>

#include "checkpoint/tokenizer_parts.h"

namespace purekv {

// Types of tokens, as sentencepiece_model.proto and GGUF number them.
enum class PieceType { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };
// Throws Error, "WHERE: token ID: type N ...".
PieceType ToPieceType(int64_t number, const std::string& where, size_t id);

// A token; its id is its place in the list.
struct PieceEntry {
  std::string text;
  float score = 0;
  PieceType type = PieceType::kNormal;
};

// Puts `text`, a token that must be UTF-8, into the vocabulary. Throws Error when it is there twice.
void PutToken(const std::string& text, int32_t id, const std::string& where, TokenizerParts* parts);

// Vocabulary, pieces, unknown characters and added tokens (control, unknown and user-defined ones) of a list, and how
// Hugging Face's converter runs them: spaces become U+2581, with `space_prefix` one comes before each text between
// added tokens and is left out again when decoding. Throws Error naming `where` and the token.
void UsePieces(const std::vector<PieceEntry>& entries, bool space_prefix, const std::string& where,
               TokenizerParts* parts);

// A tokenizer.model of type BPE. `first_only`: the space before a text comes at its very beginning only
// (tokenizer_config.json's "legacy": false). Throws Error; what is not implemented is refused by name.
TokenizerParts ReadSentencePieceModel(const std::string& path, bool first_only);
// Its bytes; `path` is for messages.
TokenizerParts ParseSentencePieceModel(std::string_view bytes, const std::string& path, bool first_only);

}  // namespace purekv
