#include <cmath>

#include "base/error.h"
#include "base/utf8.h"
#include "checkpoint/sentencepiece_model.h"

namespace purekv {
namespace {

constexpr char kSpace[] = "\u2581";
// Merging looks up stretches of a text up to the longest piece.
constexpr size_t kMaxPiece = 1024;

// Where a token stands, for messages. Put together only when there is one: vocabularies are long.
std::string Name(const std::string& where, size_t id) {
  return StrCat(where, ": token ", id);
}

void AddToken(const std::string& text, size_t id, bool special, const std::string& where, TokenizerParts* parts) {
  if (text.empty() || text.size() > kMaxAddedToken)
    Fail(Name(where, id), " has ", text.size(), " bytes; expected 1 to ", kMaxAddedToken);
  // User-defined tokens stand for a text with its spaces, whichever of the two they are written with.
  parts->added.push_back({static_cast<int32_t>(id), text, false, false, !special, special});
}

}  // namespace

PieceType ToPieceType(int64_t number, const std::string& where, size_t id) {
  if (number < 1 || number > 6) Fail(Name(where, id), ": type ", number, " is none of 1 to 6");
  return static_cast<PieceType>(number);
}

void PutToken(const std::string& text, int32_t id, const std::string& where, TokenizerParts* parts) {
  if (FirstInvalidUtf8(text) != text.npos) Fail(where, ": token ", id, " is not valid UTF-8");
  const auto [place, inserted] = parts->vocabulary.emplace(text, id);
  if (!inserted) Fail(where, ": token ", id, " is \"", text.substr(0, 200), "\", as token ", place->second, " is");
}

void UsePieces(const std::vector<PieceEntry>& entries, bool space_prefix, const std::string& where,
               TokenizerParts* parts) {
  if (entries.empty()) Fail(where, ": no tokens");
  parts->vocabulary.reserve(entries.size());
  UnknownRule& unknown = parts->unknown;
  unknown.byte_ids.fill(-1);
  size_t bytes = 0;
  for (size_t i = 0; i < entries.size(); ++i) {
    const PieceEntry& entry = entries[i];
    const auto id = static_cast<int32_t>(i);
    PutToken(entry.text, id, where, parts);
    if (std::isnan(entry.score)) Fail(Name(where, i), ": its score is not a number");
    switch (entry.type) {
      case PieceType::kByte: {
        const int byte = ByteTokenValue(entry.text);
        if (byte < 0)
          Fail(Name(where, i), ", \"", entry.text.substr(0, 200), "\", is a byte; expected <0x00> to <0xFF>");
        if (unknown.byte_ids[static_cast<size_t>(byte)] < 0) ++bytes;
        unknown.byte_ids[static_cast<size_t>(byte)] = id;
        break;
      }
      case PieceType::kControl:
        AddToken(entry.text, i, true, where, parts);
        break;
      case PieceType::kUnknown:
        if (unknown.id >= 0) Fail(Name(where, i), " is an unknown token, as token ", unknown.id, " is; expected one");
        unknown.id = id;
        AddToken(entry.text, i, true, where, parts);
        break;
      case PieceType::kUserDefined:
        AddToken(entry.text, i, false, where, parts);
        break;
      case PieceType::kNormal:
      case PieceType::kUnused:
        break;
    }
    const bool piece =
        entry.type == PieceType::kNormal || entry.type == PieceType::kUnused || entry.type == PieceType::kUserDefined;
    if (!piece || entry.text.empty()) continue;
    if (entry.text.size() > kMaxPiece)
      Fail(Name(where, i), " has ", entry.text.size(), " bytes; at most ", kMaxPiece, " are supported");
    parts->pieces.push_back({ReplaceAll(entry.text, " ", kSpace), id, entry.score, entry.type == PieceType::kUnused});
  }
  if (unknown.id < 0 && bytes < 256) {
    Fail(where, ": no unknown token, and ", bytes, " of the 256 byte tokens: some text would have no tokens");
  }
  if (parts->pieces.empty()) Fail(where, ": no token is ordinary text");
  unknown.byte_fallback = bytes > 0;
  unknown.fuse = true;
  if (space_prefix) parts->normalizer.push_back({NormalizerStep::Kind::kPrepend, "", kSpace});
  parts->normalizer.push_back({NormalizerStep::Kind::kReplace, " ", kSpace});
  parts->decoder.replace = {{kSpace, " "}};
  parts->decoder.byte_fallback = true;
  parts->decoder.strip = " ";
  parts->decoder.strip_most = space_prefix ? 1 : 0;
}

}  // namespace purekv
