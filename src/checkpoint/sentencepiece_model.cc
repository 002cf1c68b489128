// tokenizer.model is a protocol buffer (sentencepiece_model.proto); of its fields these are read.
#include "checkpoint/sentencepiece_model.h"

#include <bit>
#include <optional>

#include "base/error.h"
#include "base/file.h"

namespace purekv {
namespace {

constexpr int64_t kMaxFile = int64_t{64} << 20;

// One field of a message. What is not asked for is passed over.
struct ProtoField {
  uint64_t number = 0;
  uint64_t value = 0;      // of integers and fixed ones
  std::string_view bytes;  // of texts and messages
  enum class Wire { kInteger = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 } wire = Wire::kInteger;
};

class ProtoReader {
 public:
  ProtoReader(std::string_view bytes, const std::string& where) : bytes_(bytes), where_(where) {}

  // The next field; nullopt at the end. Throws Error.
  std::optional<ProtoField> Next() {
    if (at_ == bytes_.size()) return std::nullopt;
    const uint64_t tag = Integer();
    ProtoField field;
    field.number = tag >> 3;
    field.wire = static_cast<ProtoField::Wire>(tag & 7);
    switch (field.wire) {
      case ProtoField::Wire::kInteger:
        field.value = Integer();
        return field;
      case ProtoField::Wire::kFixed64:
        field.value = Fixed(8);
        return field;
      case ProtoField::Wire::kFixed32:
        field.value = Fixed(4);
        return field;
      case ProtoField::Wire::kBytes: {
        const uint64_t size = Integer();
        if (size > bytes_.size() - at_) Damaged();
        field.bytes = bytes_.substr(at_, size);
        at_ += size;
        return field;
      }
    }
    Damaged();
  }

 private:
  [[noreturn]] void Damaged() const { Fail(where_, ": no SentencePiece model, or damaged"); }

  uint64_t Integer() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (at_ == bytes_.size()) Damaged();
      const auto byte = static_cast<unsigned char>(bytes_[at_++]);
      value |= uint64_t{byte & 0x7fu} << shift;
      if (byte < 0x80) return value;
    }
    Damaged();
  }

  uint64_t Fixed(size_t size) {
    if (size > bytes_.size() - at_) Damaged();
    uint64_t value = 0;
    for (size_t i = size; i-- > 0;) value = value << 8 | static_cast<unsigned char>(bytes_[at_ + i]);
    at_ += size;
    return value;
  }

  std::string_view bytes_;
  const std::string& where_;
  size_t at_ = 0;
};

bool Is(const ProtoField& field, uint64_t number, ProtoField::Wire wire) {
  return field.number == number && field.wire == wire;
}

using Wire = ProtoField::Wire;

PieceEntry ReadPiece(std::string_view message, const std::string& where, size_t id) {
  PieceEntry entry;
  ProtoReader reader(message, where);
  while (const auto field = reader.Next()) {
    if (Is(*field, 1, Wire::kBytes)) entry.text = field->bytes;
    if (Is(*field, 2, Wire::kFixed32)) entry.score = std::bit_cast<float>(static_cast<uint32_t>(field->value));
    if (Is(*field, 3, Wire::kInteger)) entry.type = ToPieceType(static_cast<int64_t>(field->value), where, id);
  }
  return entry;
}

void CheckTrainer(std::string_view message, const std::string& path) {
  uint64_t type = 1, suffix = 0;
  ProtoReader reader(message, path);
  while (const auto field = reader.Next()) {
    if (Is(*field, 3, Wire::kInteger)) type = field->value;
    if (Is(*field, 24, Wire::kInteger)) suffix = field->value;
  }
  constexpr const char* kTypes[] = {"0", "unigram", "bpe", "word", "char"};
  if (type != 2) Fail(path, ": model_type ", type < 5 ? kTypes[type] : "unknown", " is not supported; expected bpe");
  if (suffix != 0) Fail(path, ": treat_whitespace_as_suffix is not supported; expected false");
}

// Whether one space comes before a text.
bool ReadNormalizerSpec(std::string_view message, const std::string& path) {
  uint64_t prefix = 1, remove = 1, escape = 1;
  size_t rules = 0;
  ProtoReader reader(message, path);
  while (const auto field = reader.Next()) {
    if (Is(*field, 2, Wire::kBytes)) rules = field->bytes.size();
    if (Is(*field, 3, Wire::kInteger)) prefix = field->value;
    if (Is(*field, 4, Wire::kInteger)) remove = field->value;
    if (Is(*field, 5, Wire::kInteger)) escape = field->value;
  }
  if (rules != 0) Fail(path, ": precompiled_charsmap is not supported; expected none (the rule \"identity\")");
  if (remove != 0) Fail(path, ": remove_extra_whitespaces is not supported; expected false");
  if (escape == 0) Fail(path, ": escape_whitespaces: false is not supported; expected true");
  return prefix != 0;
}

}  // namespace

TokenizerParts ParseSentencePieceModel(std::string_view bytes, const std::string& path, bool first_only) {
  std::vector<PieceEntry> entries;
  std::string_view trainer, normalizer;
  ProtoReader reader(bytes, path);
  while (const auto field = reader.Next()) {
    if (Is(*field, 1, Wire::kBytes)) entries.push_back(ReadPiece(field->bytes, path, entries.size()));
    if (Is(*field, 2, Wire::kBytes)) trainer = field->bytes;
    if (Is(*field, 3, Wire::kBytes)) normalizer = field->bytes;
    if (entries.size() > static_cast<size_t>(kMaxTokenId)) Fail(path, ": more than ", kMaxTokenId, " pieces");
  }
  CheckTrainer(trainer, path);
  const bool prefix = ReadNormalizerSpec(normalizer, path);
  TokenizerParts parts;
  parts.path = path;
  UsePieces(entries, prefix, path, &parts);
  if (prefix && first_only) {
    std::erase_if(parts.normalizer, [](const NormalizerStep& s) { return s.kind == NormalizerStep::Kind::kPrepend; });
    parts.metaspace = {"\u2581", Metaspace::Prepend::kFirst, false};
  }
  return parts;
}

TokenizerParts ReadSentencePieceModel(const std::string& path, bool first_only) {
  return ParseSentencePieceModel(ReadFile(path, kMaxFile), path, first_only);
}

}  // namespace purekv
