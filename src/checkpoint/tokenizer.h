// Text to token ids and back, as Hugging Face's tokenizers library does it: byte-level BPE (Qwen, Llama 3, SmolLM2,
// GPT-2) and BPE over characters with byte fallback (Llama 2, Gemma), by merges or by SentencePiece's scores.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace purekv {

struct TokenizerParts;

class Tokenizer {
 public:
  // From `dir`/tokenizer.json, else vocab.json + merges.txt, else tokenizer.model (each with tokenizer_config.json:
  // added_tokens_decoder). A component that is not implemented is refused by name. Throws Error.
  static std::unique_ptr<Tokenizer> Load(const std::string& dir);
  // Whether `dir` has any of these files.
  static bool Exists(const std::string& dir);
  // From parts that were read elsewhere (gguf_tokenizer.h). Throws Error naming their path.
  static std::unique_ptr<Tokenizer> FromParts(TokenizerParts parts);
  ~Tokenizer();

  // Ids of `text`; added tokens in the text become their ids, and none is added (a chat template writes what it wants).
  // Throws Error (kUsage) on invalid UTF-8, naming the byte offset.
  std::vector<int32_t> Encode(std::string_view text) const;
  // As Encode, but added tokens in the text are NOT recognised: every byte is ordinary text.
  std::vector<int32_t> EncodePlain(std::string_view text) const;
  // What Hugging Face puts before and behind a text that no chat template has written ("add_special_tokens").
  const std::vector<int32_t>& before_text() const;
  const std::vector<int32_t>& after_text() const;
  // Text of ids; invalid byte sequences become U+FFFD, as Hugging Face does. Ids outside the vocabulary give nothing.
  // Where the file's decoder says so, one space where the text begins is left out.
  std::string Decode(std::span<const int32_t> ids, bool skip_special) const;
  // Raw bytes of one id (may be part of a character); empty for skipped special tokens.
  std::string DecodeBytes(int32_t id, bool skip_special) const;
  // Id of an added or vocabulary token by its content.
  std::optional<int32_t> Find(std::string_view token) const;
  // The texts of all added tokens, as they stand in the files.
  const std::vector<std::string>& added_tokens() const;
  int64_t size() const;  // 1 + highest id

 private:
  friend class TextStream;
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Turns a stream of ids into text without ever ending inside a character: all that it gives, put together, is what
// Tokenizer::Decode gives.
class TextStream {
 public:
  explicit TextStream(const Tokenizer& tokenizer, bool skip_special = true)
      : tokenizer_(tokenizer), skip_special_(skip_special) {}
  // Text that is complete after this id.
  std::string Push(int32_t id);
  // What is left at the end, incomplete characters as U+FFFD.
  std::string Finish();

 private:
  std::string TakeByteTokens();           // as text
  std::string Strip(std::string&& text);  // takes away what the decoder does not want where the text begins

  const Tokenizer& tokenizer_;
  bool skip_special_;
  std::string pending_;  // byte-level: the beginning of a character; else: bytes of byte tokens in a row
  size_t stripped_ = 0;  // characters taken away so far
  bool strip_ended_ = false;
};

}  // namespace purekv
