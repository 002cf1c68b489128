// The header of a GGUF file (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): metadata, and where each
// tensor lies.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/gguf_blocks.h"
#include "checkpoint/gguf_metadata.h"
#include "checkpoint/tensor_source.h"

namespace purekv {

struct GgufTensor {
  std::string name;                // in the file: "blk.0.attn_q.weight"
  Shape shape;                     // outermost first, as Hugging Face writes it: [out, in]
  GgmlType type = GgmlType::kF32;  // as in the file; may be none of the list
  uint64_t offset = 0;             // from the beginning of the file
  uint64_t bytes = 0;              // 0 where the type's size is not known
};

struct GgufHeader {
  uint32_t version = 0;
  GgufMetadata metadata;
  std::vector<GgufTensor> tensors;  // in the file's order
};

// Checks a whole header: sizes, overflow, duplicate names, types, that the tensors lie inside the file, aligned and
// without overlap. What passes can be read without any further look at offsets. `bytes` is the whole file, `path` for
// messages; metadata points into `bytes`. Versions 2 and 3, little-endian, a model in one file; others are refused by
// name. Allocates no more than the header's own bytes justify. Throws Error.
GgufHeader ParseGgufHeader(std::span<const std::byte> bytes, const std::string& path);

}  // namespace purekv
