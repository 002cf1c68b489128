#include "checkpoint/tokenizer.h"

#include <algorithm>
#include <unordered_map>

#include "base/error.h"
#include "base/utf8.h"
#include "checkpoint/added_tokens.h"
#include "checkpoint/bpe.h"
#include "checkpoint/normalizer.h"
#include "checkpoint/pretokenizer.h"
#include "checkpoint/sentencepiece.h"
#include "checkpoint/tokenizer_files.h"
#include "checkpoint/tokenizer_parts.h"

namespace purekv {
namespace {

void CheckUtf8(std::string_view text) {
  if (const size_t bad = FirstInvalidUtf8(text); bad != text.npos) FailUsage("text is not valid UTF-8 at byte ", bad);
}

// The id of each byte's own token; a byte without one is an unknown character.
std::array<int32_t, 256> ByteIds(const TokenizerParts& parts) {
  std::array<int32_t, 256> ids{};
  for (unsigned byte = 0; byte < 256; ++byte) {
    std::string token;
    AppendUtf8(ByteCharacter(static_cast<unsigned char>(byte)), &token);
    const auto found = parts.vocabulary.find(token);
    ids[byte] = found == parts.vocabulary.end() ? -1 : found->second;
  }
  return ids;
}

// First and last character of each token; nullopt: it is empty.
struct Ends {
  char32_t first, last;
};
std::optional<Ends> EndsOf(std::string_view token) {
  if (token.empty()) return std::nullopt;
  size_t last = token.size() - 1;
  while (last > 0 && (static_cast<unsigned char>(token[last]) & 0xc0) == 0x80) --last;
  return Ends{DecodeUtf8(token, 0).code, DecodeUtf8(token, last).code};
}

std::unique_ptr<PieceEncoder> MakeEncoder(const TokenizerParts& parts) {
  if (!parts.pieces.empty())
    return std::make_unique<SentencePieceEncoder>(parts.pieces, parts.vocabulary, parts.unknown);
  BytePairRules rules;
  rules.unknown = parts.unknown;
  rules.merges = parts.merges;
  rules.by_character = !parts.byte_level;
  if (parts.byte_level) {
    rules.byte_ids = ByteIds(parts);
  } else {
    std::unordered_map<int32_t, Ends> ends;
    ends.reserve(parts.vocabulary.size());
    for (const auto& [token, id] : parts.vocabulary) {
      const auto of = EndsOf(token);
      if (!of) continue;
      ends.emplace(id, *of);
      if (DecodeUtf8(token, 0).length == token.size()) rules.character_ids.emplace(of->first, id);
    }
    for (const MergeRule& merge : parts.merges) {
      const auto left = ends.find(merge.left), right = ends.find(merge.right);
      if (left == ends.end() || right == ends.end()) continue;
      rules.joints.insert(uint64_t{left->second.last} << 32 | right->second.first);
    }
  }
  if (parts.ignore_merges) {
    for (const auto& [token, id] : parts.vocabulary) {
      if (!parts.byte_level) {
        rules.whole_pieces.emplace(token, id);
      } else if (auto bytes = AlphabetBytes(token)) {
        rules.whole_pieces.emplace(std::move(*bytes), id);
      }
    }
  }
  return std::make_unique<BytePairEncoder>(std::move(rules));
}

std::unique_ptr<Pretokenizer> MakePretokenizer(const SplitRule& rule, const std::string& path) {
  switch (rule.kind) {
    case SplitRule::Kind::kRegex:
      if (auto known = MakeKnownPretokenizer(rule.pattern)) return known;
      return MakeRegexPretokenizer(rule.pattern, path + ": pre_tokenizer");
    case SplitRule::Kind::kLiteral:
      return MakeLiteralPretokenizer(rule.pattern, rule.with_previous);
    case SplitRule::Kind::kDigits:
      return MakeDigitsPretokenizer(true);
    case SplitRule::Kind::kNumbers:
      return MakeDigitsPretokenizer(false);
  }
  PUREKV_CHECK(false, "kind of split");
  return nullptr;
}

}  // namespace

struct Tokenizer::Impl {
  struct Token {
    std::string bytes;
    bool special = false;
    bool byte = false;  // the one of a byte token
  };

  AddedTokenMatcher raw_added;         // looked for in the text as it is
  AddedTokenMatcher normalized_added;  // looked for between those, in the normalised text
  std::vector<NormalizerStep> normalizer;
  Metaspace metaspace;
  std::vector<std::unique_ptr<Pretokenizer>> pretokenizers;
  std::unique_ptr<PieceEncoder> encoder;
  TokenDecoder decoder;
  std::unordered_map<int32_t, Token> tokens;
  std::unordered_map<std::string, int32_t> ids;  // token as written in the file -> id
  std::vector<std::string> added;
  std::vector<int32_t> before_text, after_text;
  int64_t size = 0;

  Token Decoded(const std::string& token, bool special) const {
    if (decoder.byte_level) return {TokenBytes(token), special, false};
    std::string text = token;
    for (const auto& [from, to] : decoder.replace) text = ReplaceAll(text, from, to, MostNormalized(token.size()));
    const int byte = decoder.byte_fallback ? ByteTokenValue(text) : -1;
    if (byte >= 0) return {std::string(1, static_cast<char>(byte)), special, true};
    return {std::move(text), special, false};
  }

  // Null: gives no text.
  const Token* Shown(int32_t id, bool skip_special) const {
    const auto found = tokens.find(id);
    return found == tokens.end() || (skip_special && found->second.special) ? nullptr : &found->second;
  }

