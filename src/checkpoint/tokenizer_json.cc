#include "checkpoint/tokenizer_json.h"

#include <nlohmann/json.hpp>
#include <unordered_set>

#include "base/error.h"
#include "base/utf8.h"
#include "checkpoint/pretokenizer.h"

namespace purekv {
namespace {

// Replacing may make a text longer, and more so with every step.
constexpr size_t kMaxReplacement = 64;
constexpr size_t kMaxSteps = 16;

// A component and its "type"; refuses types that are not in `known` (a list for the message).
[[noreturn]] void RefuseComponent(const JsonFields& fields, const std::string& type, const char* known) {
  Fail(fields.where(), ": \"", type.substr(0, 100), "\" is not supported; supported are ", known);
}

// The parts of a Sequence, or the one that `json` is.
std::vector<JsonFields> PartsOf(const Json& json, const std::string& where, const char* list_field) {
  const JsonFields fields(json, where);
  if (fields.String("type") != "Sequence") return {fields};
  const auto list = json.find(list_field);
  if (list == json.end() || !list->is_array() || list->empty() || list->size() > kMaxSteps) {
    Fail(where, ": \"", list_field, "\" is not a list of 1 to ", kMaxSteps);
  }
  std::vector<JsonFields> parts;
  for (size_t i = 0; i < list->size(); ++i) parts.emplace_back((*list)[i], StrCat(where, "[", i, "]"));
  return parts;
}

std::string BoundedText(const JsonFields& fields, const char* key, size_t at_least) {
  std::string text = fields.String(key);
  if (text.size() < at_least || text.size() > kMaxReplacement) {
    Fail(fields.where(), ": \"", key, "\" has ", text.size(), " bytes; expected ", at_least, " to ", kMaxReplacement);
  }
  return text;
}

// The text that a Split or Replace looks for; nullopt: it looks for a regex.
std::optional<std::string> LiteralPattern(const JsonFields& fields) {
  const JsonFields pattern = fields.Object("pattern");
  if (pattern.Has("Regex") || !pattern.Has("String")) return std::nullopt;
  return BoundedText(pattern, "String", 1);
}

std::pair<std::string, std::string> ReadReplace(const JsonFields& fields) {
  const auto from = LiteralPattern(fields);
  if (!from) Fail(fields.where(), ": Replace of a regex is not supported; expected {\"String\": ...}");
  return {*from, BoundedText(fields, "content", 0)};
}

void ReadNormalizer(const Json& json, const std::string& where, TokenizerParts* parts) {
  if (json.is_null()) return;
  for (const JsonFields& part : PartsOf(json, where, "normalizers")) {
    const std::string type = part.String("type");
    NormalizerStep step;
    if (type == "NFC") {
      step.kind = NormalizerStep::Kind::kNfc;
    } else if (type == "Prepend") {
      step.kind = NormalizerStep::Kind::kPrepend;
      step.to = BoundedText(part, "prepend", 1);
    } else if (type == "Replace") {
      step.kind = NormalizerStep::Kind::kReplace;
      std::tie(step.from, step.to) = ReadReplace(part);
    } else {
      RefuseComponent(part, type, "NFC, Prepend, Replace of a text, a Sequence of them, or null");
    }
    parts->normalizer.push_back(std::move(step));
  }
}

void ReadSplit(const JsonFields& fields, TokenizerParts* parts) {
  SplitRule rule;
  const std::string behavior = fields.String("behavior");
  const bool literal = LiteralPattern(fields).has_value();
  if (literal) {
    rule.kind = SplitRule::Kind::kLiteral;
    rule.pattern = *LiteralPattern(fields);
    rule.with_previous = behavior == "MergedWithPrevious";
  } else {
    rule.pattern = fields.Object("pattern").String("Regex");
  }
  if (behavior != "Isolated" && !rule.with_previous) {
    Fail(fields.where(), ": Split with \"behavior\": \"", behavior.substr(0, 100),
         "\" is not supported; expected \"Isolated\"", literal ? " or \"MergedWithPrevious\"" : "");
  }
  if (fields.Bool("invert", false))
    Fail(fields.where(), ": Split with \"invert\": true is not supported; expected false");
  parts->splits.push_back(std::move(rule));
}

void ReadMetaspace(const JsonFields& fields, TokenizerParts* parts) {
  Metaspace& metaspace = parts->metaspace;
  metaspace.replacement = BoundedText(fields, "replacement", 1);
  // Older files say add_prefix_space, newer ones prepend_scheme.
  const std::string scheme =
      fields.String("prepend_scheme", fields.Bool("add_prefix_space", true) ? "always" : "never");
  if (scheme == "always") {
    metaspace.prepend = Metaspace::Prepend::kAlways;
  } else if (scheme == "first") {
    metaspace.prepend = Metaspace::Prepend::kFirst;
  } else if (scheme != "never") {
    Fail(fields.where(), ": \"prepend_scheme\": \"", scheme.substr(0, 100), "\" is none of always, first, never");
  }
  metaspace.split = fields.Bool("split", true);
}

void ReadByteLevel(const JsonFields& fields, TokenizerParts* parts) {
  if (fields.Bool("add_prefix_space", true)) {
    Fail(fields.where(), ": ByteLevel with \"add_prefix_space\": true is not supported; expected false");
  }
  if (fields.Bool("use_regex", true)) parts->splits.push_back({SplitRule::Kind::kRegex, kGpt2Pattern, false});
  parts->byte_level = true;
}

void ReadPretokenizer(const Json& json, const std::string& where, TokenizerParts* parts) {
  if (json.is_null()) return;
  const std::vector<JsonFields> list = PartsOf(json, where, "pretokenizers");
  for (size_t i = 0; i < list.size(); ++i) {
    const JsonFields& part = list[i];
    const std::string type = part.String("type");
    if (type == "Split") {
      ReadSplit(part, parts);
    } else if (type == "Digits") {
      parts->splits.push_back(
          {part.Bool("individual_digits", false) ? SplitRule::Kind::kDigits : SplitRule::Kind::kNumbers, "", false});
    } else if (type == "Metaspace" && i == 0) {
      ReadMetaspace(part, parts);
    } else if (type == "ByteLevel" && i + 1 == list.size()) {
      ReadByteLevel(part, parts);
    } else {
      RefuseComponent(part, type,
                      "null, or a Sequence of Split, Digits, Metaspace as the first and ByteLevel as the last");
    }
  }
}

// What is put around one text: "single" of a TemplateProcessing.
void ReadTemplate(const JsonFields& fields, TokenizerParts* parts) {
  const Json& raw = fields.raw();
  const std::string where = fields.where() + ": TemplateProcessing";
  if (!raw.contains("single") || !raw["single"].is_array() || raw["single"].size() > kMaxSteps) {
    Fail(where, ": \"single\" is not a list of at most ", kMaxSteps);
  }
  size_t sequences = 0;
  for (const Json& item : raw["single"]) {
    const JsonFields piece(item, where + ": single");
    if (piece.Has("Sequence")) {
      ++sequences;
      continue;
    }
    const std::string name = piece.Object("SpecialToken").String("id");
    const JsonFields token = fields.Object("special_tokens").Object(name);
    for (const int64_t id : token.Ints("ids", 0, kMaxTokenId)) {
      (sequences == 0 ? parts->before_text : parts->after_text).push_back(static_cast<int32_t>(id));
    }
  }
  if (sequences != 1) Fail(where, ": \"single\" holds ", sequences, " texts; expected 1");
}

void ReadPostProcessor(const Json& json, const std::string& where, TokenizerParts* parts) {
  if (json.is_null()) return;
  bool seen = false;
  for (const JsonFields& part : PartsOf(json, where, "processors")) {
    const std::string type = part.String("type");
    if (type == "TemplateProcessing" && !seen) {
      ReadTemplate(part, parts);
      seen = true;
    } else if (type != "ByteLevel") {  // which neither adds ids nor changes text
      RefuseComponent(part, type, "ByteLevel, one TemplateProcessing, a Sequence of them, or null");
    }
  }
}

void ReadDecoder(const Json& json, const std::string& where, TokenizerParts* parts) {
  constexpr char kKnown[] = "ByteLevel, or a Sequence of Replace of a text, ByteFallback, Fuse and Strip in this order";
  TokenDecoder& decoder = parts->decoder;
  const std::vector<JsonFields> list = PartsOf(json, where, "decoders");
  int stage = 0;  // of Replace, ByteFallback, Fuse, Strip: the next that may come
  for (const JsonFields& part : list) {
    const std::string type = part.String("type");
    if (type == "ByteLevel" && list.size() == 1) {
      decoder.byte_level = true;
    } else if (type == "Replace" && stage == 0) {
      decoder.replace.push_back(ReadReplace(part));
    } else if (type == "ByteFallback" && stage <= 0) {
      decoder.byte_fallback = true;
      stage = 1;
    } else if (type == "Fuse" && stage <= 1) {
      stage = 2;
    } else if (type == "Strip" && stage == 2) {
      decoder.strip = BoundedText(part, "content", 1);
      if (part.Int("stop", 0, INT32_MAX) != 0) Fail(part.where(), ": Strip with \"stop\" is not supported; expected 0");
      decoder.strip_most = static_cast<size_t>(part.Int("start", 0, INT32_MAX));
      stage = 3;
    } else {
      RefuseComponent(part, type, kKnown);
    }
  }
  if (decoder.byte_level != parts->byte_level) {
    Fail(where, ": ",
         decoder.byte_level ? "ByteLevel, but pre_tokenizer is not" : "pre_tokenizer is ByteLevel, but this is not",
         "; expected both or none");
  }
}

// Both published forms of merges: "a b" and ["a", "b"].
void ReadMerges(const Json& list, const std::string& where, TokenizerParts* parts) {
  if (!list.is_array()) Fail(where, ": is not a list");
  parts->merges.reserve(list.size());
  std::string left, right;
  for (const Json& merge : list) {
    if (merge.is_string()) {
      const auto& line = merge.get_ref<const std::string&>();
      if (line.starts_with("#version")) continue;
      if (!SplitMerge(line, &left, &right))
        Fail(where, ": merge ", parts->merges.size(), " is not of the form \"a b\"");
      AddMerge(left, right, where, parts);
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      AddMerge(merge[0].get<std::string>(), merge[1].get<std::string>(), where, parts);
    } else {
      Fail(where, ": merge ", parts->merges.size(), " is neither \"a b\" nor [\"a\", \"b\"]");
    }
  }
}

void ReadModel(const Json& json, const std::string& where, TokenizerParts* parts) {
  const JsonFields fields(json, where);
  if (const std::string type = fields.String("type", "BPE"); type != "BPE") RefuseComponent(fields, type, "BPE");
  for (const char* field : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!fields.String(field, "").empty()) Fail(where, ": \"", field, "\" is not supported; expected \"\" or null");
  }
  if (fields.Number("dropout", 0, 1, 0) != 0) Fail(where, ": \"dropout\" is not supported; expected null");
  parts->ignore_merges = fields.Bool("ignore_merges", false);
  ReadVocabulary(fields.Object("vocab").raw(), where + ": vocab", parts);
  if (!fields.Has("merges")) Fail(where, ": \"merges\" is missing");
  ReadMerges(json["merges"], where + ": merges", parts);

