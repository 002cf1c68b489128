#include "checkpoint/chat_template.h"

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/json.h"

namespace purekv {
namespace {

constexpr int64_t kMaxFile = int64_t{1} << 20;
constexpr char kSystem[] = "<|im_start|>system";
constexpr char kEnd[] = "<|im_end|>";
constexpr char kQwenSystem[] = "You are a helpful assistant.";

// The text of a chat_template field: a string, or a list of named ones of which "default" counts.
std::string TemplateText(const Json& value, const std::string& where) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_array()) {
    for (const Json& named : value) {
      const JsonFields fields(named, where);
      if (fields.String("name") == "default") return fields.String("template");
    }
  }
  Fail(where, ": is neither a string nor a list of named templates with one called \"default\"");
}

// Where the line break behind a marker ends: a real one, or \n of a string literal. `at` unchanged: there is none.
size_t SkipLineBreak(const std::string& text, size_t at) {
  if (text.compare(at, 1, "\n") == 0) return at + 1;
  if (text.compare(at, 2, "\\n") == 0) return at + 2;
  return at;
}

// The system message that the template adds when the caller gives none.
std::string DefaultSystem(const std::string& text, const std::string& where) {
  size_t at = text.find(kSystem);
  if (at == text.npos) return "";
  at += sizeof(kSystem) - 1;
  const size_t begin = SkipLineBreak(text, at);
  const size_t end = text.find(kEnd, begin);
  if (begin == at || end == text.npos || text.find_first_of("{}'\"\\", begin) < end) {
    Fail(where, ": chat template computes its system message; supported is a fixed one between ", kSystem, " and ",
         kEnd);
  }
  return text.substr(begin, end - begin);
}

std::string Parse(const std::string& text, const std::string& where) {
  for (const char* marker :
       {"<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>"}) {
    if (text.find(marker) == text.npos) {
      Fail(where, ": chat template without ", marker,
           " is not supported; supported is ChatML with Qwen's vision markers");
    }
  }
  return DefaultSystem(text, where);
}

std::string Turn(const char* role, const std::string& text) {
  return std::string("<|im_start|>") + role + "\n" + text + kEnd + "\n";
}

std::string UserTurn(const std::vector<ContentPart>& user) {
  std::string text;
  for (const ContentPart& part : user) {
    switch (part.kind) {
      case ContentPart::Kind::kText:
        text += part.text;
        break;
      case ContentPart::Kind::kImage:
        text += "<|vision_start|><|image_pad|><|vision_end|>";
        break;
      case ContentPart::Kind::kVideo:
        text += "<|vision_start|><|video_pad|><|vision_end|>";
        break;
    }
  }
  return Turn("user", text) + "<|im_start|>assistant\n";
}

}  // namespace

ChatTemplate ChatTemplate::Load(const std::string& dir) {
  ChatTemplate result;
  const std::string json = JoinPath(dir, "chat_template.json"), jinja = JoinPath(dir, "chat_template.jinja");
  const std::string config = JoinPath(dir, "tokenizer_config.json");
  if (FileExists(json)) {
    const Json file = ReadJson(json, kMaxFile);
    if (!JsonFields(file, json).Has("chat_template")) Fail(json, ": \"chat_template\" is missing; expected a string");
    result.default_system_ = Parse(TemplateText(file["chat_template"], json + ": \"chat_template\""), json);
    return result;
  }
  if (FileExists(jinja)) {
    result.default_system_ = Parse(ReadFile(jinja, kMaxFile), jinja);
    return result;
  }
  if (FileExists(config)) {
    const Json file = ReadJson(config);
    if (JsonFields(file, config).Has("chat_template")) {
      result.default_system_ = Parse(TemplateText(file["chat_template"], config + ": \"chat_template\""), config);
      return result;
    }
  }
  result.default_system_ = kQwenSystem;
  return result;
}

std::string ChatTemplate::FirstTurn(bool has_system, const std::string& system,
                                    const std::vector<ContentPart>& user) const {
  const std::string text =
      (has_system || !default_system_.empty()) ? Turn("system", has_system ? system : default_system_) : "";
  return text + UserTurn(user);
}

std::string ChatTemplate::NextTurn(const std::vector<ContentPart>& user) const {
  return "\n" + UserTurn(user);
}

}  // namespace purekv
