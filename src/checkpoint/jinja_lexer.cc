#include "checkpoint/jinja_lexer.h"

#include <algorithm>
#include <charconv>
#include <cstdio>

#include "base/error.h"
#include "base/utf8.h"
#include "checkpoint/jinja_text.h"

namespace purekv::jinja {
namespace {

bool IsDigit(char c) {
  return c >= '0' && c <= '9';
}
bool IsNameStart(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

// One kind of line break, and not one at the very end.
std::string NormalizeLines(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\r') {
      if (i + 1 < text.size() && text[i + 1] == '\n') continue;
      out += '\n';
    } else {
      out += text[i];
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string source) : text_(std::move(source)) {}

  std::vector<Token> Run() {
    while (at_ < text_.size()) Text();
    Push(Token::Type::kEnd, "");
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void Refuse(const std::string& message) const { throw SyntaxFault(line_, message); }

  bool StartsWith(std::string_view part) const { return std::string_view(text_).substr(at_).starts_with(part); }
  char Next(size_t offset = 0) const { return at_ + offset < text_.size() ? text_[at_ + offset] : '\0'; }

  void Push(Token::Type type, std::string text) {
    Token token;
    token.type = type;
    token.line = line_;
    token.text = std::move(text);
    tokens_.push_back(std::move(token));
  }

  // Moves on, counting lines.
  void Advance(size_t bytes) {
    line_ += static_cast<int>(std::count(text_.begin() + static_cast<std::ptrdiff_t>(at_),
                                         text_.begin() + static_cast<std::ptrdiff_t>(at_ + bytes), '\n'));
    at_ += bytes;
    line_starting_ = at_ > 0 && text_[at_ - 1] == '\n';
  }

  // Bytes of whitespace from `from` on.
  size_t Space(size_t from) const {
    size_t at = from;
    while (at < text_.size()) {
      const Utf8Char character = DecodeUtf8(text_, at);
      if (character.length == 0 || !IsPythonSpace(character.code)) break;
      at += character.length;
    }
    return at - from;
  }

  // Plain text up to the next tag, comment or print statement, and its beginning.
  void Text() {
    size_t open = at_;
    for (;; ++open) {
      open = text_.find('{', open);
      if (open == text_.npos || open + 1 >= text_.size()) {
        Push(Token::Type::kData, text_.substr(at_));
        return Advance(text_.size() - at_);
      }
      if (const char kind = text_[open + 1]; kind == '%' || kind == '{' || kind == '#') break;
    }
    const char kind = text_[open + 1];
    const char sign =
        open + 2 < text_.size() && (text_[open + 2] == '-' || text_[open + 2] == '+') ? text_[open + 2] : '\0';
    Data(open, sign, kind == '{');
    const size_t raw_end = kind == '%' ? RawTag(open + (sign == '\0' ? 2 : 3), "raw", false) : 0;
    Advance(open - at_);
    if (raw_end > 0) return Raw(raw_end);
    Advance(sign == '\0' ? 2 : 3);
    if (kind == '#') return Comment();
    Push(kind == '%' ? Token::Type::kBlockBegin : Token::Type::kVariableBegin, "");
    Tag(kind == '%');
  }

  // Text from here to `end`, without what the tag behind it takes away.
  void Data(size_t end, char sign, bool variable) {
    std::string data = text_.substr(at_, end - at_);
    if (sign == '-') {
      data = Strip(data, nullptr, Side::kRight);
    } else if (sign != '+' && !variable) {
      const size_t line = data.rfind('\n') + 1;  // npos + 1 is 0
      const std::string rest = data.substr(line);
      if ((line > 0 || line_starting_) && !rest.empty() && Strip(rest, nullptr, Side::kLeft).empty()) data.resize(line);
    }
    if (!data.empty()) Push(Token::Type::kData, std::move(data));
  }

  // Where the tag `word` ends that began before `from`; 0: another tag. `trim`: it takes the line break behind it.
  size_t RawTag(size_t from, std::string_view word, bool trim) const {
    size_t at = from + Space(from);
    if (std::string_view(text_).substr(at, word.size()) != word) return 0;
    at += word.size();
    at += Space(at);
    const std::string_view rest = std::string_view(text_).substr(at);
    if (rest.starts_with("-%}")) return at + 3 + Space(at + 3);
    if (trim && rest.starts_with("+%}")) return at + 3;
    if (!rest.starts_with("%}")) return 0;
    return at + 2 + (trim && rest.substr(2).starts_with("\n") ? 1 : 0);
  }

  // {% raw %} ... {% endraw %}: the text between is data.
  void Raw(size_t begin) {
    Advance(begin - at_);
    for (size_t open = text_.find("{%", at_); open != text_.npos; open = text_.find("{%", open + 1)) {
      const char sign =
          open + 2 < text_.size() && (text_[open + 2] == '-' || text_[open + 2] == '+') ? text_[open + 2] : '\0';
      const size_t end = RawTag(open + (sign == '\0' ? 2 : 3), "endraw", true);
      if (end == 0) continue;
      Data(open, sign, false);
      return Advance(end - at_);
    }
    Refuse("Missing end of raw directive");
  }

  void Comment() {
    const size_t end = text_.find("#}", at_);
    if (end == text_.npos) Refuse("Missing end of comment tag");
    const char sign = end > at_ ? text_[end - 1] : '\0';
    size_t next = end + 2;
    if (sign == '-') {
      next += Space(next);
    } else if (sign != '+' && next < text_.size() && text_[next] == '\n') {
      ++next;
    }
    Advance(next - at_);
  }

  // The end of this tag, when it is here: its bytes.
  size_t TagEnd(bool block) const {
    const std::string_view close = block ? "%}" : "}}";
    if (Next() == '-' && std::string_view(text_).substr(at_ + 1).starts_with(close)) return 3 + Space(at_ + 3);
    if (block && StartsWith("+%}")) return 3;
    if (!StartsWith(close)) return 0;
    return 2 + (block && Next(2) == '\n' ? 1 : 0);
  }

  void Tag(bool block) {
    std::string open;  // the brackets that wait for their partner
    while (at_ < text_.size()) {
      if (const size_t end = open.empty() ? TagEnd(block) : 0; end > 0) {
        Push(block ? Token::Type::kBlockEnd : Token::Type::kVariableEnd, "");
        return Advance(end);
      }
      if (const size_t space = Space(at_); space > 0) {
        Advance(space);
      } else if (IsDigit(Next())) {
        Number();
      } else if (IsNameStart(Next())) {
        size_t end = at_;
        while (end < text_.size() && (IsNameStart(text_[end]) || IsDigit(text_[end]))) ++end;
        Push(Token::Type::kName, text_.substr(at_, end - at_));
        Advance(end - at_);
      } else if (Next() == '\'' || Next() == '"') {
        String();
      } else {
        Operator(&open);
      }
    }
    // Jinja's lexer stops here too; its parser then misses the end of the tag.
  }

  void Operator(std::string* open) {
    for (const std::string_view two : {"//", "**", "==", "!=", ">=", "<="}) {
      if (!StartsWith(two)) continue;
      Push(Token::Type::kOperator, std::string(two));
      return Advance(2);
    }
    const char c = Next();
    if (std::string_view("+-/*%~[](){}><=.:|,;").find(c) == std::string_view::npos) {
      const size_t length = std::max<size_t>(1, DecodeUtf8(text_, at_).length);
      Refuse(StrCat("unexpected character '", text_.substr(at_, length), "'"));
    }
    if (c == '{' || c == '(' || c == '[') *open += c == '{' ? '}' : c == '(' ? ')' : ']';
    if (c == '}' || c == ')' || c == ']') {
      if (open->empty()) Refuse(StrCat("unexpected '", c, "'"));
      if (open->back() != c) Refuse(StrCat("unexpected '", c, "', expected '", open->back(), "'"));
      open->pop_back();
    }
    Push(Token::Type::kOperator, std::string(1, c));
    Advance(1);
  }

  // Digits with single underscores between them, from `from`; their end.
  size_t Digits(size_t from) const {
    size_t at = from;
    while (at < text_.size() && (IsDigit(text_[at]) || (text_[at] == '_' && at > from && at + 1 < text_.size() &&
                                                        IsDigit(text_[at - 1]) && IsDigit(text_[at + 1])))) {
      ++at;
    }
    return at;
  }

  void Number() {
    const auto plain = [&](size_t end) {
      std::string digits = text_.substr(at_, end - at_);
      std::erase(digits, '_');
      return digits;
    };
    Token token;
    token.type = Token::Type::kNumber;
    token.line = line_;
    size_t end = Digits(at_);
    const size_t whole = end;
    const bool after_dot = at_ > 0 && text_[at_ - 1] == '.';
    if (end + 1 < text_.size() && text_[end] == '.' && IsDigit(text_[end + 1])) end = Digits(end + 1);
    if (end < text_.size() && (text_[end] == 'e' || text_[end] == 'E')) {
      const size_t sign = end + 1 < text_.size() && (text_[end + 1] == '+' || text_[end + 1] == '-') ? 1 : 0;
      if (const size_t from = end + 1 + sign; from < text_.size() && IsDigit(text_[from])) end = Digits(from);
    }
    if (end != whole && !after_dot) {
      const std::string digits = plain(end);
      double value = 0;
      const auto result = std::from_chars(digits.data(), digits.data() + digits.size(), value);
      if (result.ec == std::errc::result_out_of_range) Refuse("a float beyond the range of 64 bits");
      token.number = Value::Float(value);
    } else {
      end = whole;
      int base = 10;
      if (text_[at_] == '0') {
        const char letter = static_cast<char>(Next(1) | 0x20);
        const int wanted = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 10;
        const auto digit = [&](char c) {
          const int value = IsDigit(c) ? c - '0' : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10 : 99;
          return value < wanted;
        };
        if (wanted != 10 && (digit(Next(2)) || (Next(2) == '_' && digit(Next(3))))) {
          base = wanted;
          end = at_ + 2;
          while (end < text_.size() &&
                 (digit(text_[end]) || (text_[end] == '_' && end + 1 < text_.size() && digit(text_[end + 1])))) {
            ++end;
          }
        } else {  // zeros only: 007 is 00 and 7
          end = at_ + 1;
          while (end < text_.size() &&
                 (text_[end] == '0' || (text_[end] == '_' && end + 1 < text_.size() && text_[end + 1] == '0')))
            ++end;
        }
      }
      std::string digits = plain(end);
      if (base != 10) digits.erase(0, 2);
      int64_t value = 0;
      const auto result = std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
      if (result.ec != std::errc()) Refuse("an integer leaves 64 bits");
      token.number = Value::Int(value);
    }
    tokens_.push_back(std::move(token));
    Advance(end - at_);
  }

  void String() {
    const char quote = Next();
    size_t end = at_ + 1;
    while (end < text_.size() && text_[end] != quote) end += text_[end] == '\\' ? 2 : 1;
    if (end >= text_.size()) Refuse(StrCat("unexpected character '", quote, "': the string has no end"));
    Push(Token::Type::kString, Unescape(text_.substr(at_ + 1, end - at_ - 1)));
    Advance(end + 1 - at_);
  }

  std::string Unescape(std::string_view text) const {
    std::string out;
    for (size_t i = 0; i < text.size(); ++i) {
      if (text[i] != '\\') {
        out += text[i];
        continue;
      }
      const char c = text[++i];  // there is one: the string would not have ended
      static constexpr std::string_view kFrom = "\\'\"abfnrtv", kTo = "\\'\"\a\b\f\n\r\t\v";
      if (const size_t known = kFrom.find(c); known != kFrom.npos) {
        out += kTo[known];
      } else if (c == '\n') {
        // a line break that does not count
      } else if (c >= '0' && c <= '7') {
        char32_t code = 0;
        size_t digits = 0;
        while (digits < 3 && i + digits < text.size() && text[i + digits] >= '0' && text[i + digits] <= '7') {
          code = code * 8 + static_cast<char32_t>(text[i + digits++] - '0');
        }
        i += digits - 1;
        AppendUtf8(code, &out);
      } else if (c == 'x' || c == 'u' || c == 'U') {
        const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        AppendUtf8(HexEscape(text.substr(i + 1), digits, c), &out);
        i += digits;
      } else if (c == 'N') {
        Refuse("\\N{...} in a string is not supported");
      } else if (static_cast<unsigned char>(c) >=
                 0x80) {  // Jinja writes it as an escape first, whose backslash this is
        const Utf8Char character = DecodeUtf8(text, i);
        char escape[16];
        std::snprintf(escape, sizeof(escape),
                      character.code < 0x100     ? "x%02x"
                      : character.code < 0x10000 ? "u%04x"
                                                 : "U%08x",
                      static_cast<unsigned>(character.code));
        out += '\\';
        out += escape;
        i += character.length - 1;
      } else {
        out += '\\';
        out += c;
      }
    }
    return out;
  }

  char32_t HexEscape(std::string_view text, size_t digits, char letter) const {
    uint32_t code = 0;
    const auto result = std::from_chars(text.data(), text.data() + std::min(digits, text.size()), code, 16);
    if (result.ec != std::errc() || result.ptr != text.data() + digits) {
      Refuse(StrCat("truncated \\", letter, " escape in a string"));
    }
    if (code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) Refuse("an escape in a string names no character");
    return code;
  }

  const std::string text_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> Tokenize(std::string_view source) {
  return Lexer(NormalizeLines(source)).Run();
}

}  // namespace purekv::jinja
