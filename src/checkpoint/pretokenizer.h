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

// The rules of Qwen2 and later, of Llama 3, and of GPT-2 (ByteLevel with use_regex), as written in tokenizer.json.
extern const char kQwenPattern[];
extern const char kLlama3Pattern[];
extern const char kGpt2Pattern[];

// The hand-written twin of one of these patterns: exact in every character of Unicode 16, and several times as fast as
// a regex. Null: another pattern.
std::unique_ptr<Pretokenizer> MakeKnownPretokenizer(std::string_view pattern);

// Cuts out every number, \p{N}: Hugging Face's Digits. `individual`: character by character.
std::unique_ptr<Pretokenizer> MakeDigitsPretokenizer(bool individual);

// Cuts out every `literal` (not empty), from the left and without overlap. `with_previous`: it ends the piece before
// it instead, if that is no match itself (Hugging Face's MergedWithPrevious).
std::unique_ptr<Pretokenizer> MakeLiteralPretokenizer(std::string literal, bool with_previous);

// Cuts before every `literal` (Hugging Face's MergedWithNext): of Metaspace.
std::unique_ptr<Pretokenizer> MakeWordBeginPretokenizer(std::string literal);

// Any other rule {"Split": {"Regex": pattern}, "Isolated"}. `where` is for messages. Throws Error when the pattern uses
// what Hugging Face's regex engine (Oniguruma) and ours (PCRE2) understand differently. Characters
// younger than PCRE2's Unicode are added to its classes.
std::unique_ptr<Pretokenizer> MakeRegexPretokenizer(const std::string& pattern, const std::string& where);

// Oniguruma's pattern in PCRE2's syntax. Throws Error naming what is not supported.
std::string TranslateRegex(const std::string& pattern, const std::string& where);

}  // namespace purekv
