#include "checkpoint/jinja_text.h"

#include <utf8proc.h>

#include <algorithm>

#include "base/utf8.h"
#include "checkpoint/unicode_case.h"

namespace purekv::jinja {
namespace {

// Unicode's Case_Ignorable: between a sigma and the letters that decide whether it ends the word.
bool IsCaseIgnorable(char32_t code) {
  if (code == '\'' || code == '.' || code == ':' || code == 0xb7 || code == 0x387 || code == 0x55f || code == 0x5f4 ||
      code == 0x2018 || code == 0x2019 || code == 0x2024 || code == 0x2027 || code == 0xfe13 || code == 0xfe52 ||
      code == 0xfe55 || code == 0xff07 || code == 0xff0e || code == 0xff1a || code == '^' || code == '`' ||
      code == 0xa8 || code == 0xaf || code == 0xb4 || code == 0xb8) {
    return true;
  }
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(code));
  return category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_ME || category == UTF8PROC_CATEGORY_CF ||
         category == UTF8PROC_CATEGORY_LM || category == UTF8PROC_CATEGORY_SK;
}

void AppendLowerAt(const std::u32string& text, size_t at, std::u32string* out) {
  constexpr char32_t kSigma = 0x3a3, kFinalSigma = 0x3c2;
  if (text[at] != kSigma) return AppendLower(text[at], out);
  size_t before = at;
  while (before > 0 && IsCaseIgnorable(text[before - 1])) --before;
  size_t after = at + 1;
  while (after < text.size() && IsCaseIgnorable(text[after])) ++after;
  const bool ends = before > 0 && IsCased(text[before - 1]) && !(after < text.size() && IsCased(text[after]));
  if (ends) {
    *out += kFinalSigma;
  } else {
    AppendLower(kSigma, out);
  }
}

bool IsPrintable(char32_t code) {
  if (code < 0x7f) return code >= 0x20;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code))) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
      return false;
    default:
      return true;
  }
}

std::string Reversed(std::string_view text) {
  return {text.rbegin(), text.rend()};
}

// Words between whitespace, cut from the left. What is behind the last allowed cut keeps its inner whitespace.
std::vector<std::u32string> SplitWords(const std::u32string& text, int64_t limit) {
  std::vector<std::u32string> parts;
  size_t at = 0;
  for (;;) {
    while (at < text.size() && IsPythonSpace(text[at])) ++at;
    if (at == text.size()) return parts;
    if (limit >= 0 && static_cast<int64_t>(parts.size()) == limit) break;
    const size_t begin = at;
    while (at < text.size() && !IsPythonSpace(text[at])) ++at;
    parts.push_back(text.substr(begin, at - begin));
  }
  size_t end = text.size();
  while (end > at && IsPythonSpace(text[end - 1])) --end;
  parts.push_back(text.substr(at, end - at));
  return parts;
}

}  // namespace

int64_t CodePoints(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; });
}

std::vector<std::string> Characters(std::string_view text) {
  std::vector<std::string> characters;
  for (size_t at = 0; at < text.size();) {
    const size_t length = std::max<size_t>(1, DecodeUtf8(text, at).length);
    characters.emplace_back(text.substr(at, length));
    at += length;
  }
  return characters;
}

std::u32string ToCodePoints(std::string_view text) {
  std::u32string codes;
  codes.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const Utf8Char character = DecodeUtf8(text, at);
    codes += character.code;
    at += std::max<size_t>(1, character.length);
  }
  return codes;
}

std::string FromCodePoints(std::u32string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char32_t code : text) AppendUtf8(code, &out);
  return out;
}

bool IsPythonSpace(char32_t code) {
  if (code < 0x80) return code == ' ' || (code >= 9 && code <= 13) || (code >= 0x1c && code <= 0x1f);
  return code == 0x85 || code == 0xa0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 ||
         code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000;
}

std::string Upper(std::string_view text) {
  std::u32string out;
  for (const char32_t code : ToCodePoints(text)) AppendUpper(code, &out);
  return FromCodePoints(out);
}

std::string Lower(std::string_view text) {
  const std::u32string codes = ToCodePoints(text);
  std::u32string out;
  for (size_t i = 0; i < codes.size(); ++i) AppendLowerAt(codes, i, &out);
  return FromCodePoints(out);
}

std::string Capitalize(std::string_view text) {
  const std::u32string codes = ToCodePoints(text);
  std::u32string out;
  if (!codes.empty()) AppendTitle(codes[0], &out);
  for (size_t i = 1; i < codes.size(); ++i) AppendLowerAt(codes, i, &out);
  return FromCodePoints(out);
}

std::string Title(std::string_view text) {
  const std::u32string codes = ToCodePoints(text);
  std::u32string out;
  bool inside = false;
  for (size_t i = 0; i < codes.size(); ++i) {
    if (inside) {
      AppendLowerAt(codes, i, &out);
    } else {
      AppendTitle(codes[i], &out);
    }
    inside = IsCased(codes[i]);
  }
  return FromCodePoints(out);
}

std::string TitleFilter(std::string_view text) {
  const auto ends_word = [](char32_t code) {
    return code == '-' || code == '(' || code == '{' || code == '[' || code == '<' || IsPythonSpace(code);
  };
  const std::u32string codes = ToCodePoints(text);
  std::u32string out;
  for (size_t begin = 0; begin < codes.size();) {
    size_t end = begin + 1;
    while (end < codes.size() && ends_word(codes[end]) == ends_word(codes[begin])) ++end;
    const std::u32string word = codes.substr(begin, end - begin);
    AppendUpper(word[0], &out);
    const std::u32string rest = word.substr(1);
    for (size_t i = 0; i < rest.size(); ++i) AppendLowerAt(rest, i, &out);
    begin = end;
  }
  return FromCodePoints(out);
}

