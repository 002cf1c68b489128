// Case of code points as Python 3.11's str sees it (Unicode 14): the full mappings, where one letter may become three.
#pragma once

#include <string>

namespace purekv {

// Appends what `code` becomes. The final sigma is up to the caller: AppendLower gives the ordinary one.
void AppendUpper(char32_t code, std::u32string* out);
void AppendLower(char32_t code, std::u32string* out);
void AppendTitle(char32_t code, std::u32string* out);

bool IsLowercase(char32_t code);
bool IsUppercase(char32_t code);
bool IsTitlecase(char32_t code);
inline bool IsCased(char32_t code) {
  return IsLowercase(code) || IsUppercase(code) || IsTitlecase(code);
}

}  // namespace purekv
