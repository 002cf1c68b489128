

#include <array>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_set>

#include "base/error.h"
#include "base/file.h"
#include "base/utf8.h"
#include "checkpoint/json.h"
#include "checkpoint/pretokenizer.h"
#include "checkpoint/sentencepiece_model.h"
#include "checkpoint/tokenizer_json.h"

namespace purekv {
namespace {

constexpr int64_t kMaxFile = int64_t{64} << 20;

// The form of merges.txt: a line per merge; a first line "#version..." is a comment.
void ReadMergesText(const std::string& path, TokenizerParts* parts) {
  const std::string text = ReadFile(path, kMaxFile);
  if (const size_t bad = FirstInvalidUtf8(text); bad != text.npos) Fail(path, ": not valid UTF-8 at byte ", bad);
  std::string left, right;
  size_t number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string line = text.substr(begin, end - begin);
    begin = end + 1;
    ++number;
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
    if (line.empty() || (number == 1 && line.starts_with("#version"))) continue;
    if (!SplitMerge(line, &left, &right)) Fail(path, ": line ", number, " is not of the form \"a b\"");
    AddMerge(left, right, StrCat(path, ": line ", number), parts);
  }
}

AddedToken ReadAddedToken(const JsonFields& fields, int32_t id) {
  AddedToken token;
  token.id = id;
  token.content = fields.String("content");
  token.lstrip = fields.Bool("lstrip", false);
  token.rstrip = fields.Bool("rstrip", false);
  token.normalized = fields.Bool("normalized", true);
  token.special = fields.Bool("special", false);
  if (fields.Bool("single_word", false))
    Fail(fields.where(), ": \"single_word\": true is not supported; expected false");
  if (token.content.empty() || token.content.size() > kMaxAddedToken) {
    Fail(fields.where(), ": \"content\" has ", token.content.size(), " bytes; expected 1 to ", kMaxAddedToken);
  }
  return token;
}

// Adds a token, or changes the flags of one that is there already, as transformers does with tokenizer_config.json.
void PutAddedToken(AddedToken token, std::unordered_map<std::string, size_t>* places, TokenizerParts* parts) {
  const auto [place, inserted] = places->emplace(token.content, parts->added.size());
  if (inserted) {
    parts->added.push_back(std::move(token));
  } else {
    parts->added[place->second] = std::move(token);
  }
}

void ReadAddedTokens(const Json& list, const std::string& where, std::unordered_map<std::string, size_t>* places,
                     TokenizerParts* parts) {
  if (!list.is_array()) Fail(where, ": is not a list");
  for (size_t i = 0; i < list.size(); ++i) {
    const JsonFields fields(list[i], StrCat(where, "[", i, "]"));
    AddedToken token = ReadAddedToken(fields, static_cast<int32_t>(fields.Int("id", 0, kMaxTokenId)));
    if (places->contains(token.content)) Fail(fields.where(), ": content \"", token.content, "\" is there twice");
    PutAddedToken(std::move(token), places, parts);
  }
}

// tokenizer_config.json's {"151643": {"content": ...}}.
void ReadAddedTokensDecoder(const Json& object, const std::string& where,
                            std::unordered_map<std::string, size_t>* places, TokenizerParts* parts) {
  for (const auto& [key, value] : JsonFields(object, where).raw().items()) {
    const bool digits = !key.empty() && key.size() <= 8 && key.find_first_not_of("0123456789") == key.npos;
    if (!digits || std::stoll(key) > kMaxTokenId)
      Fail(where, ": \"", key.substr(0, 200), "\" is no id from 0 to ", kMaxTokenId);
    PutAddedToken(ReadAddedToken(JsonFields(value, StrCat(where, ": ", key)), std::stoi(key)), places, parts);
  }
}

// added_tokens.json's {"<|im_end|>": 151645}, the form before tokenizer_config.json had the list. Which of them are
// special it does not say; transformers takes the special token fields of tokenizer_config.json.
void ReadAddedTokensMap(const std::string& path, const Json* config, std::unordered_map<std::string, size_t>* places,
                        TokenizerParts* parts) {
  std::unordered_set<std::string> special;
  for (const char* field : {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
                            "additional_special_tokens"}) {
    const Json* value = config != nullptr && config->contains(field) ? &config->at(field) : nullptr;
    if (value == nullptr) continue;
    for (const Json& item : value->is_array() ? *value : Json::array({*value})) {
      if (item.is_string()) special.insert(item.get<std::string>());
      if (item.is_object() && item.contains("content") && item["content"].is_string()) {
        special.insert(item["content"].get<std::string>());
      }
    }
  }
  const Json map = ReadJson(path, kMaxFile);
  const JsonFields fields(map, path);
  for (const auto& [content, value] : map.items()) {
    AddedToken token{static_cast<int32_t>(fields.Int(content, 0, kMaxTokenId)), content, false, false, false, false};
    token.special = special.contains(content);
    token.normalized = !token.special;
    if (content.empty() || content.size() > kMaxAddedToken)
      Fail(path, ": a token of ", content.size(), " bytes; expected 1 to ", kMaxAddedToken);
    PutAddedToken(std::move(token), places, parts);
  }
}

// Whether tokenizer_config.json names one of the classes that SentencePiece's models have.
struct ClassTokens {
  const char* name;
  const char *bos, *eos;
};
const ClassTokens* SentencePieceClass(const JsonFields& config) {
  static constexpr ClassTokens kClasses[] = {{"LlamaTokenizer", "<s>", "</s>"}, {"GemmaTokenizer", "<bos>", "<eos>"}};
  std::string name = config.String("tokenizer_class", "");
  if (name.ends_with("Fast")) name.resize(name.size() - 4);
  for (const ClassTokens& one : kClasses) {
    if (name == one.name) return &one;
  }
  return nullptr;
}

// What tokenizer_config.json can change about encoding.
void CheckConfig(const JsonFields& fields) {
  const auto refuse = [&](const char* field) {
    if (fields.Bool(field, false)) Fail(fields.where(), ": \"", field, "\": true is not supported; expected false");
  };
  refuse("split_special_tokens");
  // To SentencePiece's classes it is the default, and what their files do anyway.
  if (SentencePieceClass(fields) == nullptr) refuse("add_prefix_space");
}

// bos_token or eos_token: a string, or an object with its content.
std::string TokenText(const JsonFields& config, const char* field, const char* fallback) {
  if (config.Has(field) && config.raw().at(field).is_object()) return config.Object(field).String("content");
  return config.String(field, fallback);
}

// transformers' classes put their own ids around a text, whatever tokenizer.json says.
void ApplyClass(const JsonFields& config, TokenizerParts* parts) {
  const ClassTokens* tokens = SentencePieceClass(config);
  if (tokens == nullptr) return;
  const auto one = [&](bool wanted, const char* field, const char* fallback) -> std::vector<int32_t> {
    if (!wanted) return {};
    const std::string text = TokenText(config, field, fallback);
    for (const AddedToken& token : parts->added) {
      if (token.content == text) return {token.id};
    }
    if (const auto found = parts->vocabulary.find(text); found != parts->vocabulary.end()) return {found->second};
    Fail(config.where(), ": \"", field, "\" \"", text.substr(0, 200), "\" is no token");
  };
  parts->before_text = one(config.Bool("add_bos_token", true), "bos_token", tokens->bos);
  parts->after_text = one(config.Bool("add_eos_token", false), "eos_token", tokens->eos);
}

// Every id stands for one string and every string for one id, over the vocabulary and the added tokens; ids around a
// text are among them.
void CheckIds(const TokenizerParts& parts) {
  std::unordered_map<int32_t, const std::string*> content_of;
  content_of.reserve(parts.vocabulary.size() + parts.added.size());
  for (const auto& [token, id] : parts.vocabulary) content_of.emplace(id, &token);
  for (const AddedToken& token : parts.added) {
    const auto in_vocabulary = parts.vocabulary.find(token.content);
    if (in_vocabulary != parts.vocabulary.end() && in_vocabulary->second != token.id) {
      Fail(parts.path, ": added token \"", token.content, "\" has id ", token.id, ", but ", in_vocabulary->second,
           " in the vocabulary");
    }
    const auto [position, inserted] = content_of.emplace(token.id, &token.content);
    if (!inserted && *position->second != token.content) {
      Fail(parts.path, ": added token \"", token.content, "\" has id ", token.id, ", which is \"",
           position->second->substr(0, 200), "\"");
    }
  }
  for (const auto* ids : {&parts.before_text, &parts.after_text}) {
    for (const int32_t id : *ids) {
      if (!content_of.contains(id)) Fail(parts.path, ": post_processor: id ", id, " is no token's");
    }
  }
}

}  // namespace

