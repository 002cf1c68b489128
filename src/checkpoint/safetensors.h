// Reading the safetensors format (https://github.com/huggingface/safetensors, format section of its README): one file,
// and a published checkpoint directory of one or more files.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "checkpoint/tensor_source.h"

namespace purekv {

// One tensor of one file's header.
struct SafetensorsEntry {
  std::string dtype;  // as written: "BF16"
  Shape shape;
  uint64_t begin = 0;  // relative to the data section
  uint64_t end = 0;
};

// Checks a whole header: sizes, overflow, holes, overlaps, duplicate names, types. `bytes` is the file's start (at
// least the header), `file_size` its full length, `path` for messages. Throws Error. Returns entries by name and the
// data section's offset. metadata: may be null; gets the strings of __metadata__.
std::map<std::string, SafetensorsEntry> ParseSafetensorsHeader(std::span<const std::byte> bytes, uint64_t file_size,
                                                               const std::string& path, uint64_t* data_offset,
                                                               std::map<std::string, std::string>* metadata = nullptr);

// One tensor as it is stored, whatever its type.
struct RawTensor {
  std::string name;   // in the file
  std::string dtype;  // as written: "I32"
  Shape shape;
  std::span<const std::byte> bytes;  // as many as dtype and shape need, where the dtype is known; any alignment
  std::shared_ptr<const void> hold;  // of the bytes
};

class SafetensorsSource : public TensorSource {
 public:
  // By published name. nullopt: not there.
  virtual std::optional<RawTensor> FindRaw(const std::string& name) const = 0;
};

// `dir`/model.safetensors, or the files of `dir`/model.safetensors.index.json. Tensor names are normalised to the
// published ones: model.language_model.* and language_model.model.* -> model.*, model.visual.* -> visual.*,
// language_model.lm_head.* -> lm_head.*, model.vision_tower.{vision_model,embeddings,encoder}.* and
// model.multi_modal_projector.* without "model.". Throws Error naming file and tensor. Unsupported dtypes are an error
// only when the tensor is read as numbers.
std::unique_ptr<SafetensorsSource> OpenSafetensors(const std::string& dir);

// Every tensor of the files of OpenSafetensors(dir), by published name. Throws Error.
std::vector<StoredTensorInfo> ListSafetensors(const std::string& dir);

}  // namespace purekv
