// tokenizer.json's components: normalizer, pre_tokenizer, model, post_processor and decoder.
#pragma once

#include <string>

#include "checkpoint/json.h"
#include "checkpoint/tokenizer_parts.h"

namespace purekv {

// Reads all of them, but for added_tokens. Throws Error naming file and field; a component that is not implemented is
// refused by name.
void ReadTokenizerComponents(const Json& json, const std::string& path, TokenizerParts* parts);

// A model's vocab: token -> id. Throws Error.
void ReadVocabulary(const Json& object, const std::string& where, TokenizerParts* parts);
// The merge of two tokens of the vocabulary. Throws Error naming `where`.
void AddMerge(const std::string& left, const std::string& right, const std::string& where, TokenizerParts* parts);
// "a b": exactly one space. False: not of this form.
bool SplitMerge(const std::string& line, std::string* left, std::string* right);

}  // namespace purekv
