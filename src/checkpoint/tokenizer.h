// Byte-level BPE tokenizer, as Hugging Face's tokenizers library runs it for the Qwen family.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace purekv {

class Tokenizer {
 public:
  // From `dir`/tokenizer.json, else vocab.json + merges.txt (+ tokenizer_config.json: added_tokens_decoder). A
  // component that is not implemented is refused by name. Throws Error.
  static std::unique_ptr<Tokenizer> Load(const std::string& dir);
  ~Tokenizer();

  // Ids of `text`; added tokens in the text become their ids. Throws Error (kUsage) on invalid UTF-8, naming the byte
  // offset.
  std::vector<int32_t> Encode(std::string_view text) const;
  // As Encode, but added tokens in the text are NOT recognised: every byte is ordinary text.
  std::vector<int32_t> EncodePlain(std::string_view text) const;
  // Text of ids; invalid byte sequences become U+FFFD, as Hugging Face does. Ids outside the vocabulary give nothing.
  std::string Decode(std::span<const int32_t> ids, bool skip_special) const;
  // Raw bytes of one id (may be part of a character); empty for skipped special tokens.
  std::string DecodeBytes(int32_t id, bool skip_special) const;
  // Id of an added or vocabulary token by its content.
  std::optional<int32_t> Find(std::string_view token) const;
  // The texts of all added tokens, as they stand in the files.
  const std::vector<std::string>& added_tokens() const;
  int64_t size() const;  // 1 + highest id

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Turns a stream of ids into text without ever ending inside a character.
class TextStream {
 public:
  explicit TextStream(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  // Text that is complete after this id.
  std::string Push(int32_t id);
  // What is left at the end, incomplete characters as U+FFFD.
  std::string Finish();

 private:
  const Tokenizer& tokenizer_;
  std::string pending_;
};

}  // namespace purekv
