// Where a model directory keeps its chat template and the special tokens that it may name.
#pragma once

#include <string>
#include <vector>

#include "checkpoint/jinja.h"

namespace purekv {

struct ChatTemplateSource {
  std::string text;
  std::string where;  // the file, for messages
};

// The template that transformers 4.57.1 takes: chat_template.json, chat_template.jinja, processor_config.json, then
// tokenizer_config.json; of a list of named ones "default". Without any: `default_template`, or where that is empty
// DefaultTemplate. Throws Error.
ChatTemplateSource ReadChatTemplate(const std::string& dir, const std::vector<std::string>& added_tokens,
                                    const std::string& default_template);
// What stands for a template that is not there. Tokenizers with <|im_end|> among the added tokens (or with none, which
// are not known): ChatML with Qwen's default system message and vision markers. Others, of base models: the texts alone
// behind bos_token, a system message apart by a blank line, answers closed by eos_token.
ChatTemplateSource DefaultTemplate(const std::string& where, const std::vector<std::string>& added_tokens);

// bos_token, eos_token, ... as transformers' special_tokens_map has them: of tokenizer_config.json, of
// special_tokens_map.json where the former lists no added tokens, else the tokenizer class's own. Those that are null
// or empty are left out. Throws Error.
jinja::Variables ReadSpecialTokens(const std::string& dir);

}  // namespace purekv
