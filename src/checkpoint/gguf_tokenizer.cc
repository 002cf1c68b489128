#include "checkpoint/gguf_tokenizer.h"

#include <vector>

#include "base/error.h"
#include "base/utf8.h"
#include "checkpoint/pretokenizer.h"
#include "checkpoint/sentencepiece_model.h"
#include "checkpoint/tokenizer_files.h"
#include "checkpoint/tokenizer_json.h"

namespace purekv {
namespace {

constexpr size_t kMaxTemplate = size_t{1} << 20;

std::string Key(const char* name) {
  return StrCat("tokenizer.ggml.", name);
}

// "FILE: tokenizer.ggml.NAME", for messages.
std::string Where(const GgufMetadata& metadata, const char* name) {
  return StrCat(metadata.path(), ": ", Key(name));
}

// A text that must be UTF-8.
std::optional<std::string> FindText(const GgufMetadata& metadata, const std::string& key, size_t at_most) {
  const auto text = metadata.FindString(key);
  if (!text) return std::nullopt;
  if (text->size() > at_most) Fail(metadata.path(), ": ", key, " has ", text->size(), " bytes; at most ", at_most);
  if (FirstInvalidUtf8(*text) != text->npos) Fail(metadata.path(), ": ", key, " is not valid UTF-8");
  return std::string(*text);
}

// The tokens with their types and, where they must have them, scores.
std::vector<PieceEntry> ReadEntries(const GgufMetadata& metadata, bool scored) {
  const auto tokens = metadata.FindStrings(Key("tokens"));
  if (!tokens || tokens->empty()) Fail(Where(metadata, "tokens"), " is missing or empty");
  if (tokens->size() > static_cast<size_t>(kMaxTokenId))
    Fail(Where(metadata, "tokens"), " has ", tokens->size(), " entries; at most ", kMaxTokenId);
  const auto check_size = [&](const char* name, size_t size) {
    if (size != tokens->size())
      Fail(Where(metadata, name), " has ", size, " entries; expected ", tokens->size(), ", one for each token");
  };
  std::vector<PieceEntry> entries(tokens->size());
  for (size_t i = 0; i < entries.size(); ++i) entries[i].text = (*tokens)[i];
  if (const auto types = metadata.FindInts(Key("token_type"))) {
    check_size("token_type", types->size());
    const std::string where = Where(metadata, "token_type");
    for (size_t i = 0; i < entries.size(); ++i) entries[i].type = ToPieceType((*types)[i], where, i);
  }
  if (!scored) return entries;
  const auto scores = metadata.FindFloats(Key("scores"));
  if (!scores) Fail(Where(metadata, "scores"), " is missing");
  check_size("scores", scores->size());
  for (size_t i = 0; i < entries.size(); ++i) entries[i].score = (*scores)[i];
  return entries;
}

// How the pre-tokenizer of this name cuts.
void UsePretokenizer(const GgufMetadata& metadata, TokenizerParts* parts) {
  using Kind = SplitRule::Kind;
  const std::string pre = FindText(metadata, Key("pre"), 256).value_or("default");
  if (pre == "qwen2") {
    parts->normalizer = {{NormalizerStep::Kind::kNfc, "", ""}};
    parts->splits = {{Kind::kRegex, kQwenPattern, false}};
  } else if (pre == "smollm") {
    parts->splits = {{Kind::kDigits, "", false}, {Kind::kRegex, kGpt2Pattern, false}};
  } else if (pre == "llama-bpe" || pre == "llama-v3" || pre == "llama3") {  // three names of one rule
    parts->splits = {{Kind::kRegex, kLlama3Pattern, false}};
    parts->ignore_merges = true;
  } else if (pre == "gpt-2" || pre == "default") {
    parts->splits = {{Kind::kRegex, kGpt2Pattern, false}};
  } else {
    Fail(Where(metadata, "pre"), " \"", pre,
         "\" is not supported; supported are qwen2, smollm, llama-bpe, gpt-2 and default");
  }
}

void UseByteLevel(const GgufMetadata& metadata, TokenizerParts* parts) {
  const std::vector<PieceEntry> entries = ReadEntries(metadata, false);
  const std::string where = Where(metadata, "tokens");
  parts->vocabulary.reserve(entries.size());
  for (size_t i = 0; i < entries.size(); ++i) {
    const PieceEntry& entry = entries[i];
    const auto id = static_cast<int32_t>(i);
    PutToken(entry.text, id, where, parts);
    if (entry.type != PieceType::kControl && entry.type != PieceType::kUserDefined) continue;
    if (entry.text.empty() || entry.text.size() > kMaxAddedToken)
      Fail(where, ": token ", i, " has ", entry.text.size(), " bytes; expected 1 to ", kMaxAddedToken);
    parts->added.push_back({id, entry.text, false, false, false, entry.type == PieceType::kControl});
  }
  const auto merges = metadata.FindStrings(Key("merges"));
  if (!merges) Fail(Where(metadata, "merges"), " is missing");
  parts->merges.reserve(merges->size());
  std::string left, right;
  const std::string where_merges = Where(metadata, "merges");
  for (size_t i = 0; i < merges->size(); ++i) {
    if (!SplitMerge(std::string((*merges)[i]), &left, &right))
      Fail(where_merges, ": merge ", i, " is not of the form \"a b\"");
    AddMerge(left, right, where_merges, parts);
  }
  UsePretokenizer(metadata, parts);
  parts->byte_level = parts->decoder.byte_level = true;
}

std::optional<int32_t> FindId(const GgufMetadata& metadata, const char* name, const TokenizerParts& parts) {
  const auto id = metadata.FindUnsigned(Key(name));
  // Some writers say "none" with the highest number.
  if (!id || *id == UINT32_MAX) return std::nullopt;
  if (*id >= parts.vocabulary.size())
    Fail(Where(metadata, name), " is ", *id, "; the vocabulary has ", parts.vocabulary.size(), " tokens");
  return static_cast<int32_t>(*id);
}

}  // namespace

GgufTokenizer ReadGgufTokenizer(const GgufMetadata& metadata) {
  const auto model = FindText(metadata, Key("model"), 256);
  if (!model) Fail(Where(metadata, "model"), " is missing: the file has no tokenizer");
  const bool sentencepiece = *model == "llama";
  if (!sentencepiece && *model != "gpt2")
    Fail(Where(metadata, "model"), " \"", *model, "\" is not supported; supported are gpt2 and llama");

  TokenizerParts parts;
  parts.path = metadata.path();
  if (sentencepiece) {
    if (metadata.FindBool(Key("remove_extra_whitespaces")).value_or(false))
      Fail(Where(metadata, "remove_extra_whitespaces"), ": true is not supported; expected false");
    if (metadata.Has(Key("precompiled_charsmap")))
      Fail(Where(metadata, "precompiled_charsmap"), " is not supported; expected none");
    const bool prefix = metadata.FindBool(Key("add_space_prefix")).value_or(true);
    UsePieces(ReadEntries(metadata, true), prefix, Where(metadata, "tokens"), &parts);
  } else {
    UseByteLevel(metadata, &parts);
  }

  GgufTokenizer result;
  const std::pair<const char*, std::optional<int32_t>*> ids[] = {{"bos_token_id", &result.bos},
                                                                 {"eos_token_id", &result.eos},
                                                                 {"eot_token_id", &result.eot},
                                                                 {"unknown_token_id", &result.unknown},
                                                                 {"padding_token_id", &result.padding}};
  for (const auto& [name, id] : ids) *id = FindId(metadata, name, parts);
  if (sentencepiece && !result.unknown && parts.unknown.id >= 0) result.unknown = parts.unknown.id;

  // The defaults of those who write no such key.
  result.add_bos = metadata.FindBool(Key("add_bos_token")).value_or(sentencepiece || parts.ignore_merges);
  result.add_eos = metadata.FindBool(Key("add_eos_token")).value_or(false);
  const auto around = [&](bool add, const std::optional<int32_t>& id, const char* name) -> std::vector<int32_t> {
    if (!add) return {};
    if (!id) Fail(Where(metadata, name), " is missing, and a text needs it");
    return {*id};
  };
  parts.before_text = around(result.add_bos, result.bos, "bos_token_id");
  parts.after_text = around(result.add_eos, result.eos, "eos_token_id");

  std::vector<const std::string*> text_of(parts.vocabulary.size());
  for (const auto& [token, id] : parts.vocabulary) text_of[static_cast<size_t>(id)] = &token;
  const std::pair<const char*, const std::optional<int32_t>*> names[] = {{"bos_token", &result.bos},
                                                                         {"eos_token", &result.eos},
                                                                         {"unk_token", &result.unknown},
                                                                         {"pad_token", &result.padding}};
  for (const auto& [name, id] : names) {
    if (*id) result.special_tokens.emplace_back(name, jinja::Value::String(*text_of[static_cast<size_t>(**id)]));
  }
  result.chat_template = FindText(metadata, "tokenizer.chat_template", kMaxTemplate);
  result.tokenizer = Tokenizer::FromParts(std::move(parts));
  return result;
}

}  // namespace purekv
