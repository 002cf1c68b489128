#include "checkpoint/tokenizer_files.h"

#include <array>
#include <optional>
#include <unordered_set>

#include "base/error.h"
#include "base/file.h"
#include "base/utf8.h"
#include "checkpoint/json.h"
#include "checkpoint/pretokenizer.h"

namespace purekv {
namespace {

constexpr int64_t kMaxId = 10'000'000 - 1;
constexpr int64_t kMaxFile = int64_t{64} << 20;
// Bounds the search for tokens in a text, which looks this far ahead at every byte.
constexpr size_t kMaxAddedToken = 512;
// ByteLevel{use_regex: true}: GPT-2's rule.
constexpr char kGpt2Pattern[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

void ReadVocabulary(const Json& object, const std::string& where, TokenizerFiles* files) {
  const JsonFields fields(object, where);
  std::unordered_set<int32_t> used;
  used.reserve(object.size());
  for (const auto& [token, value] : object.items()) {
    if (!value.is_number_integer() || value.get<double>() < 0 || value.get<double>() > static_cast<double>(kMaxId)) {
      Fail(where, ": id of token \"", token.substr(0, 200), "\" is no integer from 0 to ", kMaxId);
    }
    const auto id = value.get<int32_t>();
    if (!used.insert(id).second)
      Fail(where, ": id ", id, " of token \"", token.substr(0, 200), "\" is another token's, too");
    files->vocabulary.emplace(token, id);
  }
  if (files->vocabulary.empty()) Fail(where, ": no tokens");
}

void AddMerge(const std::string& left, const std::string& right, const std::string& where, TokenizerFiles* files) {
  const auto id_of = [&](const std::string& token) {
    const auto found = files->vocabulary.find(token);
    if (found == files->vocabulary.end()) {
      Fail(where, ": merge ", files->merges.size(), " needs token \"", token.substr(0, 200),
           "\", which is not in the vocabulary");
    }
    return found->second;
  };
  const int32_t left_id = id_of(left), right_id = id_of(right);
  files->merges.push_back({left_id, right_id, id_of(left + right)});
}

// "a b": exactly one space. False: not of this form.
bool SplitMerge(const std::string& line, std::string* left, std::string* right) {
  const size_t space = line.find(' ');
  if (space == 0 || space == line.npos || space + 1 == line.size() || line.find(' ', space + 1) != line.npos)
    return false;
  *left = line.substr(0, space);
  *right = line.substr(space + 1);
  return true;
}

// Both published forms: "a b" and ["a", "b"].
void ReadMerges(const Json& list, const std::string& where, TokenizerFiles* files) {
  if (!list.is_array()) Fail(where, ": is not a list");
  files->merges.reserve(list.size());
  std::string left, right;
  for (const Json& merge : list) {
    if (merge.is_string()) {
      const auto& line = merge.get_ref<const std::string&>();
      if (line.starts_with("#version")) continue;
      if (!SplitMerge(line, &left, &right))
        Fail(where, ": merge ", files->merges.size(), " is not of the form \"a b\"");
      AddMerge(left, right, where, files);
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      AddMerge(merge[0].get<std::string>(), merge[1].get<std::string>(), where, files);
    } else {
      Fail(where, ": merge ", files->merges.size(), " is neither \"a b\" nor [\"a\", \"b\"]");
    }
  }
}

// The form of merges.txt: a line per merge; a first line "#version..." is a comment.
void ReadMergesText(const std::string& path, TokenizerFiles* files) {
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
    AddMerge(left, right, StrCat(path, ": line ", number), files);
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
void PutAddedToken(AddedToken token, std::unordered_map<std::string, size_t>* places, TokenizerFiles* files) {
  const auto [place, inserted] = places->emplace(token.content, files->added.size());
  if (inserted) {
    files->added.push_back(std::move(token));
  } else {
    files->added[place->second] = std::move(token);
  }
}

void ReadAddedTokens(const Json& list, const std::string& where, std::unordered_map<std::string, size_t>* places,
                     TokenizerFiles* files) {
  if (!list.is_array()) Fail(where, ": is not a list");
  for (size_t i = 0; i < list.size(); ++i) {
    const JsonFields fields(list[i], StrCat(where, "[", i, "]"));
    AddedToken token = ReadAddedToken(fields, static_cast<int32_t>(fields.Int("id", 0, kMaxId)));
    if (places->contains(token.content)) Fail(fields.where(), ": content \"", token.content, "\" is there twice");
    PutAddedToken(std::move(token), places, files);
  }
}

// tokenizer_config.json's {"151643": {"content": ...}}.
void ReadAddedTokensDecoder(const Json& object, const std::string& where,
                            std::unordered_map<std::string, size_t>* places, TokenizerFiles* files) {
  for (const auto& [key, value] : JsonFields(object, where).raw().items()) {
    const bool digits = !key.empty() && key.size() <= 8 && key.find_first_not_of("0123456789") == key.npos;
    if (!digits || std::stoll(key) > kMaxId) Fail(where, ": \"", key.substr(0, 200), "\" is no id from 0 to ", kMaxId);
    PutAddedToken(ReadAddedToken(JsonFields(value, StrCat(where, ": ", key)), std::stoi(key)), places, files);
  }
}

// added_tokens.json's {"<|im_end|>": 151645}, the form before tokenizer_config.json had the list. Which of them are
// special it does not say; transformers takes the special token fields of tokenizer_config.json.
void ReadAddedTokensMap(const std::string& path, const Json* config, std::unordered_map<std::string, size_t>* places,
                        TokenizerFiles* files) {
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
    AddedToken token{static_cast<int32_t>(fields.Int(content, 0, kMaxId)), content, false, false, false, false};
    token.special = special.contains(content);
    token.normalized = !token.special;
    if (content.empty() || content.size() > kMaxAddedToken)
      Fail(path, ": a token of ", content.size(), " bytes; expected 1 to ", kMaxAddedToken);
    PutAddedToken(std::move(token), places, files);
  }
}

// Every id stands for one string and every string for one id, over the vocabulary and the added tokens.
void CheckAddedTokens(const TokenizerFiles& files) {
  std::unordered_map<int32_t, const std::string*> content_of;
  content_of.reserve(files.vocabulary.size() + files.added.size());
  for (const auto& [token, id] : files.vocabulary) content_of.emplace(id, &token);
  for (const AddedToken& token : files.added) {
    const auto in_vocabulary = files.vocabulary.find(token.content);
    if (in_vocabulary != files.vocabulary.end() && in_vocabulary->second != token.id) {
      Fail(files.path, ": added token \"", token.content, "\" has id ", token.id, ", but ", in_vocabulary->second,
           " in the vocabulary");
    }
    const auto [position, inserted] = content_of.emplace(token.id, &token.content);
    if (!inserted && *position->second != token.content) {
      Fail(files.path, ": added token \"", token.content, "\" has id ", token.id, ", which is \"",
           position->second->substr(0, 200), "\"");
    }
  }
}

// A component's "type" and its fields; refuses types that are not in `known` (a list for the message).
[[noreturn]] void RefuseComponent(const JsonFields& fields, const std::string& type, const char* known) {
  Fail(fields.where(), ": \"", type.substr(0, 100), "\" is not supported; supported are ", known);
}

void ReadNormalizer(const Json& json, const std::string& where, int depth, TokenizerFiles* files) {
  if (json.is_null()) return;
  const JsonFields fields(json, where);
  const std::string type = fields.String("type");
  if (type == "NFC") {
    files->nfc = true;
  } else if (type == "Sequence" && depth == 0 && fields.Has("normalizers") && json["normalizers"].is_array()) {
    for (const Json& part : json["normalizers"]) ReadNormalizer(part, where, depth + 1, files);
  } else {
    RefuseComponent(fields, type, "NFC, a Sequence of it, or null");
  }
}

void ReadByteLevel(const JsonFields& fields, TokenizerFiles* files) {
  if (fields.Bool("add_prefix_space", true)) {
    Fail(fields.where(), ": ByteLevel with \"add_prefix_space\": true is not supported; expected false");
  }
  if (fields.Bool("use_regex", true)) files->split_patterns.push_back(kGpt2Pattern);
}

void ReadSplit(const JsonFields& fields, TokenizerFiles* files) {
  const JsonFields pattern = fields.Object("pattern");
  if (!pattern.Has("Regex")) Fail(pattern.where(), ": only {\"Regex\": ...} is supported");
  if (const std::string behavior = fields.String("behavior"); behavior != "Isolated") {
    Fail(fields.where(), ": Split with \"behavior\": \"", behavior, "\" is not supported; expected \"Isolated\"");
  }
  if (fields.Bool("invert", false))
    Fail(fields.where(), ": Split with \"invert\": true is not supported; expected false");
  files->split_patterns.push_back(pattern.String("Regex"));
}

void ReadPretokenizer(const Json& json, const std::string& where, TokenizerFiles* files) {
  constexpr char kKnown[] = "ByteLevel, or a Sequence of Split and, last, ByteLevel";
  const JsonFields fields(json, where);
  const std::string type = fields.String("type");
  if (type == "ByteLevel") return ReadByteLevel(fields, files);
  if (type != "Sequence") RefuseComponent(fields, type, kKnown);
  const auto list = json.find("pretokenizers");
  if (list == json.end() || !list->is_array() || list->empty() || list->size() > 16) {
    Fail(where, ": \"pretokenizers\" is not a list of 1 to 16");
  }
  for (size_t i = 0; i < list->size(); ++i) {
    const JsonFields part((*list)[i], StrCat(where, "[", i, "]"));
    const std::string part_type = part.String("type");
    const bool last = i + 1 == list->size();
    if (part_type == "Split" && !last) {
      ReadSplit(part, files);
    } else if (part_type == "ByteLevel" && last) {
      ReadByteLevel(part, files);
    } else {
      RefuseComponent(part, part_type, kKnown);
    }
  }
}

// Post-processor and decoder: ByteLevel neither adds ids nor changes text.
void CheckByteLevel(const Json& json, const std::string& where, const char* list_field, bool may_be_null) {
  const char* known = may_be_null ? "ByteLevel, a Sequence of it, or null" : "ByteLevel, or a Sequence of it";
  if (json.is_null() && may_be_null) return;
  const JsonFields fields(json, where);
  const std::string type = fields.String("type");
  if (type == "ByteLevel") return;
  if (type != "Sequence" || !json.contains(list_field) || !json[list_field].is_array() || json[list_field].empty()) {
    RefuseComponent(fields, type, known);
  }
  for (const Json& part : json[list_field]) {
    const JsonFields part_fields(part, where);
    if (const std::string part_type = part_fields.String("type"); part_type != "ByteLevel") {
      RefuseComponent(part_fields, part_type, known);
    }
  }
}

void ReadModel(const Json& json, const std::string& where, TokenizerFiles* files) {
  const JsonFields fields(json, where);
  if (const std::string type = fields.String("type", "BPE"); type != "BPE") RefuseComponent(fields, type, "BPE");
  for (const char* field : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!fields.String(field, "").empty()) Fail(where, ": \"", field, "\" is not supported; expected \"\" or null");
  }
  if (fields.Number("dropout", 0, 1, 0) != 0) Fail(where, ": \"dropout\" is not supported; expected null");
  files->ignore_merges = fields.Bool("ignore_merges", false);
  // unk_token, fuse_unk and byte_fallback say what to do about characters without a token: there are none (see the
  // tokenizer).
  ReadVocabulary(fields.Object("vocab").raw(), where + ": vocab", files);
  if (!fields.Has("merges")) Fail(where, ": \"merges\" is missing");
  ReadMerges(json["merges"], where + ": merges", files);
}

// What tokenizer_config.json can change about encoding.
void CheckConfig(const JsonFields& fields) {
  for (const char* field : {"split_special_tokens", "add_prefix_space"}) {
    if (fields.Bool(field, false)) Fail(fields.where(), ": \"", field, "\": true is not supported; expected false");
  }
}

}  // namespace

TokenizerFiles ReadTokenizerFiles(const std::string& dir) {
  TokenizerFiles files;
  std::unordered_map<std::string, size_t> places;  // content -> index in files.added
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
    files.path = path;
    const Json json = ReadJson(path, kMaxFile);
    const JsonFields root(json, path);
    const auto part = [&](const char* name) { return json.contains(name) ? json[name] : Json(); };
    ReadModel(root.Object("model").raw(), path + ": model", &files);
    ReadNormalizer(part("normalizer"), path + ": normalizer", 0, &files);
    ReadPretokenizer(root.Object("pre_tokenizer").raw(), path + ": pre_tokenizer", &files);
    CheckByteLevel(part("post_processor"), path + ": post_processor", "processors", true);
    CheckByteLevel(part("decoder"), path + ": decoder", "decoders", false);
    if (root.Has("added_tokens")) ReadAddedTokens(json["added_tokens"], path + ": added_tokens", &places, &files);
  } else if (FileExists(vocab) && FileExists(merges)) {
    files.path = vocab;
    if (config) {
      const std::string name = JsonFields(*config, config_path).String("tokenizer_class", "Qwen2Tokenizer");
      if (name != "Qwen2Tokenizer" && name != "Qwen2TokenizerFast") {
        Fail(config_path, ": \"tokenizer_class\": \"", name,
             "\" is not supported without tokenizer.json; expected Qwen2Tokenizer");
      }
    }
    ReadVocabulary(ReadJson(vocab, kMaxFile), vocab, &files);
    ReadMergesText(merges, &files);
    files.nfc = true;
    files.split_patterns.push_back(kQwenPattern);
    const std::string added = JoinPath(dir, "added_tokens.json");
    if (!has_decoder && FileExists(added)) ReadAddedTokensMap(added, config ? &*config : nullptr, &places, &files);
  } else {
    Fail(dir, ": no tokenizer: neither tokenizer.json nor vocab.json with merges.txt is there");
  }
  if (has_decoder) {
    ReadAddedTokensDecoder(config->at("added_tokens_decoder"), config_path + ": added_tokens_decoder", &places, &files);
  }
  CheckAddedTokens(files);
  return files;
}

}  // namespace purekv
