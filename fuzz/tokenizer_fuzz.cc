// Chosen by the first byte: any text through small tokenizers, byte-level and SentencePiece's (ids in range, decoding
// gives the text back); any bytes as tokenizer.json, as tokenizer.model or as the metadata of a GGUF file; any split
// regex over any text.
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>

#include "base/utf8.h"
#include "checkpoint/bpe.h"
#include "checkpoint/gguf_header.h"
#include "checkpoint/gguf_tokenizer.h"
#include "checkpoint/json.h"
#include "checkpoint/normalizer.h"
#include "checkpoint/pretokenizer.h"
#include "checkpoint/sentencepiece_model.h"
#include "checkpoint/tokenizer.h"
#include "purekv/error.h"

namespace {

using purekv::Json;
using purekv::Tokenizer;

struct Directory {
  Directory() : path(std::filesystem::temp_directory_path() / ("purekv_fuzz_" + std::to_string(getpid()))) {
    std::filesystem::create_directories(path);
  }
  ~Directory() { std::filesystem::remove_all(path); }
  void Write(const std::string& text) const { std::ofstream(path / "tokenizer.json", std::ios::binary) << text; }
  std::filesystem::path path;
};

// The small tokenizer: a token per byte, a few merges, two added tokens.
Json SmallTokenizer() {
  Json vocabulary = Json::object();
  for (unsigned byte = 0; byte < 256; ++byte) {
    std::string token;
    purekv::AppendUtf8(purekv::ByteCharacter(static_cast<unsigned char>(byte)), &token);
    vocabulary[token] = byte;
  }
  Json merges = Json::array();
  for (const char* merge : {"a b", "ab a", "a a", "aa aa", "Ġ a", "Ã ©"}) {
    const std::string pair = merge;
    const size_t space = pair.find(' ');
    vocabulary[pair.substr(0, space) + pair.substr(space + 1)] = 256 + merges.size();
    merges.push_back(merge);
  }
  const Json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  const Json split = {
      {"type", "Split"}, {"pattern", {{"Regex", std::string(purekv::kQwenPattern)}}}, {"behavior", "Isolated"}};
  const auto added = [](int id, const char* content, bool special) {
    return Json{{"id", id}, {"content", content}, {"normalized", false}, {"special", special}};
  };
  return {{"added_tokens", Json::array({added(300, "<s>", true), added(301, "<s><t>", false)})},
          {"normalizer", {{"type", "NFC"}}},
          {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", Json::array({split, byte_level})}}},
          {"decoder", byte_level},
          {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", merges}}}};
}

// SentencePiece's: all bytes, a few pieces, one of them unused, a user-defined one, no space before a text.
std::unique_ptr<Tokenizer> SmallPieces() {
  std::vector<purekv::PieceEntry> entries = {{"<s>", 0, purekv::PieceType::kControl}};
  for (int byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof(name), "<0x%02X>", byte);
    entries.push_back({name, 0, purekv::PieceType::kByte});
  }
  for (const char* piece : {"a", "b", "\u2581", "ab", "aa", "\u2581a", "aaaa", "\u00e9"}) {
    entries.push_back({piece, -static_cast<float>(entries.size() % 5), purekv::PieceType::kNormal});
  }
  entries.push_back({"aab", 0, purekv::PieceType::kUnused});
  entries.push_back({"\u2581\u2581", 0, purekv::PieceType::kUserDefined});
  purekv::TokenizerParts parts;
  purekv::UsePieces(entries, false, "fuzz", &parts);
  return Tokenizer::FromParts(std::move(parts));
}

void CheckText(const Tokenizer& tokenizer, std::string_view text) {
  const auto ids = tokenizer.Encode(text);
  for (int32_t id : ids) {
    if (id < 0 || id >= tokenizer.size()) std::abort();
  }
  tokenizer.EncodePlain(text);
  purekv::TextStream stream(tokenizer);
  std::string streamed;
  for (int32_t id : ids) streamed += stream.Push(id);
  if (streamed + stream.Finish() != tokenizer.Decode(ids, true)) std::abort();
}

// Normalisation works on the gaps between added tokens, decoding on the whole: equal without them.
template <class Normalize>
void CheckRoundTrip(const Tokenizer& tokenizer, std::string_view text, Normalize&& normalize) {
  CheckText(tokenizer, text);  // throws where the text is no UTF-8
  if (tokenizer.Decode(tokenizer.EncodePlain(text), false) != normalize(text)) std::abort();
}

void CheckRegex(std::string_view pattern, std::string_view text) {
  const auto pretokenizer = purekv::MakeRegexPretokenizer(std::string(pattern), "fuzz");
  if (purekv::FirstInvalidUtf8(text) != text.npos) return;
  std::vector<std::string_view> pieces;
  pretokenizer->Split(text, &pieces);
  std::string joined;
  for (std::string_view piece : pieces) {
    if (piece.empty()) std::abort();
    joined += piece;
  }
  if (joined != text) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Directory directory;
  static const std::string small = SmallTokenizer().dump();
  static const std::unique_ptr<Tokenizer> tokenizer = [] {
    directory.Write(small);
    return Tokenizer::Load(directory.path.string());
  }();
  static const std::unique_ptr<Tokenizer> pieces = SmallPieces();
  if (size == 0) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data) + 1, size - 1);
  constexpr std::string_view kText = "a<s>\u00e9 b";
  try {
    switch (data[0] % 7) {
      case 0:
        CheckRoundTrip(*tokenizer, input, purekv::NormalizeNfc);
        break;
      case 1:
        directory.Write(std::string(input));
        CheckText(*Tokenizer::Load(directory.path.string()), kText);
        break;
      case 2: {  // part of a good file replaced: gets past the outer checks
        std::string text = small;
        const size_t at = input.empty() ? 0 : static_cast<unsigned char>(input[0]) * text.size() / 256;
        text.replace(at, std::min<size_t>(8, text.size() - at), input.substr(std::min<size_t>(1, input.size())));
        directory.Write(text);
        Tokenizer::Load(directory.path.string())->Encode(kText);
        break;
      }
      case 3: {
        const size_t cut = input.find('\n');
        CheckRegex(input.substr(0, cut), cut == input.npos ? "" : input.substr(cut + 1));
        break;
      }
      case 4:
        // A U+2581 in the text is a space.
        CheckRoundTrip(*pieces, input, [](std::string_view text) { return purekv::ReplaceAll(text, "\u2581", " "); });
        break;
      case 5:
        CheckText(*Tokenizer::FromParts(purekv::ParseSentencePieceModel(input, "fuzz", false)), kText);
        break;
      default: {
        const auto bytes = std::as_bytes(std::span(input));
        CheckText(*purekv::ReadGgufTokenizer(purekv::ParseGgufHeader(bytes, "fuzz").metadata).tokenizer, kText);
      }
    }
  } catch (const purekv::Error&) {
  }
  return 0;
}
