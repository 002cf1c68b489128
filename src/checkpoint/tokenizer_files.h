// The tokenizer files of a published directory, read and checked.
#pragma once

#include <string>

#include "checkpoint/tokenizer_parts.h"

namespace purekv {

// `dir`/tokenizer.json, else vocab.json + merges.txt with Qwen's rules, else tokenizer.model; each with
// tokenizer_config.json's added tokens. Throws Error naming file and field; a part that is not implemented is refused
// by name.
TokenizerParts ReadTokenizerFiles(const std::string& dir);
bool HasTokenizerFiles(const std::string& dir);

}  // namespace purekv
