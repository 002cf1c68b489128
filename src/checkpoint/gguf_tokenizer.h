// The tokenizer inside a GGUF file (tokenizer.ggml.*), and what else the file says about prompts.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "checkpoint/gguf_metadata.h"
#include "checkpoint/jinja.h"
#include "checkpoint/tokenizer.h"

namespace purekv {

struct GgufTokenizer {
  std::unique_ptr<Tokenizer> tokenizer;  // before_text() and after_text() as add_bos and add_eos say
  std::optional<int32_t> bos, eos, eot, unknown, padding;
  bool add_bos = false;  // where no template writes the text
  bool add_eos = false;
  std::optional<std::string> chat_template;  // Jinja; for ChatTemplate::FromText
  jinja::Variables special_tokens;           // bos_token, eos_token, ... for it
};

// tokenizer.ggml.model "gpt2" is byte-level BPE, cut as .pre says: qwen2, smollm, llama-bpe, gpt-2 or default (GPT-2's
// rule); "llama" is SentencePiece by scores. Control tokens (special) and user-defined ones are added tokens. Throws
// Error naming file and key; another model or pre-tokenizer is refused by name.
GgufTokenizer ReadGgufTokenizer(const GgufMetadata& metadata);

}  // namespace purekv
