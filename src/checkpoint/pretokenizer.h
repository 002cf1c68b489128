// Cuts text into the pieces that byte-pair encoding never merges across.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace purekv {

class Pretokenizer {
 public:
  virtual ~Pretokenizer() = default;
  // Appends the pieces of `text` (well-formed UTF-8), in order and without gaps. Throws Error when a rule takes too
  // long.
  virtual void Split(std::string_view text, std::vector<std::string_view>* pieces) const = 0;
};

// The rule of Qwen2 and later, as written in tokenizer.json.
extern const char kQwenPattern[];

// The hand-written twin of kQwenPattern: exact in every character of Unicode 16, and several times as fast as a regex.
std::unique_ptr<Pretokenizer> MakeQwenPretokenizer();

// Any other rule {"Split": {"Regex": pattern}, "Isolated"}. `where` is for messages. Throws Error when the pattern uses
// what Hugging Face's regex engine (Oniguruma) and ours (PCRE2) understand differently. Characters
// younger than PCRE2's Unicode are added to its classes.
std::unique_ptr<Pretokenizer> MakeRegexPretokenizer(const std::string& pattern, const std::string& where);

// Oniguruma's pattern in PCRE2's syntax. Throws Error naming what is not supported.
std::string TranslateRegex(const std::string& pattern, const std::string& where);

}  // namespace purekv
