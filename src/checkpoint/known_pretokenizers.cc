#include "base/utf8.h"
#include "checkpoint/pretokenizer.h"
#include "checkpoint/unicode_ranges.h"

namespace purekv {

const char kQwenPattern[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+"
    "|\\s+(?!\\S)|\\s+";
const char kLlama3Pattern[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
    "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const char kGpt2Pattern[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

namespace {

enum class Kind { kEnd, kLetter, kNumber, kSpace, kOther };

struct Char {
  char32_t code = 0;
  size_t length = 0;
  Kind kind = Kind::kEnd;
};

Char CharAt(std::string_view text, size_t at) {
  if (at >= text.size()) return {};
  const Utf8Char c = DecodeUtf8(text, at);
  const Kind kind = IsLetter(c.code)   ? Kind::kLetter
                    : IsNumber(c.code) ? Kind::kNumber
                    : IsSpace(c.code)  ? Kind::kSpace
                                       : Kind::kOther;
  return {c.code, c.length, kind};
}

// End of the run of `kind` that begins at `at`, of at most `most` characters.
size_t RunEnd(std::string_view text, size_t at, Kind kind, size_t most = SIZE_MAX) {
  for (Char c = CharAt(text, at); c.kind == kind && most > 0; c = CharAt(text, at), --most) at += c.length;
  return at;
}

char32_t FoldCase(char32_t code) {
  if (code >= 'A' && code <= 'Z') return code + ('a' - 'A');
  return code == 0x17f ? U's' : code;  // U+017F, long s, is an s to every case-insensitive match
}

char32_t AsItIs(char32_t code) {
  return code;
}

// 's|'t|'re|'ve|'m|'ll|'d at text[at] == '\'', of letters that `fold` makes these: its end, or `at`.
size_t ContractionEnd(std::string_view text, size_t at, char32_t (*fold)(char32_t)) {
  const Char first = CharAt(text, at + 1);
  const size_t after = at + 1 + first.length;
  switch (fold(first.code)) {
    case 's':
    case 't':
    case 'm':
    case 'd':
      return after;
    case 'r':
    case 'v':
      return fold(CharAt(text, after).code) == 'e' ? after + 1 : at;
    case 'l':
      return fold(CharAt(text, after).code) == 'l' ? after + 1 : at;
    default:
      return at;
  }
}

// \s+(?!\S)|\s+ at a white-space character.
size_t SpaceEnd(std::string_view text, size_t at) {
  size_t end = at, last_begin = at;
  for (Char c = CharAt(text, end); c.kind == Kind::kSpace; c = CharAt(text, end)) {
    last_begin = end;
    end += c.length;
  }
  if (end == text.size()) return end;          // \s+(?!\S) at the end
  return last_begin != at ? last_begin : end;  // \s+(?!\S) leaves the last space to the word; \s+ takes a single one
}

// \s*[\r\n]+ at a white-space character: through the last line break of the run; `at`: there is none.
size_t LinesEnd(std::string_view text, size_t at) {
  size_t line_end = at;
  for (Char c = CharAt(text, at); c.kind == Kind::kSpace; c = CharAt(text, at)) {
    at += c.length;
    if (c.code == '\r' || c.code == '\n') line_end = at;
  }
  return line_end;
}

// One piece after another.
class PiecePretokenizer : public Pretokenizer {
 public:
  void Split(std::string_view text, std::vector<std::string_view>* pieces) const final {
    for (size_t at = 0; at < text.size();) {
      const size_t end = PieceEnd(text, at);
      pieces->push_back(text.substr(at, end - at));
      at = end;
    }
  }

 private:
  // Where the piece that begins at `at` ends: behind it.
  virtual size_t PieceEnd(std::string_view text, size_t at) const = 0;
};

// kQwenPattern and, with runs of three digits, kLlama3Pattern.
class QwenPretokenizer final : public PiecePretokenizer {
 public:
  explicit QwenPretokenizer(size_t most_digits) : most_digits_(most_digits) {}

 private:
  size_t PieceEnd(std::string_view text, size_t at) const override {
    const Char c = CharAt(text, at);
    if (c.code == '\'') {
      if (const size_t end = ContractionEnd(text, at, FoldCase); end != at) return end;
    }
    const size_t after = at + c.length;
    if (c.kind == Kind::kLetter) return RunEnd(text, after, Kind::kLetter);
    if (c.kind == Kind::kNumber) return RunEnd(text, at, Kind::kNumber, most_digits_);
    const Char next = CharAt(text, after);
    if (c.code != '\r' && c.code != '\n' && next.kind == Kind::kLetter) return RunEnd(text, after, Kind::kLetter);
    if (c.kind == Kind::kOther || (c.code == ' ' && next.kind == Kind::kOther)) {
      size_t end = RunEnd(text, after, Kind::kOther);
      while (end < text.size() && (text[end] == '\r' || text[end] == '\n')) ++end;
      return end;
    }
    if (const size_t end = LinesEnd(text, at); end != at) return end;
    return SpaceEnd(text, at);
  }

  size_t most_digits_;
};

// kGpt2Pattern.
class Gpt2Pretokenizer final : public PiecePretokenizer {
 private:
  size_t PieceEnd(std::string_view text, size_t at) const override {
    const Char c = CharAt(text, at);
    if (c.code == '\'') {
      if (const size_t end = ContractionEnd(text, at, AsItIs); end != at) return end;
    }
    if (c.kind != Kind::kSpace) return RunEnd(text, at, c.kind);
    const Char next = CharAt(text, at + c.length);
    const bool word = next.kind != Kind::kSpace && next.kind != Kind::kEnd;
    return c.code == ' ' && word ? RunEnd(text, at + c.length, next.kind) : SpaceEnd(text, at);
  }
};

}  // namespace

std::unique_ptr<Pretokenizer> MakeKnownPretokenizer(std::string_view pattern) {
  if (pattern == kQwenPattern) return std::make_unique<QwenPretokenizer>(1);
  if (pattern == kLlama3Pattern) return std::make_unique<QwenPretokenizer>(3);
  if (pattern == kGpt2Pattern) return std::make_unique<Gpt2Pretokenizer>();
  return nullptr;
}

}  // namespace purekv
