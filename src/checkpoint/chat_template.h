// How a conversation becomes text: the model directory's own template, run as transformers runs it (jinja.h). Which
// file is taken and what a template is given: docs/chat-templates.md.
#pragma once

#include <ctime>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/jinja.h"

namespace purekv {

// One part of a message, in order: text, or a media item (the template writes its markers).
struct ContentPart {
  enum class Kind { kText, kImage, kVideo };
  Kind kind = Kind::kText;
  std::string text;
};

struct ChatMessage {
  std::string role;  // "system", "user", "assistant"
  std::vector<ContentPart> content;
};

// Throws Error (kUsage), "FIELD: byte N is not valid UTF-8", when a text of the user's is not.
void CheckUserText(std::string_view text, const char* field);

class ChatTemplate {
 public:
  ChatTemplate() = default;  // to be assigned from Load or FromText

  // Reads the template of `dir` (chat_template_files.h: without any, `default_template`, or where that is empty a
  // default of its own). `added_tokens`: the texts of the tokenizer's added tokens, among which end_of_turn() is found.
  // Throws Error naming the file, and the template's line where it has one.
  static ChatTemplate Load(const std::string& dir, const std::vector<std::string>& added_tokens = {},
                           const std::string& default_template = "");

  // A template that stands elsewhere, as in a GGUF file. `where` is for messages; `special_tokens`: the variables
  // bos_token, eos_token, ... Throws Error as Load.
  static ChatTemplate FromText(std::string text, std::string where, jinja::Variables special_tokens,
                               const std::vector<std::string>& added_tokens);

  // The first turn: system message (if any; a template may have its own default), one user message, and what begins the
  // answer. Texts of the user's are data: nothing in them is run. Throws Error; kUsage where a text is not UTF-8,
  // naming "system message" or "prompt".
  std::string FirstTurn(const std::optional<std::string>& system, const std::vector<ContentPart>& user) const;
  // The same at a given time, which a template may tell.
  std::string FirstTurn(const std::optional<std::string>& system, const std::vector<ContentPart>& user,
                        std::time_t now) const;
  // Whether it asks for the time: the same turn may be another text tomorrow.
  bool tells_time() const { return source_.find("strftime_now") != source_.npos; }

  // What stands between an answer that was closed by end_of_turn() and the next answer: what the template puts behind
  // the closing token, the user's message, and what begins an answer. `system` as of the first turn. It is found by
  // rendering [system,] user, assistant, user with a made-up answer that must appear exactly once. Throws as FirstTurn.
  std::string NextTurn(const std::optional<std::string>& system, const std::vector<ContentPart>& user) const;

  // The added token that the template writes right behind an answer. "": it writes none there, and NextTurn begins with
  // what is no space; nullopt: it does not
  // write answers as they are, so that there can be one turn only.
  const std::optional<std::string>& end_of_turn() const { return end_of_turn_; }
  // What stands behind an answer, its beginning in quotation marks: for messages.
  const std::string& behind_answer() const { return behind_answer_; }

  // Any conversation, as apply_chat_template renders it. `more` are variables on top ("enable_thinking", ...), which
  // also replace others.
  std::string Render(const std::vector<ChatMessage>& messages, bool add_generation_prompt,
                     const jinja::Variables& more = {}) const;
  std::string Render(const std::vector<ChatMessage>& messages, bool add_generation_prompt, const jinja::Variables& more,
                     std::time_t now) const;
  // Whether images and texts of a message are written in the order in which they are given. Templates of some
  // vision-language models write all images first.
  bool KeepsOrder() const;
  // Messages as transformers' callers give them. `now` is the time that strftime_now tells.
  std::string Render(const jinja::Value& messages, bool add_generation_prompt, const jinja::Variables& more,
                     std::time_t now) const;

  // "dir/chat_template.json", or what stands for a template that is not there.
  const std::string& where() const { return template_.where(); }

 private:
  // What follows the answer in [system,] user, assistant, user. Throws Error.
  std::string AfterAnswer(const std::optional<std::string>& system, const std::vector<ContentPart>& user) const;
  bool Shows(const std::string& text) const;  // as a user's message
  std::string Unused(const std::vector<ChatMessage>& messages) const;
  jinja::Value ToValue(const ChatMessage& message) const;

  jinja::Template template_;
  std::string source_;
  jinja::Variables special_tokens_;
  bool only_parts_ = false;  // content must be a list of parts: the template passes over plain text
  std::optional<std::string> end_of_turn_;
  std::string behind_answer_;
};

}  // namespace purekv
