#include "checkpoint/chat_template.h"

#include <algorithm>
#include <ctime>

#include "base/error.h"
#include "base/utf8.h"
#include "checkpoint/chat_template_files.h"

namespace purekv {
namespace {

using jinja::Value;

ChatMessage Text(const char* role, const std::string& text) {
  return {role, {{ContentPart::Kind::kText, text}}};
}

std::vector<ChatMessage> Begin(const std::optional<std::string>& system) {
  if (!system) return {};
  return {Text("system", *system)};
}

void CheckUserTexts(const std::optional<std::string>& system, const std::vector<ContentPart>& user) {
  if (system) CheckUserText(*system, "system message");
  for (const ContentPart& part : user) CheckUserText(part.text, "prompt");
}

// For messages: what stands there, not more of it than a line can bear.
std::string Quote(std::string_view text) {
  constexpr size_t kMost = 40;
  return StrCat("\"", text.substr(0, kMost), text.size() > kMost ? "...\"" : "\"");
}

std::string_view WithoutSpace(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\n\r");
  return begin == text.npos ? "" : text.substr(begin);
}

}  // namespace

void CheckUserText(std::string_view text, const char* field) {
  if (const size_t bad = FirstInvalidUtf8(text); bad != text.npos) {
    FailUsage(field, ": byte ", bad, " is not valid UTF-8");
  }
}

ChatTemplate ChatTemplate::Load(const std::string& dir, const std::vector<std::string>& added_tokens,
                                const std::string& default_template) {
  ChatTemplateSource source = ReadChatTemplate(dir, added_tokens, default_template);
  return FromText(std::move(source.text), source.where + ": chat template", ReadSpecialTokens(dir), added_tokens);
}

ChatTemplate ChatTemplate::FromText(std::string text, std::string where, jinja::Variables special_tokens,
                                    const std::vector<std::string>& added_tokens) {
  ChatTemplate result;
  result.template_ = jinja::Template::Parse(text, where);
  result.source_ = std::move(text);
  result.special_tokens_ = std::move(special_tokens);
  // Templates of vision-language models may walk over parts only, and over the characters of a plain text in vain.
  const std::string probe = result.Unused({});
  if (!result.Shows(probe)) {
    result.only_parts_ = true;
    result.only_parts_ = result.Shows(probe);
  }
  try {
    const std::string after = result.AfterAnswer({}, {{ContentPart::Kind::kText, "1"}});
    const std::string_view closing = WithoutSpace(after);
    result.behind_answer_ = Quote(closing);
    result.end_of_turn_ = "";
    for (const std::string& token : added_tokens) {
      if (token.size() > result.end_of_turn_->size() && closing.starts_with(token)) result.end_of_turn_ = token;
    }
  } catch (const Error&) {  // NextTurn says why
  }
  return result;
}

bool ChatTemplate::Shows(const std::string& text) const {
  try {
    return Render({Text("user", text)}, true).find(text) != std::string::npos;
  } catch (const Error&) {  // FirstTurn says why
    return false;
  }
}

bool ChatTemplate::KeepsOrder() const {
  const ContentPart text{ContentPart::Kind::kText, Unused({})}, image{ContentPart::Kind::kImage, ""};
  try {
    return Render({{"user", {image, text}}}, true) != Render({{"user", {text, image}}}, true);
  } catch (const Error&) {  // FirstTurn says why
    return true;
  }
}

// A text that occurs neither in the template nor in `messages`, and that a template will not change: digits have no
// case and no space around them.
std::string ChatTemplate::Unused(const std::vector<ChatMessage>& messages) const {
  for (int64_t number = 7190462835;; number += 1234567) {
    std::string digits = std::to_string(number);
    bool used = source_.find(digits) != source_.npos;
    for (const ChatMessage& message : messages) {
      for (const ContentPart& part : message.content) used = used || part.text.find(digits) != part.text.npos;
    }
    if (!used) return digits;
  }
}

jinja::Value ChatTemplate::ToValue(const ChatMessage& message) const {
  const bool text_only = std::all_of(message.content.begin(), message.content.end(),
                                     [](const ContentPart& part) { return part.kind == ContentPart::Kind::kText; });
  Value content;
  if (text_only && !only_parts_) {
    std::string text;
    for (const ContentPart& part : message.content) text += part.text;
    content = Value::String(std::move(text));
  } else {
    jinja::Values parts;
    for (const ContentPart& part : message.content) {
      if (part.kind == ContentPart::Kind::kText) {
        parts.push_back(jinja::MakeDict({{"type", Value::String("text")}, {"text", Value::String(part.text)}}));
      } else {
        const bool image = part.kind == ContentPart::Kind::kImage;
        parts.push_back(jinja::MakeDict({{"type", Value::String(image ? "image" : "video")}}));
      }
    }
    content = Value::List(std::move(parts));
  }
  return jinja::MakeDict({{"role", Value::String(message.role)}, {"content", std::move(content)}});
}

std::string ChatTemplate::Render(const std::vector<ChatMessage>& messages, bool add_generation_prompt,
                                 const jinja::Variables& more) const {
  return Render(messages, add_generation_prompt, more, std::time(nullptr));
}

std::string ChatTemplate::Render(const std::vector<ChatMessage>& messages, bool add_generation_prompt,
                                 const jinja::Variables& more, std::time_t now) const {
  jinja::Values values;
  for (const ChatMessage& message : messages) values.push_back(ToValue(message));
  return Render(Value::List(std::move(values)), add_generation_prompt, more, now);
}

std::string ChatTemplate::Render(const Value& messages, bool add_generation_prompt, const jinja::Variables& more,
                                 std::time_t now) const {
  jinja::Variables variables = more;  // the first of a name counts
  variables.insert(variables.end(), special_tokens_.begin(), special_tokens_.end());
  variables.emplace_back("messages", messages);
  variables.emplace_back("tools", Value::None());
  variables.emplace_back("documents", Value::None());
  variables.emplace_back("add_generation_prompt", Value::Bool(add_generation_prompt));
  return template_.Render(variables, now);
}

std::string ChatTemplate::FirstTurn(const std::optional<std::string>& system,
                                    const std::vector<ContentPart>& user) const {
  return FirstTurn(system, user, std::time(nullptr));
}

std::string ChatTemplate::FirstTurn(const std::optional<std::string>& system, const std::vector<ContentPart>& user,
                                    std::time_t now) const {
  CheckUserTexts(system, user);
  std::vector<ChatMessage> messages = Begin(system);
  messages.push_back({"user", user});
  return Render(messages, true, {}, now);
}

std::string ChatTemplate::AfterAnswer(const std::optional<std::string>& system,
                                      const std::vector<ContentPart>& user) const {
  std::vector<ChatMessage> messages = Begin(system);
  messages.push_back(Text("user", "1"));
  messages.push_back(Text("assistant", ""));
  messages.push_back({"user", user});
  const std::string answer = Unused(messages);
  messages[messages.size() - 2] = Text("assistant", answer);
  const std::string text = Render(messages, true);
  const size_t at = text.find(answer);
  if (at == text.npos || text.find(answer, at + 1) != text.npos) {
    Fail(where(), ": writes an earlier answer ", at == text.npos ? "not at all, or changed" : "more than once",
         "; a later turn needs it exactly once, as it was given");
  }
  return text.substr(at + answer.size());
}

std::string ChatTemplate::NextTurn(const std::optional<std::string>& system,
                                   const std::vector<ContentPart>& user) const {
  CheckUserTexts(system, user);
  const std::string after = AfterAnswer(system, user);
  if (!end_of_turn_) return after;
  const std::string_view closing = WithoutSpace(after);
  if (!closing.starts_with(*end_of_turn_)) {
    Fail(where(), ": closes an answer with ", Quote(closing), " here, and with ", *end_of_turn_, " elsewhere");
  }
  return std::string(closing.substr(end_of_turn_->size()));
}

}  // namespace purekv
