// Reading GGUF files, in which llama.cpp keeps a model: weights, sizes and tokenizer in one file.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "checkpoint/gguf_blocks.h"
#include "checkpoint/gguf_header.h"
#include "checkpoint/gguf_metadata.h"

namespace purekv {

// A file mapped read-only; its metadata by the getters of GgufMetadata. Views live as long as the file object.
class GgufFile : public GgufMetadata {
 public:
  // Throws Error naming the file, and key or tensor: see ParseGgufHeader. Types of tensors that are not readable are an
  // error only when the tensor is read.
  static std::shared_ptr<const GgufFile> Open(const std::string& path);
  GgufFile(const GgufFile&) = delete;
  GgufFile& operator=(const GgufFile&) = delete;

  const std::vector<GgufTensor>& tensors() const { return tensors_; }  // in the file's order
  const GgufTensor* Find(std::string_view name) const;                 // nullptr: not there
  // The tensor's blocks, row after row. Throws Error, naming file, tensor and type, when its type is not readable.
  std::span<const std::byte> Bytes(const GgufTensor& tensor) const;
  // They will not be read again soon: see MappedFile::DropPages.
  void DropPages(std::span<const std::byte> range) const;

 private:
  GgufFile(std::unique_ptr<MappedFile> file, GgufHeader header);

  std::unique_ptr<MappedFile> file_;
  std::vector<GgufTensor> tensors_;
  std::map<std::string_view, size_t> index_;  // name -> place in tensors_
};

// Whether `path` is a regular file that begins as a GGUF file does or is named so.
bool IsGgufPath(const std::string& path);

}  // namespace purekv
