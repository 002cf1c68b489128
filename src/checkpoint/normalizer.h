// What happens to text before it is cut into pieces, as Hugging Face's tokenizers does it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace purekv {

// Unicode normalisation form C of well-formed UTF-8, in time linear in the text (marks of one character: n log n).
std::string NormalizeNfc(std::string_view text);

struct NormalizerStep {
  enum class Kind {
    kNfc,
    kPrepend,  // `to` before a text that is not empty
    kReplace,  // every `from` (not empty) becomes `to`, from the left, without overlap
  };
  Kind kind = Kind::kNfc;
  std::string from, to;
};

// The steps one after the other, on well-formed UTF-8. Linear, but for what replacing makes longer.
std::string Normalize(const std::vector<NormalizerStep>& steps, std::string_view text);

// kReplace alone.
std::string ReplaceAll(std::string_view text, std::string_view from, std::string_view to);

}  // namespace purekv
