#include "checkpoint/chat_template_files.h"

#include <algorithm>
#include <map>
#include <optional>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/json.h"

namespace purekv {
namespace {

constexpr int64_t kMaxFile = int64_t{1} << 20;

// What stands for the template of a Qwen-VL directory that has none.
constexpr char kQwenTemplate[] =
    R"({%- macro parts(content) -%}
{%- if content is string -%}{{ content }}
{%- else -%}
{%- for part in content -%}
{%- if part.type == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>
{%- elif part.type == 'video' -%}<|vision_start|><|video_pad|><|vision_end|>
{%- else -%}{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- if messages[0].role != 'system' -%}{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{%- endif -%}
{%- for message in messages -%}
{{ '<|im_start|>' ~ message.role ~ '\n' ~ parts(message.content) ~ '<|im_end|>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%})";

// What stands for the template of a base model: texts as they are, an answer closed by the end of a text.
constexpr char kPlainTemplate[] =
    R"({%- macro parts(content) -%}
{%- if content is string -%}{{ content }}
{%- else -%}{%- for part in content -%}{{ part.text }}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- if bos_token is defined -%}{{ bos_token }}{%- endif -%}
{%- for message in messages -%}
{{ parts(message.content) }}
{%- if message.role == 'assistant' -%}{{ eos_token }}{%- elif message.role == 'system' -%}{{ '\n\n' }}{%- endif -%}
{%- endfor -%})";

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

std::optional<ChatTemplateSource> FromJsonFile(const std::string& path, bool needed) {
  if (!FileExists(path)) return std::nullopt;
  const Json file = needed ? ReadJson(path, kMaxFile) : ReadJson(path);
  if (!JsonFields(file, path).Has("chat_template")) {
    if (needed) Fail(path, ": \"chat_template\" is missing; expected a string");
    return std::nullopt;
  }
  return ChatTemplateSource{TemplateText(file["chat_template"], path + ": \"chat_template\""), path};
}

// What a tokenizer class has where no file says otherwise.
struct ClassTokens {
  const char* name;
  const char *bos, *eos, *unk, *pad;  // null: none
};
constexpr ClassTokens kClasses[] = {
    {"Qwen2Tokenizer", nullptr, "<|endoftext|>", "<|endoftext|>", "<|endoftext|>"},
    {"GPT2Tokenizer", "<|endoftext|>", "<|endoftext|>", "<|endoftext|>", nullptr},
    {"LlamaTokenizer", "<s>", "</s>", "<unk>", nullptr},
    {"GemmaTokenizer", "<bos>", "<eos>", "<unk>", "<pad>"},
};

// A token as a file writes it: a string, or an object with its content; "" for null.
std::string TokenText(const Json& value, const std::string& where) {
  if (value.is_null()) return "";
  if (value.is_string()) return value.get<std::string>();
  if (value.is_object()) return JsonFields(value, where).String("content");
  Fail(where, ": is neither a string nor an object with \"content\"");
}

constexpr const char* kTokenFields[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                        "pad_token", "cls_token", "mask_token"};

using Tokens = std::map<std::string, std::string>;

void TakeTokens(const Json& file, const std::string& path, Tokens* tokens) {
  for (const char* field : kTokenFields) {
    if (file.contains(field)) (*tokens)[field] = TokenText(file[field], StrCat(path, ": \"", field, "\""));
  }
}

void TakeAdditional(const Json& file, const std::string& path, jinja::Values* additional) {
  const auto list = file.find("additional_special_tokens");
  if (list == file.end() || !list->is_array()) return;
  additional->clear();
  for (const Json& token : *list) {
    additional->push_back(jinja::Value::String(TokenText(token, path + ": \"additional_special_tokens\"")));
  }
}

}  // namespace

ChatTemplateSource DefaultTemplate(const std::string& where, const std::vector<std::string>& added_tokens) {
  const bool chats =
      added_tokens.empty() || std::find(added_tokens.begin(), added_tokens.end(), "<|im_end|>") != added_tokens.end();
  return {chats ? kQwenTemplate : kPlainTemplate, where + ": no chat template is there; the default"};
}

ChatTemplateSource ReadChatTemplate(const std::string& dir, const std::vector<std::string>& added_tokens,
                                    const std::string& default_template) {
  if (auto found = FromJsonFile(JoinPath(dir, "chat_template.json"), true)) return *found;
  const std::string jinja = JoinPath(dir, "chat_template.jinja");
  if (FileExists(jinja)) return {ReadFile(jinja, kMaxFile), jinja};
  for (const char* name : {"processor_config.json", "tokenizer_config.json"}) {
    if (auto found = FromJsonFile(JoinPath(dir, name), false)) return *found;
  }
  if (default_template.empty()) return DefaultTemplate(dir, added_tokens);
  return {default_template, dir + ": no chat template is there; the family's own"};
}

jinja::Variables ReadSpecialTokens(const std::string& dir) {
  const std::string path = JoinPath(dir, "tokenizer_config.json"), map = JoinPath(dir, "special_tokens_map.json");
  const Json config = FileExists(path) ? ReadJson(path) : Json::object();
  const JsonFields fields(config, path);
  std::string name = fields.String("tokenizer_class", "Qwen2Tokenizer");
  if (name.ends_with("Fast")) name.resize(name.size() - 4);
  Tokens tokens;
  for (const ClassTokens& one : kClasses) {
    if (name != one.name) continue;
    const std::pair<const char*, const char*> own[] = {
        {"bos_token", one.bos}, {"eos_token", one.eos}, {"unk_token", one.unk}, {"pad_token", one.pad}};
    for (const auto& [field, token] : own) {
      if (token != nullptr) tokens[field] = token;
    }
  }
  jinja::Values additional;
  TakeTokens(config, path, &tokens);
  TakeAdditional(config, path, &additional);
  if (!fields.Has("added_tokens_decoder") && FileExists(map)) {
    const Json file = ReadJson(map, kMaxFile);
    TakeTokens(JsonFields(file, map).raw(), map, &tokens);
    TakeAdditional(file, map, &additional);
  }
  if (fields.Has("extra_special_tokens") && config["extra_special_tokens"].is_object()) {
    for (const auto& [field, token] : config["extra_special_tokens"].items()) {
      tokens[field] = TokenText(token, path + ": \"extra_special_tokens\"");
    }
  }
  jinja::Variables variables;
  for (const auto& [field, token] : tokens) {
    if (!token.empty()) variables.emplace_back(field, jinja::Value::String(token));
  }
  if (!additional.empty()) {
    variables.emplace_back("additional_special_tokens", jinja::Value::List(std::move(additional)));
  }
  return variables;
}

}  // namespace purekv