  UnknownRule& unknown = parts->unknown;
  unknown.byte_fallback = fields.Bool("byte_fallback", false);
  unknown.FindByteTokens(parts->vocabulary);
  unknown.fuse = fields.Bool("fuse_unk", false);
  if (const std::string token = fields.String("unk_token", ""); !token.empty()) {
    const auto found = parts->vocabulary.find(token);
    if (found == parts->vocabulary.end()) {
      Fail(where, ": \"unk_token\" \"", token.substr(0, 200), "\" is not in the vocabulary");
    }
    unknown.id = found->second;
  }
}

}  // namespace

void ReadVocabulary(const Json& object, const std::string& where, TokenizerParts* parts) {
  const JsonFields fields(object, where);
  std::unordered_set<int32_t> used;
  used.reserve(object.size());
  for (const auto& [token, value] : object.items()) {
    const bool is_id = value.is_number_integer() && value.get<double>() >= 0 &&
                       value.get<double>() <= static_cast<double>(kMaxTokenId);
    if (!is_id) Fail(where, ": id of token \"", token.substr(0, 200), "\" is no integer from 0 to ", kMaxTokenId);
    const auto id = value.get<int32_t>();
    if (!used.insert(id).second)
      Fail(where, ": id ", id, " of token \"", token.substr(0, 200), "\" is another token's, too");
    parts->vocabulary.emplace(token, id);
  }
  if (parts->vocabulary.empty()) Fail(where, ": no tokens");
}