bool HasTokenizerFiles(const std::string& dir) {
  const auto there = [&](const char* name) { return FileExists(JoinPath(dir, name)); };
  return there("tokenizer.json") || there("vocab.json") || there("tokenizer.model");
}

TokenizerParts ReadTokenizerFiles(const std::string& dir) {
  TokenizerParts parts;
  std::unordered_map<std::string, size_t> places;  // content -> index in parts.added
  const std::string config_path = JoinPath(dir, "tokenizer_config.json");
  std::optional<Json> config;
  if (FileExists(config_path)) {
    config = ReadJson(config_path);
    CheckConfig(JsonFields(*config, config_path));
  }
  const bool has_decoder =
      config && config->contains("added_tokens_decoder") && !config->at("added_tokens_decoder").is_null();

  const std::string path = JoinPath(dir, "tokenizer.json");
  const std::string vocab = JoinPath(dir, "vocab.json"), merges = JoinPath(dir, "merges.txt");
  if (FileExists(path)) {
    parts.path = path;
    const Json json = ReadJson(path, kMaxFile);
    ReadTokenizerComponents(json, path, &parts);
    if (JsonFields(json, path).Has("added_tokens"))
      ReadAddedTokens(json["added_tokens"], path + ": added_tokens", &places, &parts);
  } else if (FileExists(vocab) && FileExists(merges)) {
    parts.path = vocab;
    if (config) {
      const std::string name = JsonFields(*config, config_path).String("tokenizer_class", "Qwen2Tokenizer");
      if (name != "Qwen2Tokenizer" && name != "Qwen2TokenizerFast") {
        Fail(config_path, ": \"tokenizer_class\": \"", name,
             "\" is not supported without tokenizer.json; expected Qwen2Tokenizer");
      }
    }
    ReadVocabulary(ReadJson(vocab, kMaxFile), vocab, &parts);
    ReadMergesText(merges, &parts);
    parts.normalizer = {{NormalizerStep::Kind::kNfc, "", ""}};
    parts.splits.push_back({SplitRule::Kind::kRegex, kQwenPattern, false});
    parts.byte_level = parts.decoder.byte_level = true;
    const std::string added = JoinPath(dir, "added_tokens.json");
    if (!has_decoder && FileExists(added)) ReadAddedTokensMap(added, config ? &*config : nullptr, &places, &parts);
  } else if (const std::string model = JoinPath(dir, "tokenizer.model"); FileExists(model)) {
    parts = ReadSentencePieceModel(model, config && !JsonFields(*config, config_path).Bool("legacy", true));
    for (size_t i = 0; i < parts.added.size(); ++i) places.emplace(parts.added[i].content, i);
    const std::string added = JoinPath(dir, "added_tokens.json");
    if (!has_decoder && FileExists(added)) ReadAddedTokensMap(added, config ? &*config : nullptr, &places, &parts);
  } else {
    Fail(dir, ": no tokenizer: neither tokenizer.json nor vocab.json with merges.txt nor tokenizer.model is there");
  }
  if (has_decoder) {
    ReadAddedTokensDecoder(config->at("added_tokens_decoder"), config_path + ": added_tokens_decoder", &places, &parts);
  }
  CheckIds(parts);
  if (config) ApplyClass(JsonFields(*config, config_path), &parts);
  return parts;
}

}  // namespace purekv