bool HasCase(std::string_view text, bool upper) {
  bool found = false;
  for (const char32_t code : ToCodePoints(text)) {
    if (IsTitlecase(code) || (upper ? IsLowercase(code) : IsUppercase(code))) return false;
    found = found || (upper ? IsUppercase(code) : IsLowercase(code));
  }
  return found;
}

std::string Strip(std::string_view text, const std::string* characters, Side side) {
  const std::u32string codes = ToCodePoints(text), set = characters == nullptr ? U"" : ToCodePoints(*characters);
  const auto goes = [&](char32_t code) {
    return characters == nullptr ? IsPythonSpace(code) : set.find(code) != set.npos;
  };
  size_t begin = 0, end = codes.size();
  while (side != Side::kRight && begin < end && goes(codes[begin])) ++begin;
  while (side != Side::kLeft && end > begin && goes(codes[end - 1])) --end;
  return FromCodePoints(std::u32string_view(codes).substr(begin, end - begin));
}

std::vector<std::string> Split(std::string_view text, const std::string* separator, int64_t limit, bool from_right) {
  std::vector<std::string> parts;
  if (from_right) {  // the mirror image, cut from the left
    std::string mirrored;
    if (separator == nullptr) {
      std::u32string codes = ToCodePoints(text);
      std::reverse(codes.begin(), codes.end());
      for (std::u32string& word : SplitWords(codes, limit)) {
        std::reverse(word.begin(), word.end());
        parts.push_back(FromCodePoints(word));
      }
    } else {  // the bytes of UTF-8 mirrored: only whole separators match
      const std::string reversed = Reversed(*separator);
      for (const std::string& part : Split(Reversed(text), &reversed, limit, false)) parts.push_back(Reversed(part));
    }
    std::reverse(parts.begin(), parts.end());
    return parts;
  }
  if (separator == nullptr) {
    for (const std::u32string& word : SplitWords(ToCodePoints(text), limit)) parts.push_back(FromCodePoints(word));
    return parts;
  }
  size_t at = 0;
  while (limit < 0 || static_cast<int64_t>(parts.size()) < limit) {
    const size_t found = text.find(*separator, at);
    if (found == text.npos) break;
    parts.emplace_back(text.substr(at, found - at));
    at = found + separator->size();
  }
  parts.emplace_back(text.substr(at));
  return parts;
}

std::vector<std::string> SplitLines(std::string_view text, bool keep_ends) {
  const std::u32string codes = ToCodePoints(text);
  std::vector<std::string> lines;
  for (size_t begin = 0; begin < codes.size();) {
    size_t end = begin;
    const auto breaks = [](char32_t c) {
      return (c >= 10 && c <= 13) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029;
    };
    while (end < codes.size() && !breaks(codes[end])) ++end;
    size_t next = end < codes.size() ? end + 1 : end;
    if (end + 1 < codes.size() && codes[end] == '\r' && codes[end + 1] == '\n') ++next;
    lines.push_back(FromCodePoints(std::u32string_view(codes).substr(begin, (keep_ends ? next : end) - begin)));
    begin = next;
  }
  return lines;
}

int64_t Occurrences(std::string_view text, std::string_view part) {
  if (part.empty()) return CodePoints(text) + 1;
  int64_t count = 0;
  for (size_t at = text.find(part); at != text.npos; at = text.find(part, at + part.size())) ++count;
  return count;
}

std::string Replace(std::string_view text, std::string_view from, std::string_view to, int64_t limit) {
  std::string out;
  size_t at = 0;
  if (from.empty()) {  // before every character and at the end
    int64_t done = 0;
    for (;;) {
      if (limit < 0 || done < limit) out += to;
      ++done;
      if (at >= text.size()) return out;
      const size_t length = std::max<size_t>(1, DecodeUtf8(text, at).length);
      out += text.substr(at, length);
      at += length;
    }
  }
  for (int64_t done = 0; limit < 0 || done < limit; ++done) {
    const size_t found = text.find(from, at);
    if (found == text.npos) break;
    out += text.substr(at, found - at);
    out += to;
    at = found + from.size();
  }
  return out += text.substr(at);
}

std::string ReprString(std::string_view text) {
  const bool single = text.find('\'') == text.npos || text.find('"') != text.npos;
  const char quote = single ? '\'' : '"';
  constexpr char kHex[] = "0123456789abcdef";
  std::string out(1, quote);
  const auto hex = [&](char32_t code, int digits) {
    for (int shift = 4 * (digits - 1); shift >= 0; shift -= 4) out += kHex[code >> shift & 15];
  };
  for (const char32_t code : ToCodePoints(text)) {
    if (code == static_cast<char32_t>(quote) || code == '\\') {
      out += '\\';
      out += static_cast<char>(code);
    } else if (code == '\n') {
      out += "\\n";
    } else if (code == '\r') {
      out += "\\r";
    } else if (code == '\t') {
      out += "\\t";
    } else if (IsPrintable(code)) {
      AppendUtf8(code, &out);
    } else if (code < 0x100) {
      out += "\\x";
      hex(code, 2);
    } else if (code < 0x10000) {
      out += "\\u";
      hex(code, 4);
    } else {
      out += "\\U";
      hex(code, 8);
    }
  }
  return out + quote;
}

std::string EscapeHtml(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '\'':
        out += "&#39;";
        break;
      case '"':
        out += "&#34;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

}  // namespace purekv::jinja
