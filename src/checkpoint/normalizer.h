// Unicode normalisation form C, as Hugging Face's tokenizers computes it.
#pragma once

#include <string>
#include <string_view>

namespace purekv {

// NFC of well-formed UTF-8, in time linear in the text (marks of one character: n log n).
std::string NormalizeNfc(std::string_view text);

}  // namespace purekv
