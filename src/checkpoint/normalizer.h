// What happens to text before it is cut into pieces, as Hugging Face's tokenizers does it.
#pragma once

#include <cstddef>
#include <cstdint>
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

// The steps one after the other, on well-formed UTF-8. Throws Error when they make it more than 16 times as long: the
// steps are a file's, and each may multiply what the one before has left.
std::string Normalize(const std::vector<NormalizerStep>& steps, std::string_view text);

// kReplace alone. Throws Error beyond `at_most` bytes.
std::string ReplaceAll(std::string_view text, std::string_view from, std::string_view to, size_t at_most = SIZE_MAX);
size_t MostNormalized(size_t bytes);  // what Normalize may make of a text of so many bytes

}  // namespace purekv
