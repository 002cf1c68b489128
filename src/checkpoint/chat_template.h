// Chat templates. The published ones are Jinja programs; this reads the ChatML family (Qwen) and refuses others by
// name.
#pragma once

#include <string>
#include <vector>

namespace purekv {

// One part of a user message, in order: text, or a media item (rendered as its marker tokens).
struct ContentPart {
  enum class Kind { kText, kImage, kVideo };
  Kind kind = Kind::kText;
  std::string text;
};

// `<|im_start|>role\n...<|im_end|>\n` with vision markers `<|vision_start|><|image_pad|><|vision_end|>`.
class ChatTemplate {
 public:
  // Reads `dir`/chat_template.json, chat_template.jinja, or tokenizer_config.json's chat_template, checks that it is
  // ChatML with these vision markers, and takes its default system message ("" when it has none). Without any file:
  // Qwen's default. Throws Error.
  static ChatTemplate Load(const std::string& dir);

  // The first turn: system message (has_system ? system : the template's own, if any), one user message, generation
  // prompt.
  std::string FirstTurn(bool has_system, const std::string& system, const std::vector<ContentPart>& user) const;
  // A later user turn after an answer that ended with <|im_end|>: "\n" + user message + generation prompt.
  std::string NextTurn(const std::vector<ContentPart>& user) const;
  const std::string& default_system() const { return default_system_; }

 private:
  std::string default_system_;
};

}  // namespace purekv