void AddMerge(const std::string& left, const std::string& right, const std::string& where, TokenizerParts* parts) {
  const auto id_of = [&](const std::string& token) {
    const auto found = parts->vocabulary.find(token);
    if (found == parts->vocabulary.end()) {
      Fail(where, ": merge ", parts->merges.size(), " needs token \"", token.substr(0, 200),
           "\", which is not in the vocabulary");
    }
    return found->second;
  };
  const int32_t left_id = id_of(left), right_id = id_of(right);
  parts->merges.push_back({left_id, right_id, id_of(left + right)});
}

bool SplitMerge(const std::string& line, std::string* left, std::string* right) {
  const size_t space = line.find(' ');
  if (space == 0 || space == line.npos || space + 1 == line.size() || line.find(' ', space + 1) != line.npos)
    return false;
  *left = line.substr(0, space);
  *right = line.substr(space + 1);
  return true;
}

void ReadTokenizerComponents(const Json& json, const std::string& path, TokenizerParts* parts) {
  const JsonFields root(json, path);
  const auto part = [&](const char* name) { return json.contains(name) ? json[name] : Json(); };
  ReadModel(root.Object("model").raw(), path + ": model", parts);
  ReadNormalizer(part("normalizer"), path + ": normalizer", parts);
  ReadPretokenizer(part("pre_tokenizer"), path + ": pre_tokenizer", parts);
  ReadPostProcessor(part("post_processor"), path + ": post_processor", parts);
  ReadDecoder(part("decoder"), path + ": decoder", parts);
}

}  // namespace purekv
