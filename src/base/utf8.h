// UTF-8: decoding, checking, and the repair of broken sequences that Rust's from_utf8_lossy (and so Hugging Face) does.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace purekv {

struct Utf8Char {
  char32_t code = 0;
  size_t length = 0;  // bytes; 0: not well-formed at this place
};

// The character that begins at text[at], at < text.size().
Utf8Char DecodeUtf8(std::string_view text, size_t at);
// Offset of the first byte that is not part of well-formed UTF-8; npos when all is.
size_t FirstInvalidUtf8(std::string_view text);
void AppendUtf8(char32_t code, std::string* out);

// Appends `bytes` to `out`; each maximal ill-formed part becomes one U+FFFD (Unicode 3.9, "substitution of maximal
// subparts"). `final` false: a well-formed but unfinished character at the end is left alone. Returns the bytes used
// up.
size_t AppendLossyUtf8(std::string_view bytes, bool final, std::string* out);

}  // namespace purekv
