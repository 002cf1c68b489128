// Unicode classes as Hugging Face's tokenizers sees them (Oniguruma's tables, Unicode 16), whatever the Unicode version
// of the libraries here.
#pragma once

#include <optional>
#include <span>
#include <string_view>

namespace purekv {

struct CodeRange {
  char32_t first;
  char32_t last;
};

std::span<const CodeRange> LetterRanges();  // \p{L}
std::span<const CodeRange> NumberRanges();  // \p{N}
// Characters younger than Hugging Face's NFC tables (Unicode 9): it leaves them where they are, later tables would move
// or compose them.
std::span<const CodeRange> InertRanges();
// The characters of \p{property} that Unicode 14 (PCRE2 10.42) does not know; nullopt: no table for this property.
std::optional<std::span<const CodeRange>> YoungRanges(std::string_view property);

bool Contains(std::span<const CodeRange> ranges, char32_t code);  // ranges are sorted

inline bool IsLetter(char32_t code) {
  if (code < 0x80) return (code >= 'a' && code <= 'z') || (code >= 'A' && code <= 'Z');
  return Contains(LetterRanges(), code);
}
inline bool IsNumber(char32_t code) {
  if (code < 0x80) return code >= '0' && code <= '9';
  return Contains(NumberRanges(), code);
}
// \s: White_Space.
inline bool IsSpace(char32_t code) {
  if (code < 0x80) return code == ' ' || (code >= 9 && code <= 13);
  return code == 0x85 || code == 0xa0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 ||
         code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000;
}

}  // namespace purekv
