// What the tokenizer files of a published directory say, read and checked.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "checkpoint/added_tokens.h"
#include "checkpoint/bpe.h"

namespace purekv {

struct TokenizerFiles {
  std::string path;                                     // the file that names the parts, for messages
  std::unordered_map<std::string, int32_t> vocabulary;  // ids in [0, 1e7), each once
  std::vector<MergeRule> merges;
  bool ignore_merges = false;
  std::vector<AddedToken> added;
  bool nfc = false;
  std::vector<std::string> split_patterns;  // regexes, each applied to the pieces of the one before
};

// `dir`/tokenizer.json (with tokenizer_config.json's added tokens), else vocab.json + merges.txt with Qwen's rules.
// Throws Error naming file and field; a part that is not implemented is refused by name.
TokenizerFiles ReadTokenizerFiles(const std::string& dir);

}  // namespace purekv