  // Appends the ids of normalised text without added tokens. `first`: the whole text begins with it.
  void EncodeText(std::string_view text, bool first, std::vector<int32_t>* out) const {
    if (text.empty()) return;
    std::string spaced;
    if (!metaspace.replacement.empty()) {
      spaced = ReplaceAll(text, " ", metaspace.replacement, MostNormalized(text.size()));
      const bool prepend = metaspace.prepend == Metaspace::Prepend::kAlways ||
                           (metaspace.prepend == Metaspace::Prepend::kFirst && first);
      if (prepend && !spaced.starts_with(metaspace.replacement)) spaced.insert(0, metaspace.replacement);
      text = spaced;
    }
    std::vector<std::string_view> pieces{text}, finer;
    for (const auto& pretokenizer : pretokenizers) {
      finer.clear();
      for (std::string_view piece : pieces) pretokenizer->Split(piece, &finer);
      std::swap(pieces, finer);
    }
    for (std::string_view piece : pieces) encoder->Encode(piece, out);
  }
};

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;

std::unique_ptr<Tokenizer> Tokenizer::Load(const std::string& dir) {
  return FromParts(ReadTokenizerFiles(dir));
}

bool Tokenizer::Exists(const std::string& dir) {
  return HasTokenizerFiles(dir);
}

std::unique_ptr<Tokenizer> Tokenizer::FromParts(TokenizerParts parts) {
  auto impl = std::make_unique<Impl>();
  impl->normalizer = parts.normalizer;
  impl->metaspace = parts.metaspace;
  if (parts.metaspace.split) impl->pretokenizers.push_back(MakeWordBeginPretokenizer(parts.metaspace.replacement));
  for (const SplitRule& rule : parts.splits) impl->pretokenizers.push_back(MakePretokenizer(rule, parts.path));
  impl->encoder = MakeEncoder(parts);
  impl->decoder = parts.decoder;
  impl->before_text = std::move(parts.before_text);
  impl->after_text = std::move(parts.after_text);

  impl->tokens.reserve(parts.vocabulary.size() + parts.added.size());
  for (const auto& [token, id] : parts.vocabulary) impl->tokens.emplace(id, impl->Decoded(token, false));
  std::vector<NormalizerStep> of_tokens = impl->normalizer;
  if (!parts.pieces.empty())
    std::erase_if(of_tokens, [](const NormalizerStep& step) { return step.kind == NormalizerStep::Kind::kPrepend; });
  std::vector<AddedToken> raw, normalized;
  impl->ids = std::move(parts.vocabulary);
  for (AddedToken& token : parts.added) {
    impl->ids[token.content] = token.id;
    impl->added.push_back(token.content);
    impl->tokens[token.id] = impl->Decoded(token.content, token.special);
    if (token.normalized) token.content = Normalize(of_tokens, token.content);
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
    const bool first = part.text.data() == text.data();
    const std::string normalized = Normalize(impl_->normalizer, part.text);
    for (const auto& inner : impl_->normalized_added.Split(normalized)) {
      if (inner.id >= 0) {
        out.push_back(inner.id);
      } else {
        impl_->EncodeText(inner.text, first && inner.text.data() == normalized.data(), &out);
      }
    }
  }
  return out;
}

std::vector<int32_t> Tokenizer::EncodePlain(std::string_view text) const {
  CheckUtf8(text);
  std::vector<int32_t> out;
  impl_->EncodeText(Normalize(impl_->normalizer, text), true, &out);
  return out;
}

const std::vector<int32_t>& Tokenizer::before_text() const {
  return impl_->before_text;
}

const std::vector<int32_t>& Tokenizer::after_text() const {
  return impl_->after_text;
}

std::string Tokenizer::Decode(std::span<const int32_t> ids, bool skip_special) const {
  TextStream stream(*this, skip_special);
  std::string text;
  for (int32_t id : ids) text += stream.Push(id);
  return text + stream.Finish();
}

std::string Tokenizer::DecodeBytes(int32_t id, bool skip_special) const {
  const Impl::Token* token = impl_->Shown(id, skip_special);
  return token == nullptr ? "" : token->bytes;
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
  const Tokenizer::Impl& impl = *tokenizer_.impl_;
  const Tokenizer::Impl::Token* token = impl.Shown(id, skip_special_);
  if (token == nullptr) return "";
  std::string text;
  if (impl.decoder.byte_level) {
    pending_ += token->bytes;
    pending_.erase(0, AppendLossyUtf8(pending_, /*final=*/false, &text));
    return text;
  }
  if (token->byte) {
    pending_ += token->bytes;
    return "";
  }
  text = TakeByteTokens() + token->bytes;
  return Strip(std::move(text));
}

// Hugging Face looks at all byte tokens in a row: either they are UTF-8, or none of them is shown.
std::string TextStream::TakeByteTokens() {
  std::string text;
  if (FirstInvalidUtf8(pending_) == pending_.npos) {
    text = std::move(pending_);
  } else {
    for (size_t i = 0; i < pending_.size(); ++i) AppendUtf8(0xfffd, &text);
  }
  pending_.clear();
  return text;
}

std::string TextStream::Strip(std::string&& text) {
  const TokenDecoder& decoder = tokenizer_.impl_->decoder;
  size_t begin = 0;
  while (!strip_ended_ && begin < text.size()) {
    const bool take = stripped_ < decoder.strip_most && text.compare(begin, decoder.strip.size(), decoder.strip) == 0;
    if (take) {
      begin += decoder.strip.size();
      ++stripped_;
    } else {
      strip_ended_ = true;
    }
  }
  return begin == 0 ? std::move(text) : text.substr(begin);
}

std::string TextStream::Finish() {
  std::string text;
  if (tokenizer_.impl_->decoder.byte_level) {
    AppendLossyUtf8(pending_, /*final=*/true, &text);
    pending_.clear();
    return text;
  }
  return Strip(TakeByteTokens());
}

}  // namespace purekv
