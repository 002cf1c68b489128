#include "checkpoint/tokenizer.h"

#include <algorithm>
#include <unordered_map>

#include "base/error.h"
#include "base/utf8.h"
#include "checkpoint/added_tokens.h"
#include "checkpoint/bpe.h"
#include "checkpoint/normalizer.h"
#include "checkpoint/pretokenizer.h"
#include "checkpoint/tokenizer_files.h"

namespace purekv {
namespace {

// Bytes that well-formed UTF-8 never contains.
bool NeverInUtf8(unsigned byte) {
  return byte == 0xc0 || byte == 0xc1 || byte >= 0xf5;
}

// The id of each byte's own token. A vocabulary that lacks one would lose text silently, so it is refused; it follows
// that no text has an unknown token.
std::array<int32_t, 256> ByteIds(const TokenizerFiles& files) {
  std::array<int32_t, 256> ids{};
  for (unsigned byte = 0; byte < 256; ++byte) {
    std::string token;
    AppendUtf8(ByteCharacter(static_cast<unsigned char>(byte)), &token);
    const auto found = files.vocabulary.find(token);
    ids[byte] = found == files.vocabulary.end() ? -1 : found->second;
    if (ids[byte] < 0 && !NeverInUtf8(byte))
      Fail(files.path, ": no token \"", token, "\" for byte ", byte, "; all bytes of UTF-8 are needed");
  }
  return ids;
}

void CheckUtf8(std::string_view text) {
  if (const size_t bad = FirstInvalidUtf8(text); bad != text.npos) FailUsage("text is not valid UTF-8 at byte ", bad);
}

}  // namespace

struct Tokenizer::Impl {
  struct Token {
    std::string bytes;
    bool special = false;
  };

  AddedTokenMatcher raw_added;         // looked for in the text as it is
  AddedTokenMatcher normalized_added;  // looked for between those, in the normalised text
  bool nfc = false;
  std::vector<std::unique_ptr<Pretokenizer>> pretokenizers;
  BytePairEncoder encoder;
  std::unordered_map<int32_t, Token> tokens;
  std::unordered_map<std::string, int32_t> ids;  // token as written in the file -> id
  std::vector<std::string> added;
  int64_t size = 0;

  std::string Normalize(std::string_view text) const { return nfc ? NormalizeNfc(text) : std::string(text); }

  // Appends the ids of normalised text without added tokens.
  void EncodeText(std::string_view text, std::vector<int32_t>* out) const {
    std::vector<std::string_view> pieces{text}, finer;
    for (const auto& pretokenizer : pretokenizers) {
      finer.clear();
      for (std::string_view piece : pieces) pretokenizer->Split(piece, &finer);
      std::swap(pieces, finer);
    }
    for (std::string_view piece : pieces) encoder.Encode(piece, out);
  }
};

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;

std::unique_ptr<Tokenizer> Tokenizer::Load(const std::string& dir) {
  TokenizerFiles files = ReadTokenizerFiles(dir);
  auto impl = std::make_unique<Impl>();
  impl->nfc = files.nfc;
  for (const std::string& pattern : files.split_patterns) {
    const bool qwen = pattern == kQwenPattern;
    impl->pretokenizers.push_back(qwen ? MakeQwenPretokenizer()
                                       : MakeRegexPretokenizer(pattern, files.path + ": pre_tokenizer"));
  }

  std::unordered_map<std::string, int32_t> whole_pieces;
  impl->tokens.reserve(files.vocabulary.size() + files.added.size());
  for (const auto& [token, id] : files.vocabulary) {
    std::string bytes = TokenBytes(token);
    if (files.ignore_merges) whole_pieces.emplace(bytes, id);
    impl->tokens.emplace(id, Impl::Token{std::move(bytes), false});
  }
  impl->encoder = BytePairEncoder(ByteIds(files), files.merges, std::move(whole_pieces));

  std::vector<AddedToken> raw, normalized;
  impl->ids = std::move(files.vocabulary);
  for (AddedToken& token : files.added) {
    impl->ids[token.content] = token.id;
    impl->added.push_back(token.content);
    impl->tokens[token.id] = {TokenBytes(token.content), token.special};
    if (token.normalized) token.content = impl->Normalize(token.content);
    (token.normalized ? normalized : raw).push_back(token);
  }
  impl->raw_added = AddedTokenMatcher(raw);
  impl->normalized_added = AddedTokenMatcher(normalized);
  for (const auto& [id, token] : impl->tokens) impl->size = std::max(impl->size, int64_t{id} + 1);
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(impl)));
}

std::vector<int32_t> Tokenizer::Encode(std::string_view text) const {
  CheckUtf8(text);
  std::vector<int32_t> out;
  for (const auto& part : impl_->raw_added.Split(text)) {
    if (part.id >= 0) {
      out.push_back(part.id);
      continue;
    }
    const std::string normalized = impl_->Normalize(part.text);
    for (const auto& inner : impl_->normalized_added.Split(normalized)) {
      if (inner.id >= 0) {
        out.push_back(inner.id);
      } else {
        impl_->EncodeText(inner.text, &out);
      }
    }
  }
  return out;
}

std::vector<int32_t> Tokenizer::EncodePlain(std::string_view text) const {
  CheckUtf8(text);
  std::vector<int32_t> out;
  impl_->EncodeText(impl_->Normalize(text), &out);
  return out;
}

std::string Tokenizer::Decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string bytes, text;
  for (int32_t id : ids) bytes += DecodeBytes(id, skip_special);
  AppendLossyUtf8(bytes, true, &text);
  return text;
}

std::string Tokenizer::DecodeBytes(int32_t id, bool skip_special) const {
  const auto found = impl_->tokens.find(id);
  if (found == impl_->tokens.end() || (skip_special && found->second.special)) return "";
  return found->second.bytes;
}

const std::vector<std::string>& Tokenizer::added_tokens() const {
  return impl_->added;
}

std::optional<int32_t> Tokenizer::Find(std::string_view token) const {
  const auto found = impl_->ids.find(std::string(token));
  if (found == impl_->ids.end()) return std::nullopt;
  return found->second;
}

int64_t Tokenizer::size() const {
  return impl_->size;
}

std::string TextStream::Push(int32_t id) {
  pending_ += tokenizer_.DecodeBytes(id, /*skip_special=*/true);
  std::string text;
  pending_.erase(0, AppendLossyUtf8(pending_, /*final=*/false, &text));
  return text;
}

std::string TextStream::Finish() {
  std::string text;
  AppendLossyUtf8(pending_, /*final=*/true, &text);
  pending_.clear();
  return text;
}

}  // namespace purekv
